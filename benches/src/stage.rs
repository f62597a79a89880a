//! What happens to the buffers between timed rounds when `-c` or `--touch` is given.

use crate::{
    memory::Slots,
    options::Common,
    pattern::{Mismatch, Pattern, arm_tails},
};

/// Fills or touches what this rank sends and checks what it receives.
#[derive(Debug)]
pub struct Stage {
    validate: bool,
    touch: bool,
    outgoing: Pattern,
    incoming: Pattern,
    first_mismatch: Option<Mismatch>,
}

impl Stage {
    /// Stage for messages of `size_bytes` between this rank and `peer`.
    pub fn new(common: &Common, rank: i32, peer: i32, size_bytes: usize) -> Self {
        Self {
            validate: common.validate,
            touch: common.touch,
            outgoing: Pattern::new(rank, size_bytes),
            incoming: Pattern::new(peer, size_bytes),
            first_mismatch: None,
        }
    }

    /// Makes outgoing messages ready; `first` is the number of the first of them.
    pub fn prepare_outgoing(&self, slots: Slots<'_>, first: u64) {
        if self.validate {
            // Writing the pattern modifies every line, so it is a touch as well.
            self.outgoing.write_window(slots, first);
        } else if self.touch {
            (0..slots.count()).for_each(|index| slots.at(index).touch());
        }
    }

    /// Makes the memory ready that messages will arrive in.
    pub fn prepare_incoming(&self, slots: Slots<'_>) {
        if self.validate {
            arm_tails(slots);
        }
    }

    /// Checks messages that have arrived, every byte of each.
    pub fn check_incoming(&mut self, slots: Slots<'_>, first: u64) {
        if self.validate
            && let Err(mismatch) = self.incoming.verify_window(slots, first)
        {
            self.first_mismatch.get_or_insert(mismatch);
        }
    }

    /// The first wrong byte so far.
    pub fn first_mismatch(&self) -> Option<Mismatch> {
        self.first_mismatch
    }
}
