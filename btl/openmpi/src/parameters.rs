//! From what the user set to a checked [`Config`].
//!
//! Each entry of the parameter table is both an MCA parameter (`btl_ironband_NAME`) and an environment variable
//! (`IRONBAND_NAME`); the MCA parameter wins. A refusal names the value, the range and the parameter, spelled as the
//! user would spell it.

use ironband_core::config::{Config, ConfigError, PARAMETERS, Parameter};

/// The name by which Open MPI's users know one of our parameters from every other BTL. It is a synonym, not a
/// parameter of its own: the generic registration of the BTL framework (`mca_btl_base_param_register`) is not
/// called, because it would add some fifteen more names, most of them without a meaning here and two of them
/// (`exclusivity`, `eager_limit`) second names for our own, free to disagree with them.
pub(crate) const SYNONYMS: [(&str, &str); 1] = [("eager_bytes", "eager_limit")];

/// The full name of an MCA parameter.
pub(crate) fn mca_name(name: &str) -> String {
    format!("btl_{}_{name}", crate::COMPONENT_NAME)
}

/// The sentence `ompi_info` shows: the table's, with the range.
pub(crate) fn help(parameter: &Parameter) -> String {
    format!("{} Accepted: {}.", parameter.help, parameter.range())
}

/// Puts the configuration together. `mca` gives the text of an MCA parameter that the user set anywhere (command line,
/// `OMPI_MCA_*`, parameter file), `environment` that of an environment variable.
///
/// # Errors
/// One sentence for the user about the first value that is refused.
pub(crate) fn configure(
    mca: impl Fn(&Parameter) -> Option<String>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Config, String> {
    let mut config = Config::default();
    for parameter in &PARAMETERS {
        let (spelled, text) = if let Some(text) = mca(parameter) {
            (mca_name(parameter.name), text)
        } else if let Some(text) = environment(&parameter.environment_name()) {
            (parameter.environment_name(), text)
        } else {
            continue;
        };
        config.set(parameter.name, &text).map_err(|error| explain(error, &spelled))?;
    }
    config.check().map_err(|error| explain(error, ""))?;
    Ok(config)
}

/// The table's own message, but with full names.
fn explain(error: ConfigError, spelled: &str) -> String {
    match error {
        ConfigError::Refused { value, range, .. } => {
            format!("{spelled} = {value:?} is refused: it must be {range}")
        }
        ConfigError::Malformed { value, reason, .. } => {
            format!("{spelled} = {value:?} is refused: {reason}")
        }
        ConfigError::Conflict { name, value, other, other_value, rule } => format!(
            "{} = {value} is refused with {} = {other_value}: {rule}",
            mca_name(name),
            mca_name(other)
        ),
        ConfigError::Unknown(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn only<'a>(name: &'a str, text: &'a str) -> impl Fn(&Parameter) -> Option<String> + 'a {
        move |parameter| (parameter.name == name).then(|| text.to_owned())
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        assert_eq!(configure(|_| None, nothing), Ok(Config::default()));
    }

    #[test]
    fn an_mca_parameter_wins_over_the_environment() {
        let environment = |name: &str| (name == "IRONBAND_CONNECT_SECONDS").then(|| "7".to_owned());
        assert_eq!(configure(|_| None, environment).expect("fits").connect_seconds, 7);
        assert_eq!(configure(only("connect_seconds", "8"), environment).expect("fits").connect_seconds, 8);
    }

    #[test]
    fn a_refusal_names_the_parameter_as_the_user_wrote_it() {
        let message = configure(only("eager_bytes", "12x"), nothing).expect_err("not a number");
        assert!(
            message
                .starts_with("btl_ironband_eager_bytes = \"12x\" is refused: it must be auto, or 1024 to "),
            "{message}"
        );
        let environment = |name: &str| (name == "IRONBAND_SINGLE_COPY").then(|| "knem".to_owned());
        let message = configure(|_| None, environment).expect_err("no such word");
        assert_eq!(message, "IRONBAND_SINGLE_COPY = \"knem\" is refused: it must be auto, cma, ring");
        let message = configure(only("ports", "rxe0:0"), nothing).expect_err("counted from 1");
        assert!(message.starts_with("btl_ironband_ports = \"rxe0:0\" is refused: "), "{message}");
    }

    #[test]
    fn a_conflict_names_both_parameters() {
        let short_ring = |name: &str| (name == "IRONBAND_RING_BYTES").then(|| "256K".to_owned());
        let message = configure(only("eager_bytes", "100K"), short_ring).expect_err("too long for the ring");
        assert!(message.contains("btl_ironband_eager_bytes = "), "{message}");
        assert!(message.contains("with btl_ironband_ring_bytes = 262144"), "{message}");
    }

    #[test]
    fn synonyms_are_of_parameters_and_are_not_parameters() {
        for (name, synonym) in SYNONYMS {
            assert!(PARAMETERS.iter().any(|parameter| parameter.name == name), "{name}");
            assert!(PARAMETERS.iter().all(|parameter| parameter.name != synonym), "{synonym}");
        }
    }
}
