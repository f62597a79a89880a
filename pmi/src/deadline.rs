//! Nothing waits for ever.

use std::time::{Duration, Instant};

use crate::environment::Environment;
use crate::error::Reason;

/// How long each kind of operation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Init, put, get, finalize: what the launcher answers by itself. `IRONBAND_PMI_INIT_SECONDS`.
    pub(crate) init: Duration,
    /// Fence: what waits for other processes. `IRONBAND_PMI_FENCE_SECONDS`.
    pub(crate) fence: Duration,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self { init: Duration::from_secs(60), fence: Duration::from_secs(300) };

    pub(crate) fn of(environment: &Environment) -> Result<Self, Reason> {
        let seconds = |name: &str, default: Duration| -> Result<Duration, Reason> {
            match environment.number::<u64>(name)? {
                None => Ok(default),
                Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
                Some(other) => Err(Reason::Environment(format!(
                    "{name}={other} is refused: it must be 1 to 86400 seconds"
                ))),
            }
        };
        Ok(Self {
            init: seconds("IRONBAND_PMI_INIT_SECONDS", Self::DEFAULT.init)?,
            fence: seconds("IRONBAND_PMI_FENCE_SECONDS", Self::DEFAULT.fence)?,
        })
    }
}

/// A point in time, and the limit that it came from, for the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// What is left, or that nothing is.
    pub(crate) fn left(&self) -> Result<Duration, Reason> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Reason::TimedOut(self.limit)) } else { Ok(left) }
    }

    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_from_the_environment_and_are_checked() {
        assert_eq!(Limits::of(&Environment::default()), Ok(Limits::DEFAULT));
        let set = Environment::of(&[("IRONBAND_PMI_INIT_SECONDS", "2"), ("IRONBAND_PMI_FENCE_SECONDS", "3")]);
        assert_eq!(
            Limits::of(&set),
            Ok(Limits { init: Duration::from_secs(2), fence: Duration::from_secs(3) })
        );
        for refused in ["0", "86401", "soon"] {
            let environment = Environment::of(&[("IRONBAND_PMI_FENCE_SECONDS", refused)]);
            let reason = Limits::of(&environment).unwrap_err().to_string();
            assert!(reason.contains("IRONBAND_PMI_FENCE_SECONDS") && reason.contains(refused), "{reason}");
        }
    }
}
