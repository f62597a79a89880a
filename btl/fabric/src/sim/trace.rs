//! The last events of a world, in words: what a test prints when it fails. Nothing is made while it is off.

use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Trace {
    lines: VecDeque<String>,
    len_max: usize,
}

impl Trace {
    pub(super) const fn new(len_max: usize) -> Self {
        Self { lines: VecDeque::new(), len_max }
    }

    #[inline(always)]
    pub(super) fn note(&mut self, now_ns: u64, line: impl FnOnce() -> String) {
        if self.len_max > 0 {
            self.push(now_ns, &line());
        }
    }

    #[cold]
    fn push(&mut self, now_ns: u64, line: &str) {
        if self.lines.len() == self.len_max {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{now_ns:>10} ns  {line}"));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let mut trace = Trace::new(3);
        for time in 0..5 {
            trace.note(time, || format!("event {time}"));
        }
        let kept = trace.lines();
        assert_eq!(kept.len(), 3);
        assert!(kept[0].ends_with("event 2") && kept[2].ends_with("4 ns  event 4"), "{kept:?}");
        Trace::new(0).note(1, || panic!("made in vain"));
    }
}
