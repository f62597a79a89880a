//! The parameter table with the values in force.

use crate::environment;
use ironband::config::{Config, Kind, PARAMETERS, Parameter};
use serde::Serialize;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ParameterInfo {
    pub(crate) name: &'static str,
    pub(crate) environment_name: String,
    pub(crate) mca_name: String,
    pub(crate) value: Value,
    pub(crate) default: Value,
    /// Whether the environment sets it.
    pub(crate) from_environment: bool,
    /// The accepted values, for a person.
    pub(crate) range: String,
    #[serde(flatten)]
    pub(crate) accepted: Accepted,
    /// Of numbers; empty for plain counts and words.
    pub(crate) unit: &'static str,
    pub(crate) help: &'static str,
}

/// A number, a word or a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Number(u64),
    Word(&'static str),
    Text(String),
}

/// What a parameter accepts, for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Accepted {
    Numbers { auto: bool, min: u64, max: u64 },
    Words { words: &'static [&'static str] },
    Form { form: &'static str },
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// All entries, in the table's order.
pub(crate) fn all(config: &Config) -> Vec<ParameterInfo> {
    let (set, defaults) = (environment::settings(), Config::default());
    PARAMETERS
        .iter()
        .map(|parameter| ParameterInfo {
            name: parameter.name,
            environment_name: parameter.environment_name(),
            mca_name: format!("btl_ironband_{}", parameter.name),
            value: value(config, parameter),
            default: value(&defaults, parameter),
            from_environment: set.iter().any(|other| other.name == parameter.name),
            range: parameter.range(),
            accepted: match parameter.kind {
                Kind::Number { min, max, .. } => Accepted::Numbers { auto: false, min, max },
                Kind::NumberOrAuto { min, max } => Accepted::Numbers { auto: true, min, max },
                Kind::Word { of, .. } => Accepted::Words { words: of },
                Kind::Text { form, .. } => Accepted::Form { form },
            },
            unit: parameter.unit,
            help: parameter.help,
        })
        .collect()
}

fn value(config: &Config, parameter: &Parameter) -> Value {
    Value::Number(match parameter.name {
        "exclusivity" => config.exclusivity.into(),
        "eager_bytes" => return number_or_auto(config.eager_bytes.map(|bytes| bytes as u64)),
        "ring_bytes" => return number_or_auto(config.ring_bytes.map(|bytes| bytes as u64)),
        "memory_bytes" => config.memory_bytes as u64,
        "registration_bytes" => return number_or_auto(config.registration_bytes.map(|bytes| bytes as u64)),
        "registration_cache" => return Value::Word(config.registration_cache.as_str()),
        "connect_seconds" => config.connect_seconds,
        "fabrics" => {
            let names: Vec<&str> = config.fabrics.iter().map(|fabric| fabric.as_str()).collect();
            return Value::Text(names.join(","));
        }
        "single_copy" => return Value::Word(config.single_copy.as_str()),
        "connect" => return Value::Word(config.connect.as_str()),
        "ports" if config.ports.text().is_empty() => return Value::Word("all"),
        "ports" => return Value::Text(config.ports.text().to_owned()),
        "gid_index" => return number_or_auto(config.gid_index.map(u64::from)),
        other => unreachable!("parameter {other} is not listed here: a test looks at each"),
    })
}

fn number_or_auto(number: Option<u64>) -> Value {
    number.map_or(Value::Word("auto"), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_shows_its_own_value() {
        for parameter in &PARAMETERS {
            let mut config = Config::default();
            assert_eq!(value(&config, parameter).to_string(), parameter.default_text());
            let other = match parameter.kind {
                Kind::Number { max, .. } | Kind::NumberOrAuto { max, .. } => max.to_string(),
                Kind::Word { of, .. } => of[of.len() - 1].to_owned(),
                Kind::Text { .. } if parameter.name == "fabrics" => "verbs".to_owned(),
                Kind::Text { .. } => "7".to_owned(),
            };
            config.set(parameter.name, &other).unwrap();
            assert_eq!(value(&config, parameter).to_string(), other, "{}", parameter.name);
        }
    }
}
