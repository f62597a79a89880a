//! Processes that this program starts.

use std::process::Child;

/// Never leaves a process behind, whichever way its parent goes on.
pub(crate) struct EndedOnDrop(pub(crate) Child);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        // Either call can fail only because the process has ended, which is what they are for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
