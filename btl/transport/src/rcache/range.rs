//! A range of addresses.

/// Granules of the filter and of huge pages: 2 MiB.
pub(super) const GRANULE_BYTES_LOG2: u32 = 21;

/// What the kernel maps and unmaps. Larger pages are multiples of it.
pub(crate) const PAGE_BYTES: usize = 4096;

/// From `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Range {
    /// All addresses.
    pub(super) const ALL: Self = Self { start: 0, end: usize::MAX };

    /// `None` if it is empty or goes beyond the last address.
    #[inline]
    pub(super) fn new(start: usize, len_bytes: usize) -> Option<Self> {
        let end = start.checked_add(len_bytes)?;
        (len_bytes > 0).then_some(Self { start, end })
    }

    #[inline]
    pub(super) const fn len_bytes(self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(super) const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    #[inline]
    pub(super) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The smallest range with both in it.
    pub(super) fn union(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The pages that it has bytes in.
    #[inline]
    pub(super) const fn pages(self) -> Self {
        let end = match self.end.checked_add(PAGE_BYTES - 1) {
            Some(end) => end & !(PAGE_BYTES - 1),
            None => usize::MAX,
        };
        Self { start: self.start & !(PAGE_BYTES - 1), end }
    }

    /// Numbers of the first granule that it has bytes in, and of the last.
    #[inline]
    pub(super) const fn granules(self) -> (usize, usize) {
        (self.start >> GRANULE_BYTES_LOG2, (self.end - 1) >> GRANULE_BYTES_LOG2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_the_address_space() {
        assert_eq!(Range::new(usize::MAX, 2), None);
        assert_eq!(Range::new(1, 0), None);
        let last = Range::new(usize::MAX - 10, 10).expect("the last bytes but one");
        assert_eq!(last.pages().end, usize::MAX);
        assert!(Range::ALL.contains(last) && last.overlaps(Range::ALL));
    }

    #[test]
    fn pages_and_granules() {
        let range = Range { start: 4095, end: 4097 };
        assert_eq!(range.pages(), Range { start: 0, end: 8192 });
        assert_eq!(Range { start: 0, end: 2 << 20 }.granules(), (0, 0));
        assert_eq!(Range { start: 0, end: (2 << 20) + 1 }.granules(), (0, 1));
    }
}
