//! One record of PMI-1 or PMI-2, taken apart. Pure.
//!
//! PMI-1: a line `cmd=NAME field=value ...`. PMI-2: six characters with the length of the rest in decimal, and then
//! `cmd=NAME;field=value;...`, where a semicolon in a value is doubled. Fields come in any order.
//!
//! Source: MPICH's description of the two wire protocols, and what the launchers were seen to send.

use std::str::FromStr;

use crate::error::Reason;

/// The longest record that is read. Servers bound values at 4096 and less.
pub(crate) const RECORD_BYTES_MAX: usize = 64 * 1024;

/// What the length before a PMI-2 record takes.
pub(crate) const LENGTH_BYTES: usize = 6;

/// The fields of a record, with what was received, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    text: String,
    fields: Vec<(String, String)>,
}

impl Record {
    /// Takes a line of PMI-1 apart, without its end.
    pub(crate) fn of_line(text: &str) -> Result<Self, Reason> {
        let text = text.trim_end_matches(['\r', '\n']);
        let fields = text
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| match word.split_once('=') {
                Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                None => Err(malformed(text, &format!("{word:?} is no field"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::of_fields(text, fields)
    }

    /// Takes the body of a PMI-2 record apart.
    pub(crate) fn of_body(text: &str) -> Result<Self, Reason> {
        let mut fields = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (name, after) =
                rest.split_once('=').ok_or_else(|| malformed(text, "a field has no value"))?;
            let (value, after) =
                unescape(after).ok_or_else(|| malformed(text, &format!("the value of {name} has no end")))?;
            fields.push((name.to_owned(), value));
            rest = after;
        }
        Self::of_fields(text, fields)
    }

    fn of_fields(text: &str, fields: Vec<(String, String)>) -> Result<Self, Reason> {
        let record = Self { text: text.to_owned(), fields };
        if record.get("cmd").is_none() { Err(malformed(text, "there is no cmd")) } else { Ok(record) }
    }

    /// The command.
    pub(crate) fn command(&self) -> &str {
        self.get("cmd").unwrap_or_default()
    }

    /// The first field of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The field of this name, which must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Reason> {
        self.get(name).ok_or_else(|| malformed(&self.text, &format!("there is no {name}")))
    }

    /// The number in a field that must be there.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<T, Reason> {
        self.required(name)?
            .parse()
            .map_err(|_| malformed(&self.text, &format!("{name} is not a number in range")))
    }

    /// Whether the server has done what it was asked. It may say nothing, which is yes.
    pub(crate) fn is_success(&self) -> bool {
        self.get("rc").is_none_or(|rc| rc == "0")
    }

    /// False when the server says that it has not found what it was asked for, in one of the ways that they have for it:
    /// `rc=1`, `rc=-1` with a value that is none, `found=FALSE`.
    pub(crate) fn is_found(&self) -> bool {
        self.is_success() && self.get("found").is_none_or(|found| found.eq_ignore_ascii_case("true"))
    }

    /// What the server says, in words: PMI-1 has no spaces on the wire.
    pub(crate) fn message(&self) -> String {
        match self.get("msg").or_else(|| self.get("errmsg")) {
            Some(message) => message.replace('_', " "),
            None => self.text.clone(),
        }
    }
}

/// The value at the start of `text` up to its semicolon, and what is behind that. `;;` is a semicolon of the value.
fn unescape(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (piece, after) = rest.split_once(';')?;
        value.push_str(piece);
        match after.strip_prefix(';') {
            Some(more) => {
                value.push(';');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

/// A value as PMI-2 wants it.
pub(crate) fn escape(value: &str) -> String {
    value.replace(';', ";;")
}

/// The length that stands before a PMI-2 record: digits with spaces around them, of which some servers use both.
pub(crate) fn body_bytes(length: &[u8]) -> Result<usize, Reason> {
    let text = String::from_utf8_lossy(length);
    match text.trim().parse::<usize>() {
        Ok(count) if count <= RECORD_BYTES_MAX && !text.contains('+') => Ok(count),
        _ => Err(Reason::Malformed(format!("{text:?} is no length of a record"))),
    }
}

fn malformed(text: &str, why: &str) -> Reason {
    const SHOWN_MAX: usize = 200;
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    Reason::Malformed(format!("{why} in {shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_come_in_any_order() {
        let line = Record::of_line("rc=0 value=a=b cmd=get_result  msg=it_is_there \r\n").unwrap();
        assert_eq!((line.command(), line.get("value")), ("get_result", Some("a=b")));
        assert_eq!(line.message(), "it is there");
        assert!(line.is_success() && Record::of_line("cmd=barrier_out").unwrap().is_success());
        assert_eq!(Record::of_line("cmd=maxes vallen_max=1024").unwrap().number("vallen_max"), Ok(1024));
        let body = Record::of_body("found=TRUE;value=a;;b=c;;;cmd=kvs-get-response;rc=0;").unwrap();
        assert_eq!((body.command(), body.get("value")), ("kvs-get-response", Some("a;b=c;")));
    }

    #[test]
    fn all_ways_to_say_no() {
        for text in [
            "cmd=get_result rc=1",
            "cmd=get_result rc=-1 msg=key_x_not_found value=unknown",
            "cmd=get_result rc=0 found=FALSE",
            "cmd=get_result found=false",
        ] {
            assert!(!Record::of_line(text).unwrap().is_found(), "{text}");
        }
        assert!(Record::of_line("cmd=get_result rc=0 found=TRUE value=x").unwrap().is_found());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_record() {
        for (text, wanted) in [("", "no cmd"), ("hello", "\"hello\" is no field"), ("rc=0", "no cmd")] {
            let reason = Record::of_line(text).unwrap_err().to_string();
            assert!(reason.contains(wanted), "{reason}");
        }
        for (text, wanted) in [
            ("", "no cmd"),
            ("cmd", "no value"),
            ("cmd=x", "no end"),
            ("cmd=x;;", "no end"),
            ("rc=0;", "no cmd"),
        ] {
            let reason = Record::of_body(text).unwrap_err().to_string();
            assert!(reason.contains(wanted), "{text:?}: {reason}");
        }
        let line = Record::of_line("cmd=maxes vallen_max=x").unwrap();
        assert!(line.number::<u32>("vallen_max").unwrap_err().to_string().contains("vallen_max=x"));
        assert!(line.required("keylen_max").unwrap_err().to_string().contains("keylen_max"));
    }

    #[test]
    fn lengths() {
        assert_eq!(body_bytes(b"    37"), Ok(37));
        assert_eq!(body_bytes(b"37    "), Ok(37));
        assert_eq!(body_bytes(b"000037"), Ok(37));
        for wrong in [
            &b"    -1"[..],
            b"      ",
            b"   3 7",
            b"999999",
            b"    +3",
            b"0x0010",
            b"\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(body_bytes(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,80}") {
            for record in [Record::of_line(&text), Record::of_body(&text)].into_iter().flatten() {
                let _ = (record.command(), record.is_found(), record.message(), record.number::<u32>("rc"));
            }
        }

        #[test]
        fn what_is_escaped_is_read(value in "[;=a-c ]{0,20}", other in "[;a]{0,5}") {
            let text = format!("cmd=x;value={};other={};", escape(&value), escape(&other));
            let record = Record::of_body(&text).unwrap();
            prop_assert_eq!((record.get("value"), record.get("other")), (Some(value.as_str()), Some(other.as_str())));
        }
    }
}
