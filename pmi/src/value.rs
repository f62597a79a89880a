//! Opaque bytes as values that every launcher stores: text of few letters, in parts that are short enough.
//!
//! Launchers bound the length of a value, and what they do beyond the bound is the worst: they truncate it and report success
//! (MPICH 4.0.2), or hang (Slurm). So the bound is kept here. The first part says how many there are: `3.TEXT`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::Reason;

/// The longest value in bytes. Cards are below 200; this is for callers who think it is a file system.
pub(crate) const VALUE_BYTES_MAX: usize = 64 * 1024;

/// What the number of parts takes at most, with the dot.
const COUNT_BYTES_MAX: usize = 6;

/// The parts to store, each at most `part_bytes_max` long.
pub(crate) fn split(value: &[u8], part_bytes_max: usize) -> Result<Vec<String>, Reason> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Reason::Misuse(format!(
            "the value has {} bytes, and at most {VALUE_BYTES_MAX} can be stored",
            value.len()
        )));
    }
    let text = URL_SAFE_NO_PAD.encode(value);
    if part_bytes_max <= COUNT_BYTES_MAX {
        return Err(Reason::Refused(format!("it stores no value longer than {part_bytes_max} bytes")));
    }
    let room = part_bytes_max - COUNT_BYTES_MAX;
    // Base64 is ASCII: any byte is a boundary.
    let mut parts: Vec<String> =
        text.as_bytes().chunks(room).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    if parts.is_empty() {
        parts.push(String::new());
    }
    parts[0] = format!("{}.{}", parts.len(), parts[0]);
    Ok(parts)
}

/// How many parts there are, from the first, and what is in it.
pub(crate) fn first_part(text: &str) -> Result<(usize, &str), Reason> {
    let malformed = || Reason::Malformed(format!("the value {text:?} does not begin with a number of parts"));
    let (count, rest) = text.split_once('.').ok_or_else(malformed)?;
    match count.parse() {
        Ok(count @ 1..=VALUE_BYTES_MAX) => Ok((count, rest)),
        _ => Err(malformed()),
    }
}

/// The bytes of all parts, put together.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Reason> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|error| Reason::Malformed(format!("a value is not as it was put: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(parts: &[String]) -> Vec<u8> {
        let (count, first) = first_part(&parts[0]).unwrap();
        assert_eq!(count, parts.len());
        decode(&(first.to_owned() + &parts[1..].concat())).unwrap()
    }

    #[test]
    fn a_card_is_one_part_for_all_launchers_but_tiny_ones() {
        assert_eq!(split(&[7; 200], 512).unwrap().len(), 1);
        assert_eq!(split(b"", 64).unwrap(), ["1."]);
        assert!(split(&vec![0; VALUE_BYTES_MAX + 1], 1024).is_err());
        assert!(split(b"x", 3).is_err());
        for wrong in ["", "abc", ".", "0.", "-1.x", "99999999.x"] {
            assert!(first_part(wrong).is_err(), "{wrong:?}");
        }
        assert!(decode("AB C").is_err());
    }

    proptest! {
        #[test]
        fn what_is_split_is_joined(value in proptest::collection::vec(any::<u8>(), 0..3000), max in 7_usize..2000) {
            let parts = split(&value, max).unwrap();
            prop_assert!(parts.iter().all(|part| part.len() <= max));
            prop_assert!(parts.iter().flat_map(|part| part.bytes()).all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
            prop_assert_eq!(joined(&parts), value);
        }
    }
}
