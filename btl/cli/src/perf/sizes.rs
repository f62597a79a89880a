//! Message sizes: `8:1M` counts up in powers of two, `8,1K,24K` is a list, and both can be mixed.

use std::str::FromStr;

/// The longest message.
pub(super) const SIZE_BYTES_MAX: usize = 1 << 30;

/// Sizes in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes(pub(super) Vec<usize>);

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut sizes = Vec::new();
        for part in text.split(',') {
            let Some((first, last)) = part.split_once(':') else {
                sizes.push(parse(part)?);
                continue;
            };
            let (first, last) = (parse(first)?, parse(last)?);
            if first > last {
                return Err(format!("in {part:?} the first size is above the last"));
            }
            sizes.extend(
                std::iter::successors(Some(first), |size| size.checked_mul(2))
                    .take_while(|size| *size <= last),
            );
        }
        Ok(Self(sizes))
    }
}

/// A number of bytes, plain or with K, M or G (powers of 1024).
fn parse(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(['K', 'k', 'M', 'm', 'G', 'g']);
    let shift = match text.len() - digits.len() {
        0 => Some(0),
        1 => match text.as_bytes()[digits.len()].to_ascii_uppercase() {
            b'K' => Some(10),
            b'M' => Some(20),
            _ => Some(30),
        },
        _ => None,
    };
    let number = digits.parse::<usize>().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()));
    number
        .zip(shift)
        .and_then(|(number, shift)| number.checked_mul(1 << shift))
        .filter(|bytes| (1..=SIZE_BYTES_MAX).contains(bytes))
        .ok_or_else(|| {
            format!("{text:?} is no size from 1 to {SIZE_BYTES_MAX} bytes (K, M and G are 1024-based)")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lists_and_both() {
        let sizes = |text: &str| text.parse::<Sizes>().unwrap().0;
        assert_eq!(sizes("8:64"), [8, 16, 32, 64]);
        assert_eq!(sizes("3:20"), [3, 6, 12]);
        assert_eq!(sizes("8,1K,24k"), [8, 1024, 24576]);
        assert_eq!(sizes("1,4K:8K,1M,1G"), [1, 4096, 8192, 1 << 20, 1 << 30]);
    }

    #[test]
    fn bad_sizes_name_the_value_and_the_range() {
        for bad in [
            "",
            "0",
            "x",
            "-1",
            "+1",
            "1KK",
            "K",
            "2G",
            "8,",
            ":8",
            "8:",
            "1:2:3",
            "99999999999999999999",
            "1.5K",
        ] {
            let said = bad.parse::<Sizes>().expect_err(bad);
            assert!(said.contains("1073741824"), "{bad}: {said}");
        }
        assert!("64:8".parse::<Sizes>().expect_err("reversed").contains("\"64:8\""));
    }
}
