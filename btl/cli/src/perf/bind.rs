//! Which processor each of the two processes keeps to.

use anyhow::Context;
use rustix::thread::CpuSet;
use std::str::FromStr;

use crate::machine;

/// What `--bind` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Binding {
    /// To cores of their own, if there are two.
    Auto,
    /// Nowhere.
    None,
    /// To these processors: this process, and the one that it starts.
    To(usize, Option<usize>),
}

impl FromStr for Binding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let processor = |text: &str| {
            let wrong = format!("{text:?} is no processor; say auto, none, or numbers such as 0,1");
            let number = text.parse().map_err(|_| wrong)?;
            let allowed = machine::allowed_processors();
            if allowed.contains(&number) {
                return Ok(number);
            }
            let allowed: Vec<String> = allowed.iter().map(usize::to_string).collect();
            Err(format!(
                "processor {number} is not one of those that this process may use: {}",
                allowed.join(", ")
            ))
        };
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => match text.split_once(',') {
                None => Ok(Self::To(processor(text)?, None)),
                Some((own, other)) => Ok(Self::To(processor(own)?, Some(processor(other)?))),
            },
        }
    }
}

impl Binding {
    /// Processors for this process and for the one that it starts. With one core neither is bound: they would take turns there
    /// anyway.
    pub(super) fn for_two(&self) -> (Option<usize>, Option<usize>) {
        match *self {
            Self::None => (None, None),
            Self::To(own, other) => (Some(own), other),
            Self::Auto => match machine::processors_of_two_cores() {
                Some((own, other)) => (Some(own), Some(other)),
                None => (None, None),
            },
        }
    }

    /// The processor for this process, where the other one is not started here: two of them may be on one host, and would
    /// choose the same.
    pub(super) const fn for_one(&self) -> Option<usize> {
        match *self {
            Self::To(own, _) => Some(own),
            Self::Auto | Self::None => None,
        }
    }
}

/// Binds this thread, and those that it starts from now on.
pub(super) fn bind(processor: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set)
        .with_context(|| format!("this process cannot be bound to processor {processor}; try --bind none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_one_by_one() {
        let first = machine::allowed_processors()[0];
        assert_eq!("auto".parse(), Ok(Binding::Auto));
        assert_eq!("none".parse(), Ok(Binding::None));
        assert_eq!(first.to_string().parse(), Ok(Binding::To(first, None)));
        assert_eq!(format!("{first},{first}").parse(), Ok(Binding::To(first, Some(first))));
        for bad in ["", "x", "-1", "0,", "99999", "0,99999", "0,1,2"] {
            let said = bad.parse::<Binding>().expect_err(bad);
            assert!(said.contains("processor"), "{bad}: {said}");
        }
    }

    #[test]
    fn both_are_bound_to_different_cores_or_neither_is() {
        match Binding::Auto.for_two() {
            (Some(own), Some(other)) => assert_ne!(own, other),
            (None, None) => assert!(machine::Cores::read().cores < 2),
            mixed => panic!("{mixed:?}"),
        }
        assert_eq!(Binding::To(3, Some(5)).for_two(), (Some(3), Some(5)));
        assert_eq!(Binding::Auto.for_one(), None);
        assert_eq!(Binding::To(3, None).for_one(), Some(3));
    }
}
