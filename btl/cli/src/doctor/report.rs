//! What `doctor` has to say: one line per check, and the same as JSON.

use super::facts::Facts;
use serde::Serialize;
use std::fmt::Write;

/// How a check came out; a later one outweighs an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// It works, worse than it could, or only with an option that the fix names.
    Warning,
    /// A job over Ironband would not start.
    Failure,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// A stable name for programs.
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) value: String,
    /// What to do about it.
    pub(crate) fix: Option<String>,
}

impl Check {
    pub(crate) fn ok(id: &'static str, value: impl Into<String>) -> Self {
        Self { id, level: Level::Ok, value: value.into(), fix: None }
    }

    pub(crate) fn warning(id: &'static str, value: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, level: Level::Warning, value: value.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn failure(id: &'static str, value: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, level: Level::Failure, value: value.into(), fix: Some(fix.into()) }
    }
}

/// The worst of all levels.
pub(crate) fn verdict(checks: &[Check]) -> Level {
    checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
}

/// The report for a person.
pub(crate) fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failure => "failure",
        };
        let _ = writeln!(out, "{level:<8} {:<width$}  {}", check.id, check.value);
        if let Some(fix) = &check.fix {
            let _ = writeln!(out, "{:8} {:width$}  fix: {fix}", "", "");
        }
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let _ = writeln!(
        out,
        "{} checks: {} ok, {} warnings, {} failures",
        checks.len(),
        count(Level::Ok),
        count(Level::Warning),
        count(Level::Failure)
    );
    out
}

/// The report for a program: the checks, and the facts they were judged by.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    /// The name and version of this form.
    pub(crate) format: &'static str,
    pub(crate) verdict: Level,
    pub(crate) checks: &'a [Check],
    pub(crate) facts: &'a Facts,
}

impl<'a> Document<'a> {
    pub(crate) fn new(checks: &'a [Check], facts: &'a Facts) -> Self {
        Self { format: "ironband-doctor/1", verdict: verdict(checks), checks, facts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_level_is_the_verdict() {
        assert_eq!(verdict(&[]), Level::Ok);
        let checks = [Check::ok("a", "1"), Check::failure("b", "2", "3"), Check::warning("c", "4", "5")];
        assert_eq!(verdict(&checks), Level::Failure);
    }

    #[test]
    fn every_line_has_level_name_value_and_fix() {
        let checks = [Check::ok("first", "fine"), Check::warning("second-one", "low", "raise it")];
        let want = "ok       first       fine\n\
                    warning  second-one  low\n                     fix: raise it\n\
                    2 checks: 1 ok, 1 warnings, 0 failures\n";
        assert_eq!(text(&checks), want);
    }
}
