//! The variables that a launcher sets, taken once, so that everything that is decided by them is a pure function.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::Reason;

/// A snapshot of environment variables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process. What is not Unicode no launcher has set.
    pub(crate) fn of_this_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The value of a variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn has_prefix(&self, prefix: &str) -> bool {
        self.0.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The number in a variable, if it is set.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Reason> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|_| {
            Reason::Environment(format!(
                "{name}={value:?} is not a number in range; unset it or set it right"
            ))
        })
    }

    /// The number in a variable that must be there because of another one, which `because` names.
    pub(crate) fn required<T: FromStr>(&self, name: &str, because: &str) -> Result<T, Reason> {
        self.number(name)?.ok_or_else(|| Reason::Environment(format!("{because} is set, and {name} is not")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_unset_and_nonsense_is_named() {
        let environment = Environment::of(&[("PMI_RANK", ""), ("PMI_SIZE", "four"), ("PMI_ID", " 3 ")]);
        assert!(!environment.has("PMI_RANK"));
        assert!(environment.has_prefix("PMI_I") && !environment.has_prefix("PMIX_"));
        assert_eq!(environment.number::<u32>("PMI_ID"), Ok(Some(3)));
        let reason = environment.number::<u32>("PMI_SIZE").unwrap_err().to_string();
        assert!(reason.contains("PMI_SIZE=\"four\""), "{reason}");
        let reason = environment.required::<u32>("PMI_RANK", "PMI_FD").unwrap_err().to_string();
        assert_eq!(reason, "PMI_FD is set, and PMI_RANK is not");
    }
}
