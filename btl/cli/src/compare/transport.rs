//! Transports by the names a user of `mpirun` knows, and the MCA settings that select each.

use crate::open_mpi::Report;
use serde::Serialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// MCA parameters and their values.
pub(super) type Settings = BTreeMap<&'static str, String>;

/// One transport of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Transport {
    /// The name it was asked for by.
    pub(super) name: String,
    /// MCA parameters and their values.
    pub(super) settings: Settings,
    /// What the benchmark is told besides.
    pub(super) arguments: &'static [&'static str],
}

/// Why a name selects nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum TransportError {
    #[error("{name} is no transport that can be compared here; there are {offered}{hint}")]
    NotOffered { name: String, offered: String, hint: &'static str },
    #[error("{name} is named twice in --btl")]
    Twice { name: String },
}

/// PMLs that can be compared whole. They bring their own transports and ask no BTL. Debian's defaults restrict UCX to
/// the devices it knows, so that any is asked for.
const PML_TRANSPORTS: [(&str, &[(&str, &str)]); 1] =
    [("ucx", &[("pml", "ucx"), ("osc", "ucx"), ("pml_ucx_tls", "any"), ("pml_ucx_devices", "any")])];

/// What Ironband's own benchmarks can measure instead of MPI, and how they are told so.
const OWN: [(&str, &[&str]); 2] = [("rust", &["--impl", "ironband"]), ("line", &["--impl", "line"])];

/// Finds every name in what there is: a BTL, `ucx`, or one of [`OWN`].
pub(super) fn select(names: &[String], report: &Report) -> Result<Vec<Transport>, TransportError> {
    let mut transports: Vec<Transport> = Vec::new();
    for name in names {
        if transports.iter().any(|transport| transport.name == *name) {
            return Err(TransportError::Twice { name: name.clone() });
        }
        if let Some((_, arguments)) = OWN.iter().find(|(own, _)| own == name) {
            transports.push(Transport { name: name.clone(), settings: Settings::new(), arguments });
            continue;
        }
        let settings = settings_of(name, report).ok_or_else(|| TransportError::NotOffered {
            name: name.clone(),
            offered: offered(report).join(", "),
            hint: if name == "ironband" { " (`ironband doctor` says why)" } else { "" },
        })?;
        transports.push(Transport { name: name.clone(), settings, arguments: &[] });
    }
    Ok(transports)
}

fn settings_of(name: &str, report: &Report) -> Option<Settings> {
    if !offered(report).contains(&name) {
        return None;
    }
    if let Some((_, settings)) = PML_TRANSPORTS.iter().find(|(pml, _)| *pml == name) {
        return Some(settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect());
    }
    // Where another PML outranks ob1, no BTL would be asked and every name would measure the same.
    Some(Settings::from([("pml", "ob1".to_owned()), ("btl", format!("{name},self"))]))
}

fn offered(report: &Report) -> Vec<&str> {
    // `self` carries what a rank sends to itself: with every BTL, and to nobody else.
    let mut names: Vec<&str> = report.components("btl").into_iter().filter(|name| *name != "self").collect();
    let pmls = report.components("pml");
    names.extend(PML_TRANSPORTS.iter().map(|(name, _)| *name).filter(|name| pmls.contains(name)));
    names.extend(OWN.iter().map(|(name, _)| *name));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(components: &[&str]) -> Report {
        let lines: String =
            components.iter().map(|name| format!("mca:{name}:version:\"api:1.0.0\"\n")).collect();
        Report::new(lines, "")
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn selected(list: &[&str]) -> Result<Vec<Transport>, TransportError> {
        select(&names(list), &report(&["btl:self", "btl:vader", "btl:tcp", "pml:ob1", "pml:ucx"]))
    }

    #[test]
    fn a_btl_comes_with_self_and_ob1() {
        let want = Settings::from([("pml", "ob1".into()), ("btl", "vader,self".into())]);
        assert_eq!(selected(&["vader"]).unwrap()[0].settings, want);
    }

    #[test]
    fn ucx_is_a_pml_with_every_device() {
        let settings = &selected(&["tcp", "ucx"]).unwrap()[1].settings;
        assert_eq!(settings["pml"], "ucx");
        assert_eq!(settings["pml_ucx_tls"], "any");
        assert!(!settings.contains_key("btl"));
    }

    #[test]
    fn rust_and_line_are_told_to_the_benchmark() {
        let transports = selected(&["rust", "vader", "line"]).unwrap();
        let arguments: Vec<_> = transports.iter().map(|transport| transport.arguments).collect();
        assert_eq!(arguments, [&["--impl", "ironband"][..], &[], &["--impl", "line"]]);
        assert!(transports[0].settings.is_empty());
    }

    #[test]
    fn what_open_mpi_does_not_offer_is_refused_with_what_it_does() {
        let message = selected(&["vader", "openib"]).unwrap_err().to_string();
        assert!(
            message.contains("openib is no transport")
                && message.contains("there are vader, tcp, ucx, rust, line"),
            "{message}"
        );
        assert!(selected(&["self"]).is_err());
        assert!(selected(&["ob1"]).is_err());
        assert!(selected(&["ironband"]).unwrap_err().to_string().contains("ironband doctor"));
        let without_ucx = report(&["btl:tcp", "pml:ob1"]);
        assert!(select(&names(&["ucx"]), &without_ucx).is_err());
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        assert_eq!(selected(&["tcp", "tcp"]), Err(TransportError::Twice { name: "tcp".into() }));
    }
}
