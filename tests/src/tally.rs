//! What the transport says at its end that it has carried.

use std::iter::Sum;

/// The tallies of all processes of a job, which the transport prints at verbose level 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many tallies there are: one of each device of each process.
    pub devices: u32,
    /// In messages, reads and writes.
    pub bytes: u64,
    /// Atomics of adapters; an operation that they lack takes several.
    pub native_atomics: u64,
    /// Atomics that peers' processors were asked for.
    pub asked_atomics: u64,
    /// Requests that found their memory registered; of processes without a registration cache, 0.
    pub registration_hits: u64,
    /// Registrations ended because their memory was unmapped.
    pub registrations_unmapped: u64,
}

/// What follows the bytes in a tally.
const CARRIED: &str = " bytes carried, ";

impl Tally {
    /// Of everything that a job has printed, where lines of several processes may have run together.
    pub fn of_job(text: &str) -> Self {
        text.match_indices(CARRIED).map(|(at, _)| Self::of_one(&text[..at], &text[at..])).sum()
    }

    fn of_one(front: &str, back: &str) -> Self {
        let number = |text: &str| {
            let word = text.rsplit(' ').next().unwrap_or_default();
            word.parse().unwrap_or_else(|_| panic!("{word:?} is no number in a tally: ...{front}{back}"))
        };
        // The number in front of these words.
        let before = |words: &str| number(back.split(words).next().unwrap_or_default());
        // This tally ends with its line, and has these where there is a cache.
        let line = back.lines().next().unwrap_or_default();
        let cache = |words: &str| line.split_once(words).map_or(0, |(front, _)| number(front));
        Self {
            devices: 1,
            bytes: number(front),
            native_atomics: before(" atomics by the adapter"),
            asked_atomics: before(" by peers' processors"),
            registration_hits: cache(" hits,"),
            registrations_unmapped: cache(" unmapped,"),
        }
    }

    /// Panics unless registrations were used again, and some ended because their memory was unmapped.
    pub fn assert_registrations(&self) {
        assert!(self.registration_hits > 0, "no registration was used again: {self:?}");
        assert!(self.registrations_unmapped > 0, "no news came of unmapped memory: {self:?}");
    }

    /// Panics unless whoever should have done the job's atomics has: adapters, where these have any; else the processors of the
    /// targets. (Within a host Open MPI does atomics by itself then.)
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
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            devices: sum.devices + one.devices,
            bytes: sum.bytes + one.bytes,
            native_atomics: sum.native_atomics + one.native_atomics,
            asked_atomics: sum.asked_atomics + one.asked_atomics,
            registration_hits: sum.registration_hits + one.registration_hits,
            registrations_unmapped: sum.registrations_unmapped + one.registrations_unmapped,
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
            [host2:1] ironband: fabric verbs, device rxe0:1: 23 bytes carried, 3 RDMA reads and writes, 0 atomics by the adapter, 1 by peers' processors, 0 short reads by them, 1 messages written to eager rings, 0 nudges; registrations: 9 hits, 8 misses, 7 for one use, 6 unmapped, 5 evicted; 4 cached, 3 KiB\n";
        assert_eq!(
            Tally::of_job(text),
            Tally {
                devices: 2,
                bytes: 123,
                native_atomics: 2,
                asked_atomics: 6,
                registration_hits: 9,
                registrations_unmapped: 6,
            }
        );
        assert_eq!(Tally::of_job("nothing"), Tally::default());
    }

    #[test]
    #[should_panic(expected = "were not used")]
    fn an_adapter_that_has_atomics_does_them() {
        Tally { asked_atomics: 1, ..Tally::default() }.assert_atomics(true, true);
    }

    #[test]
    #[should_panic(expected = "an adapter without atomics")]
    fn an_adapter_without_atomics_does_none() {
        Tally { native_atomics: 1, asked_atomics: 1, ..Tally::default() }.assert_atomics(false, true);
    }

    #[test]
    #[should_panic(expected = "nobody has done the atomics")]
    fn somebody_does_atomics_between_hosts() {
        Tally::default().assert_atomics(false, true);
    }

    #[test]
    #[should_panic(expected = "was used again")]
    fn registrations_are_used_again() {
        Tally { registrations_unmapped: 1, ..Tally::default() }.assert_registrations();
    }

    #[test]
    #[should_panic(expected = "no news came")]
    fn registrations_end_with_their_memory() {
        Tally { registration_hits: 1, ..Tally::default() }.assert_registrations();
    }

    #[test]
    #[should_panic(expected = "is no number in a tally")]
    fn half_a_tally_is_none() {
        Tally::of_job("12 bytes carried, 3 RDMA");
    }
}
