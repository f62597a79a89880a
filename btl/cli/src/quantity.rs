//! Byte counts and measured values as a person reads them.

/// A byte count in the largest binary unit that keeps it at or above one: `64 MiB`, `1.5 GiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Reads a number of bytes: `65536`, `64K`, `64KiB`, `1 MiB`; units are powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let letter = unit.strip_suffix("iB").or_else(|| unit.strip_suffix('B')).unwrap_or(unit);
    let shift = ["", "K", "M", "G", "T"].iter().position(|one| *one == letter.to_ascii_uppercase());
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(shift)
        .and_then(|(number, shift)| number.checked_mul(1 << (10 * shift)));
    bytes.ok_or_else(|| format!("{text:?} is no number of bytes; 65536, 64K and 64KiB are"))
}

/// A message size as an axis label: `0`, `512`, `4K`, `1M`. Sizes that are no whole number of a unit stay in bytes.
pub(crate) fn size_label(size_bytes: u64) -> String {
    for (unit_bytes, suffix) in [(1u64 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")] {
        if size_bytes >= unit_bytes && size_bytes.is_multiple_of(unit_bytes) {
            return format!("{}{suffix}", size_bytes / unit_bytes);
        }
    }
    size_bytes.to_string()
}

/// A measured value with about four significant digits, without an exponent: `0.112`, `19.20`, `9222`.
pub(crate) fn value_text(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude < 10.0 => format!("{value:.3}"),
        magnitude if magnitude < 100.0 => format!("{value:.2}"),
        magnitude if magnitude < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A quotient with about three significant digits, without an exponent: `0.0031`, `0.92`, `1.33`, `90.7`.
pub(crate) fn quotient_text(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        magnitude if magnitude >= 0.1 => format!("{value:.2}"),
        magnitude if magnitude >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_use_binary_units() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(1023), "1023 B");
        assert_eq!(bytes_text(64 << 20), "64 MiB");
        assert_eq!(bytes_text(3 << 29), "1.5 GiB");
        assert_eq!(bytes_text(u64::MAX), "16384 PiB");
    }

    #[test]
    fn byte_counts_are_read_as_they_are_written() {
        for (text, bytes) in
            [("0", 0), ("65536", 65_536), ("64K", 65_536), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("8B", 8)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for wrong in ["", "K", "4Q", "-1", "1.5K", "4iB4", "99999999999999999999", "99999999999T"] {
            assert!(parse_bytes(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn sizes_keep_every_byte() {
        assert_eq!(size_label(0), "0");
        assert_eq!(size_label(1000), "1000");
        assert_eq!(size_label(1536), "1536");
        assert_eq!(size_label(4096), "4K");
        assert_eq!(size_label(4 << 20), "4M");
    }

    #[test]
    fn values_keep_about_four_digits() {
        assert_eq!(value_text(0.1124), "0.112");
        assert_eq!(value_text(19.2), "19.20");
        assert_eq!(value_text(531.04), "531.0");
        assert_eq!(value_text(21_800_000.4), "21800000");
    }

    #[test]
    fn small_quotients_do_not_vanish() {
        assert_eq!(quotient_text(0.0031), "0.0031");
        assert_eq!(quotient_text(0.919), "0.92");
        assert_eq!(quotient_text(90.71), "90.7");
        assert_eq!(quotient_text(266.3), "266");
    }
}
