//! The `verbs` fabric as the environment asks for it, so that one test program covers the ways to use an adapter.

use ironband_core::config::Config;
use ironband_fabric::verbs::{Options, Verbs, VerbsDevice};
use ironband_fabric::{DeviceError, DeviceReport, Fabric, Job};

/// Where receives are posted: `shared`, `own`, or as the device likes.
const RECEIVES: &str = "IRONBAND_CONFORMANCE_RECEIVES";

/// [`Verbs`], opened with the options that `IRONBAND_CONFORMANCE_*` names. Agents inherit them.
#[derive(Debug)]
pub struct Chosen;

fn choice<T>(variable: &str, words: &[(&str, T)]) -> Option<T>
where
    T: Copy,
{
    let chosen = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    let found = words.iter().find(|(word, _)| *word == chosen);
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Some(found.unwrap_or_else(|| panic!("{variable}={chosen:?} is none of {}", known.join(", "))).1)
}

fn options() -> Options {
    Options { shared_receive_queue: choice(RECEIVES, &[("shared", true), ("own", false)]) }
}

impl Fabric for Chosen {
    const NAME: &'static str = Verbs::NAME;
    type Device = VerbsDevice;

    fn probe(config: &Config) -> Vec<DeviceReport> {
        Verbs::probe(config)
    }

    fn open(name: &str, config: &Config, job: &Job) -> Result<VerbsDevice, DeviceError> {
        Verbs::open_with(name, config, job, options())
    }
}
