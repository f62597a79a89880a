//! What one process publishes through the launcher's key-value exchange (the modex), so that others can reach it: the addresses of
//! all its devices.
//!
//! ```text
//!  0         1         2              then, for each device:
//! +---------+---------+      +-----------+--------+--------------+---------+
//! | version | devices |      | length n  | fabric | length a     | address |
//! | 1 byte  | 1 byte  |      | 1 byte    | n      | 1 byte       | a       |
//! +---------+---------+      +-----------+--------+--------------+---------+
//! ```
//! Only bytes, so neither order nor alignment matters. A reader skips the fabrics that it does not know. A process that can open no device
//! publishes a card without devices, and behind it, to the end, why: UTF-8 text.

/// Raised whenever an address of this version's fabrics would be misread by an older component.
const VERSION: u8 = 1;

/// The longest reason in a card, in bytes: some launchers carry long values in many parts.
const REASON_BYTES_MAX: usize = 400;

/// Writes the card of a process whose devices have these fabrics and addresses.
///
/// # Panics
/// When a name or an address has more than 255 bytes, which none has ([`crate::limits::ADDRESS_BYTES_MAX`]).
pub fn encode_process_card<'a>(devices: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0];
    for (fabric, address) in devices {
        for field in [fabric.as_bytes(), address] {
            // Fabric names are short words of ours and an address has at most ADDRESS_BYTES_MAX (200) bytes.
            bytes.push(u8::try_from(field.len()).expect("a card's fields are shorter than 256 bytes"));
            bytes.extend_from_slice(field);
        }
        bytes[1] += 1;
    }
    bytes
}

/// The addresses that a peer's card has for devices of `fabric`, in the peer's order.
///
/// # Errors
/// One clause that says what is wrong with the card.
pub fn addresses_of<'a>(card: &'a [u8], fabric: &str) -> Result<Vec<&'a [u8]>, String> {
    let [version, devices, rest @ ..] = card else {
        return Err(format!("its address card is cut short ({} bytes)", card.len()));
    };
    let mut rest = rest;
    if *version != VERSION {
        return Err(format!("it runs another version of Ironband (card version {version}, here {VERSION})"));
    }
    let mut found = Vec::new();
    for _ in 0..*devices {
        let (name, address);
        (name, rest) = take_field(rest)?;
        (address, rest) = take_field(rest)?;
        if name == fabric.as_bytes() {
            found.push(address);
        }
    }
    Ok(found)
}

/// Writes the card of a process that has no device to offer. Of a long reason the first 400 bytes are kept.
pub fn encode_refusal_card(reason: &str) -> Vec<u8> {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rfind(|end| reason.is_char_boundary(*end));
    let text = &reason.as_bytes()[..end.unwrap_or(0)];
    [&[VERSION, 0], text].concat()
}

/// Why a process has no device to offer, if its card says so.
pub fn refusal_of(card: &[u8]) -> Option<String> {
    match card {
        [VERSION, 0, reason @ ..] if !reason.is_empty() => Some(String::from_utf8_lossy(reason).into_owned()),
        _ => None,
    }
}

fn take_field(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let cut_short = || "its address card is cut short".to_owned();
    let (len, rest) = bytes.split_first().ok_or_else(cut_short)?;
    rest.split_at_checked(usize::from(*len)).ok_or_else(cut_short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let card = encode_process_card([("shm", &b"ab"[..])].into_iter());
        assert_eq!(card, [1, 1, 3, b's', b'h', b'm', 2, b'a', b'b']);
    }

    #[test]
    fn golden_bytes_of_a_refusal() {
        let card = encode_refusal_card("no");
        assert_eq!(card, [1, 0, b'n', b'o']);
        assert_eq!(refusal_of(&card).as_deref(), Some("no"));
        assert_eq!(addresses_of(&card, "shm"), Ok(vec![]));
    }

    #[test]
    fn only_a_refusal_is_read_as_one() {
        let long = "ä".repeat(REASON_BYTES_MAX);
        assert_eq!(refusal_of(&encode_refusal_card(&long)), Some("ä".repeat(REASON_BYTES_MAX / 2)));
        // Between two bytes of one letter it is not cut.
        let odd = format!("x{long}");
        assert_eq!(refusal_of(&encode_refusal_card(&odd)).map(|text| text.len()), Some(REASON_BYTES_MAX - 1));
        let card = encode_process_card([("shm", &b"ab"[..])].into_iter());
        for other in [&card[..], &[], &[1], &[1, 0], &[9, 0, b'n']] {
            assert_eq!(refusal_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn every_device_of_a_fabric_is_found_and_others_are_skipped() {
        let long = [7; 200];
        let card =
            encode_process_card([("shm", &b"one"[..]), ("verbs", &long[..]), ("shm", &b""[..])].into_iter());
        assert_eq!(addresses_of(&card, "shm"), Ok(vec![&b"one"[..], &b""[..]]));
        assert_eq!(addresses_of(&card, "verbs"), Ok(vec![&long[..]]));
        assert_eq!(addresses_of(&card, "sim"), Ok(vec![]));
    }

    #[test]
    fn a_damaged_card_is_an_error_at_every_length() {
        let card = encode_process_card([("shm", &b"address"[..]), ("verbs", &b"x"[..])].into_iter());
        for len in 0..card.len() {
            assert!(addresses_of(&card[..len], "shm").is_err(), "{len} bytes were accepted");
        }
        assert!(addresses_of(&[9, 0], "shm").expect_err("another version").contains("version 9"));
    }
}
