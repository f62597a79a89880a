//! The answer of `ompi_info --all --parsable`: one `key:key:...:value` per line, values with colons in quotes.

use serde::Serialize;
use std::collections::BTreeSet;

/// What `ompi_info` printed, and the components it said it could not load.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    text: String,
    load_errors: Vec<String>,
}

/// The value of an MCA parameter in effect, and where it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Parameter {
    /// The value; empty when the parameter is a string that nobody set.
    pub(crate) value: String,
    /// `default`, `environment`, `command line`, or `file (...)`.
    pub(crate) source: String,
}

impl Report {
    /// Takes what `ompi_info` wrote to standard output and to standard error.
    pub(crate) fn new(stdout: String, stderr: &str) -> Self {
        let load_errors = stderr
            .lines()
            .filter(|line| line.contains("mca_base_component_repository_open"))
            .map(|line| without_origin(line).to_owned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        Self { text: stdout, load_errors }
    }

    /// The value of the line that starts with `key`.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(unquoted)
    }

    /// Open MPI's version.
    pub(crate) fn version(&self) -> Option<&str> {
        self.value("ompi:version:full")
    }

    /// Whether this build of Open MPI can load components at all.
    pub(crate) fn loads_components(&self) -> bool {
        self.value("option:dlopen") != Some("no")
            && self
                .parameter("mca", "base", "mca_base_component_disable_dlopen")
                .is_none_or(|p| p.value != "true")
    }

    /// The names of the components of a framework that Open MPI loaded, in its order.
    pub(crate) fn components(&self, framework: &str) -> Vec<&str> {
        let prefix = format!("mca:{framework}:");
        let mut names: Vec<&str> = Vec::new();
        for rest in self.text.lines().filter_map(|line| line.strip_prefix(prefix.as_str())) {
            if let Some((name, tail)) = rest.split_once(':')
                && tail.starts_with("version:")
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        names
    }

    /// How many parameters a component registered.
    pub(crate) fn parameter_count(&self, framework: &str, component: &str) -> usize {
        let prefix = format!("mca:{framework}:{component}:param:");
        let names: BTreeSet<_> = self
            .text
            .lines()
            .filter_map(|line| line.strip_prefix(prefix.as_str())?.split_once(':'))
            .map(|(name, _)| name)
            .collect();
        names.len()
    }

    /// A parameter in effect.
    pub(crate) fn parameter(&self, framework: &str, component: &str, name: &str) -> Option<Parameter> {
        let key = format!("mca:{framework}:{component}:param:{name}");
        let value = self.value(&format!("{key}:value"))?.to_owned();
        let source = self.value(&format!("{key}:source")).unwrap_or("unknown").to_owned();
        Some(Parameter { value, source })
    }

    /// The folders that Open MPI searches for components, in order.
    pub(crate) fn component_folders(&self) -> Vec<String> {
        let Some(path) = self.parameter("mca", "base", "mca_base_component_path") else { return Vec::new() };
        let home = std::env::var("HOME").unwrap_or_default();
        let user = format!("{home}/.openmpi/components");
        let system = self.value("path:pkglibdir").unwrap_or_default();
        path.value
            .split(':')
            .filter(|folder| !folder.is_empty())
            .map(|folder| match folder {
                "USER_DEFAULT" | "USR_DEFAULT" => user.clone(),
                "SYSTEM_DEFAULT" | "SYS_DEFAULT" => system.to_owned(),
                other => other.to_owned(),
            })
            .collect()
    }

    /// The complaints about components that Open MPI found and could not load.
    pub(crate) fn load_errors(&self) -> &[String] {
        &self.load_errors
    }
}

/// Takes the `[host:pid]` off a line that Open MPI logged.
fn without_origin(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, message)) => message.trim(),
        None => line.trim(),
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"package:Debian OpenMPI
ompi:version:full:4.1.4
path:pkglibdir:/usr/lib/openmpi3
option:dlopen:yes
mca:btl:tcp:version:"mca:2.1.0"
mca:btl:tcp:version:"api:3.1.0"
mca:btl:vader:version:"mca:2.1.0"
mca:btl:base:param:btl:value:^uct,openib,ofi
mca:btl:base:param:btl:source:file (/etc/openmpi/openmpi-mca-params.conf:68)
mca:btl:vader:param:btl_vader_a:value:8
mca:btl:vader:param:btl_vader_a:source:default
mca:btl:vader:param:btl_vader_b:value:9
mca:mca:base:param:mca_base_component_path:value:"/mine:SYSTEM_DEFAULT:/usr/lib/other"
mca:mca:base:param:mca_base_component_path:source:environment
mca:mca:base:param:mca_base_component_disable_dlopen:value:false
"#;

    fn report() -> Report {
        Report::new(ANSWER.to_owned(), "")
    }

    #[test]
    fn components_are_named_once_and_without_the_base() {
        assert_eq!(report().components("btl"), ["tcp", "vader"]);
        assert_eq!(report().components("pml"), Vec::<&str>::new());
        assert_eq!(report().parameter_count("btl", "vader"), 2);
    }

    #[test]
    fn parameters_carry_their_source() {
        let selection = report().parameter("btl", "base", "btl").unwrap();
        assert_eq!(selection.value, "^uct,openib,ofi");
        assert_eq!(selection.source, "file (/etc/openmpi/openmpi-mca-params.conf:68)");
        assert_eq!(report().parameter("pml", "base", "pml"), None);
    }

    #[test]
    fn the_search_path_is_split_and_its_words_are_replaced() {
        assert_eq!(report().component_folders(), ["/mine", "/usr/lib/openmpi3", "/usr/lib/other"]);
    }

    #[test]
    fn a_build_without_dlopen_is_noticed() {
        assert!(report().loads_components());
        let built_without = ANSWER.replace("option:dlopen:yes", "option:dlopen:no");
        assert!(!Report::new(built_without, "").loads_components());
        let switched_off = ANSWER.replace("disable_dlopen:value:false", "disable_dlopen:value:true");
        assert!(!Report::new(switched_off, "").loads_components());
    }

    #[test]
    fn load_errors_lose_host_and_process_and_repetition() {
        let complaint =
            "mca_base_component_repository_open: unable to open mca_btl_ironband: x.so: undefined symbol: y";
        let stderr = format!("[vm:1] {complaint}\nsomething else\n[vm:2] {complaint}\n");
        assert_eq!(Report::new(String::new(), &stderr).load_errors(), [complaint]);
    }
}
