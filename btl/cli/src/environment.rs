//! The parameters that the environment sets (`IRONBAND_*`).

use ironband::Config;
use ironband::config::{ConfigError, PARAMETERS, Parameter};

/// The configuration that a process with this environment would have.
pub(crate) fn config() -> Result<Config, ConfigError> {
    Config::from_environment(lookup)
}

/// The parameters that are set, whatever their values.
pub(crate) fn settings() -> Vec<&'static Parameter> {
    PARAMETERS.iter().filter(|parameter| lookup(&parameter.environment_name()).is_some()).collect()
}

/// Bytes that are no text are kept, as a sign that no parameter accepts: leaving them out would hide a mistake.
fn lookup(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
