//! What the transport says at its end that it has carried.

use std::iter::Sum;

/// The tallies of all processes of a job, which the transport prints at verbose level 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// In messages, reads and writes.
    pub bytes: u64,
    /// Atomics that adapters have done.
    pub native_atomics: u64,
    /// Atomics that peers' processors have done.
    pub asked_atomics: u64,
}

impl Tally {
    /// Of everything that a job has printed.
    pub fn of_job(text: &str) -> Self {
        text.lines().filter(|line| line.contains(" bytes carried, ")).map(Self::of_line).sum()
    }

    /// Panics unless whoever should have done the job's atomics has: adapters, where these have any; else the processors of
    /// targets, which within a host Open MPI makes do it without the transport.
    pub fn assert_atomics(&self, adapter_has_them: bool, between_hosts: bool) {
        if adapter_has_them {
            assert!(self.native_atomics > 0, "the adapter's atomics were not used: {self:?}");
        } else {
            assert!(
                self.native_atomics == 0,
                "an adapter without atomics is said to have done some: {self:?}"
            );
            assert!(self.asked_atomics > 0 || !between_hosts, "nobody has done the atomics: {self:?}");
        }
    }

    fn of_line(line: &str) -> Self {
        // The number before such words.
        let before = |words: &str| -> u64 {
            let number = line.split(words).next().and_then(|front| front.rsplit(' ').next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Self {
            bytes: before(" bytes carried"),
            native_atomics: before(" atomics by the adapter"),
            asked_atomics: before(" by peers' processors"),
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            bytes: sum.bytes + one.bytes,
            native_atomics: sum.native_atomics + one.native_atomics,
            asked_atomics: sum.asked_atomics + one.asked_atomics,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_of_all_processes_are_added() {
        let text = "[host1:1] ironband: fabric verbs, device rxe0:1: 100 bytes carried, 3 RDMA reads and writes, 2 atomics by the adapter, 5 by peers' processors, 0 short reads by them, 1 messages written to eager rings\n\
            ok traffic 7 bytes\n\
            [host2:1] ironband: fabric verbs, device rxe0:1: 23 bytes carried, 3 RDMA reads and writes, 0 atomics by the adapter, 1 by peers' processors, 0 short reads by them, 1 messages written to eager rings\n";
        assert_eq!(Tally::of_job(text), Tally { bytes: 123, native_atomics: 2, asked_atomics: 6 });
        assert_eq!(Tally::of_job("nothing"), Tally::default());
    }
}
