//! Chooses how a long message moves between two processes of one node, by measuring it.
//!
//! Four ways exist and none is best everywhere. Reading the sender's pages through the kernel costs a system call
//! and page pinning but copies once; it is fast while the source's cache lines are shared and three times slower when the
//! sender has just written them. Copying through the ring costs two copies, but both processors work and the data crosses
//! in the order the caches like; the owner may even begin before it is asked, which saves the question but is wasted
//! work if the reader is not waiting yet. When both ends wait, each can also copy a half by itself. Which one wins depends on the
//! processor, the message length and on whether the program writes its buffer between sends, and no table knows
//! that: so transfers are timed by their receiver, and a [`Bandit`] takes the fastest way.

use crate::bandit::{Bandit, cost_of};

/// A way for a long message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The owner copies into the ring, the reader out of it, piece by piece.
    Pull,
    /// The reader copies it all through the kernel.
    Read,
    /// Both ends copy pieces through the kernel until all are taken.
    Share,
    /// As `Pull`, but the owner begins unasked, right behind the message that tells the reader of the memory.
    Ahead,
}

const PATHS: [Path; 4] = [Path::Pull, Path::Read, Path::Share, Path::Ahead];
/// Length classes: one per power of two, from 1 KiB (class 0) to 4 MiB and above.
const CLASSES: usize = 13;
const _: () = assert!(CLASSES <= 32, "a word has a bit for each");
const SMALLEST_CLASS_BITS: u32 = 10;
/// See [`Bandit`].
const TIMED_INTERVAL: u32 = 8;

impl Path {
    fn index(self) -> usize {
        PATHS.iter().position(|path| *path == self).unwrap_or(0)
    }
}

/// The paths that a transfer may take: a set, by position in [`Path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Through the ring.
    pub pull: bool,
    /// By the reader, through the kernel.
    pub read: bool,
    /// By both, through the kernel.
    pub share: bool,
    /// Through the ring, unasked.
    pub ahead: bool,
}

impl Allowed {
    const fn by_index(self) -> [bool; PATHS.len()] {
        [self.pull, self.read, self.share, self.ahead]
    }
}

/// The choice for one peer.
#[derive(Debug, Clone)]
pub struct PathChooser {
    classes: [Bandit<{ PATHS.len() }, TIMED_INTERVAL>; CLASSES],
}

impl Default for PathChooser {
    fn default() -> Self {
        Self { classes: [Bandit::default(); CLASSES] }
    }
}

/// The class of a length, for [`PathChooser`]: below 32, so that a word has a bit for each.
pub fn class_of(len_bytes: usize) -> usize {
    let bits = usize::BITS - len_bytes.leading_zeros();
    (bits.saturating_sub(SMALLEST_CLASS_BITS + 1) as usize).min(CLASSES - 1)
}

impl PathChooser {
    /// Says which way the next transfer of `len_bytes` takes. `allowed` must have at least one path.
    pub fn choose(&mut self, len_bytes: usize, allowed: Allowed) -> Path {
        PATHS[self.classes[class_of(len_bytes)].choose(allowed.by_index())]
    }

    /// Says whether the transfer that was just chosen is worth timing.
    pub fn is_timed(&mut self, path: Path, len_bytes: usize) -> bool {
        self.classes[class_of(len_bytes)].is_timed(path.index())
    }

    /// Tells how long a transfer took, from the request (or from the end of the one before it, whichever came later) to
    /// its completion.
    pub fn observe(&mut self, path: Path, len_bytes: usize, elapsed_ns: u64) {
        self.classes[class_of(len_bytes)].observe(path.index(), cost_of(elapsed_ns, len_bytes));
    }

    /// The path now preferred for a length, if all allowed ones have been measured.
    pub fn preferred(&self, len_bytes: usize, allowed: Allowed) -> Option<Path> {
        self.classes[class_of(len_bytes)].preferred(allowed.by_index()).map(|index| PATHS[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Allowed = Allowed { pull: true, read: true, share: true, ahead: true };

    /// Runs `count` transfers against fixed costs and returns how often each path was taken.
    fn run(
        chooser: &mut PathChooser,
        len: usize,
        costs_ns: [u64; 4],
        allowed: Allowed,
        count: usize,
    ) -> [usize; 4] {
        let mut taken = [0; 4];
        for _ in 0..count {
            let path = chooser.choose(len, allowed);
            let index = path.index();
            taken[index] += 1;
            if chooser.is_timed(path, len) {
                chooser.observe(path, len, costs_ns[index]);
            }
        }
        taken
    }

    #[test]
    fn the_fastest_path_gets_nearly_all_transfers() {
        for best in 0..4 {
            let mut costs = [9_000; 4];
            costs[best] = 3_000;
            let taken = run(&mut PathChooser::default(), 65_536, costs, ALL, 10_000);
            assert!(taken[best] > 9_850, "{taken:?} with path {best} three times faster");
        }
    }

    #[test]
    fn a_change_of_the_program_is_noticed() {
        let mut chooser = PathChooser::default();
        run(&mut chooser, 32_768, [4_000, 2_000, 9_000, 9_000], ALL, 5_000);
        assert_eq!(chooser.preferred(32_768, ALL), Some(Path::Read));
        // The program starts to write its buffer between sends.
        let taken = run(&mut chooser, 32_768, [4_000, 11_000, 9_000, 9_000], ALL, 500);
        assert_eq!(chooser.preferred(32_768, ALL), Some(Path::Pull));
        assert!(taken[0] > 300, "{taken:?}");
        // And stops: the path that became fast again is found by the trials.
        run(&mut chooser, 32_768, [4_000, 2_000, 9_000, 9_000], ALL, 5_000);
        assert_eq!(chooser.preferred(32_768, ALL), Some(Path::Read));
    }

    #[test]
    fn a_path_that_never_comes_about_is_given_up() {
        // The owner does not send ahead, whatever the reader wishes: each wish in vain is told as an endless transfer.
        let taken =
            run(&mut PathChooser::default(), 16_384, [3_000, 4_000, 9_000, u64::MAX >> 16], ALL, 5_000);
        assert!(taken[3] < 50 && taken[0] > 4_800, "{taken:?}");
    }

    #[test]
    fn outliers_do_not_sway_it() {
        let mut chooser = PathChooser::default();
        run(&mut chooser, 1 << 20, [50_000, 40_000, 20_000, 60_000], ALL, 1_000);
        chooser.observe(Path::Share, 1 << 20, 50_000_000);
        assert_eq!(chooser.preferred(1 << 20, ALL), Some(Path::Share));
    }

    #[test]
    fn classes_cover_all_lengths() {
        assert_eq!(class_of(0), 0);
        assert_eq!(class_of(2047), 0);
        assert_eq!(class_of(2048), 1);
        assert_eq!(class_of(usize::MAX), CLASSES - 1);
    }

    proptest! {
        #[test]
        fn only_allowed_paths_are_chosen(
            pull: bool, read: bool, share: bool, ahead: bool,
            transfers in proptest::collection::vec((0usize..1 << 24, proptest::prop_oneof![0u64..1 << 40, Just(u64::MAX)]), 1..300),
        ) {
            prop_assume!(pull || read || share || ahead);
            let allowed = Allowed { pull, read, share, ahead };
            let mut chooser = PathChooser::default();
            for (len, elapsed) in transfers {
                let path = chooser.choose(len, allowed);
                let index = path.index();
                prop_assert!(allowed.by_index()[index]);
                chooser.observe(path, len, elapsed);
            }
        }
    }
}
