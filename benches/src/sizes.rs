//! Message sizes: 0 or 1, then powers of two times the first, as OSU counts.

use std::{fmt, str::FromStr};

/// Largest message of one MPI call: its count is a C `int`.
pub const SIZE_BYTES_MAX: usize = i32::MAX as usize;

/// Largest message unless `-m` says otherwise (4 MiB).
pub const DEFAULT_SIZE_BYTES_MAX: usize = 1 << 22;

/// What `-m` said: `MAX`, `MIN:MAX` or `MIN:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRange {
    /// First size, when given.
    pub min_bytes: Option<usize>,
    /// Bound of the sizes, when given.
    pub max_bytes: Option<usize>,
}

impl FromStr for SizeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = match text.split_once(':') {
            None => (None, Some(parse_bytes(text)?)),
            Some((min, "")) => (Some(parse_bytes(min)?), None),
            Some((min, max)) => (Some(parse_bytes(min)?), Some(parse_bytes(max)?)),
        };
        let first = min.unwrap_or(0);
        let last = max.unwrap_or(DEFAULT_SIZE_BYTES_MAX);
        if first > last {
            return Err(format!("the smallest size {first} is above the largest, {last}"));
        }
        Ok(Self { min_bytes: min, max_bytes: max })
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min_bytes, self.max_bytes) {
            (None, Some(max)) => write!(f, "{max}"),
            (Some(min), None) => write!(f, "{min}:"),
            (min, max) => {
                write!(f, "{}:{}", min.unwrap_or(0), max.unwrap_or(DEFAULT_SIZE_BYTES_MAX))
            }
        }
    }
}

/// A number of bytes, plain or with K, M or G (powers of 1024).
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let unsized_bytes = digits.parse::<usize>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    unsized_bytes
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|&bytes| bytes <= SIZE_BYTES_MAX)
        .ok_or_else(|| {
            format!("`{text}` is not a size in bytes from 0 to {SIZE_BYTES_MAX} (K, M, G allowed)")
        })
}

/// The sizes of one run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    next_bytes: Option<usize>,
    max_bytes: usize,
}

impl Sizes {
    /// Sizes from `min_bytes` to at most `max_bytes`; none if the first is above the bound.
    pub fn new(min_bytes: usize, max_bytes: usize) -> Self {
        Self { next_bytes: (min_bytes <= max_bytes).then_some(min_bytes), max_bytes }
    }

    /// The largest size that will really be used, which need not be the bound.
    pub fn largest_bytes(self) -> usize {
        self.last().unwrap_or(0)
    }
}

impl Iterator for Sizes {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let size_bytes = self.next_bytes?;
        let following = if size_bytes == 0 { Some(1) } else { size_bytes.checked_mul(2) };
        self.next_bytes = following.filter(|&bytes| bytes <= self.max_bytes);
        Some(size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_sizes_are_zero_then_powers_of_two() {
        let sizes: Vec<_> = Sizes::new(0, DEFAULT_SIZE_BYTES_MAX).collect();
        assert_eq!(sizes.len(), 24);
        assert_eq!(sizes[..4], [0, 1, 2, 4]);
        assert_eq!(sizes[23], 4 << 20);
    }

    #[test]
    fn sizes_double_from_an_odd_start_and_stop_at_the_bound() {
        assert_eq!(Sizes::new(3, 20).collect::<Vec<_>>(), [3, 6, 12]);
        assert_eq!(Sizes::new(3, 20).largest_bytes(), 12);
        assert_eq!(Sizes::new(7, 7).collect::<Vec<_>>(), [7]);
        assert_eq!(Sizes::new(0, 0).collect::<Vec<_>>(), [0]);
        assert_eq!(Sizes::new(8, 7).count(), 0);
    }

    #[test]
    fn sizes_end_at_the_address_space() {
        assert_eq!(Sizes::new(usize::MAX / 2 + 1, usize::MAX).count(), 1);
    }

    #[test]
    fn ranges_parse_as_osu_writes_them() {
        let range = |min_bytes, max_bytes| Ok(SizeRange { min_bytes, max_bytes });
        assert_eq!("1024".parse(), range(None, Some(1024)));
        assert_eq!("8:64K".parse(), range(Some(8), Some(65536)));
        assert_eq!("2m:".parse(), range(Some(2 << 20), None));
        assert_eq!("0:0".parse(), range(Some(0), Some(0)));
    }

    #[test]
    fn bad_ranges_name_the_value_and_the_range() {
        for bad in ["", "x", "-1", "+1", "1:x", ":", ":8", "3G", "1:2:3", "99999999999999999999", "K", "1e3"]
        {
            let message = bad.parse::<SizeRange>().expect_err(bad);
            assert!(message.contains(&SIZE_BYTES_MAX.to_string()), "{bad}: {message}");
        }
        assert!("64:8".parse::<SizeRange>().expect_err("reversed").contains("64 is above the largest, 8"));
        assert!("8M:".parse::<SizeRange>().expect_err("above the default bound").contains("4194304"));
    }

    #[test]
    fn ranges_print_as_they_parse() {
        for text in ["1024", "8:65536", "0:0", "4096:"] {
            assert_eq!(text.parse::<SizeRange>().expect(text).to_string(), text);
        }
    }
}
