//! A flat space of text values, as PMI-1 and PMI-2 have it, in which each process has keys of its own.

use std::fmt::Write as _;

use crate::deadline::Deadline;
use crate::error::{Fault, Reason};
use crate::value;

/// What the number of a part adds to a key at most: a dot and five digits.
const PART_BYTES_MAX: usize = 6;

/// What a launcher of this kind stores and finds.
pub(crate) trait FlatSpace {
    /// Keys must be shorter, in bytes.
    fn key_bytes_max(&self) -> usize;

    /// The longest text that can be stored by a key of `key_bytes`, in bytes.
    fn text_bytes_max(&self, key_bytes: usize) -> usize;

    /// Stores a text.
    fn put_text(&mut self, key: &str, text: &str, deadline: Deadline) -> Result<(), Fault>;

    /// Finds a text that was stored before a fence.
    fn get_text(&mut self, key: &str, deadline: Deadline) -> Result<Option<String>, Fault>;

    /// The key of a part of the value that `rank` has put by the name `key`.
    fn full_key(&self, rank: u32, key: &str, part: usize) -> Result<String, Reason> {
        let mut full = format!("ironband-{key}-{rank}");
        if part > 0 {
            let _ = write!(full, ".{part}");
        }
        if full.len() < self.key_bytes_max() {
            Ok(full)
        } else {
            let bound = self.key_bytes_max();
            Err(Reason::Misuse(format!("the key {key:?} is too long: {full:?} must be below {bound} bytes")))
        }
    }

    /// Stores a value of `rank`, in parts if need be.
    fn put_value(&mut self, rank: u32, key: &str, value: &[u8], deadline: Deadline) -> Result<(), Fault> {
        let key_bytes = self.full_key(rank, key, 0)?.len() + PART_BYTES_MAX;
        let parts = value::split(value, self.text_bytes_max(key_bytes))?;
        for (part, text) in parts.iter().enumerate() {
            let full = self.full_key(rank, key, part)?;
            self.put_text(&full, text, deadline)?;
        }
        Ok(())
    }

    /// Finds a value of `rank`.
    fn get_value(&mut self, rank: u32, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>, Fault> {
        let full = self.full_key(rank, key, 0)?;
        let Some(first) = self.get_text(&full, deadline)? else { return Ok(None) };
        let (parts, text) = value::first_part(&first)?;
        let mut text = text.to_owned();
        for part in 1..parts {
            let full = self.full_key(rank, key, part)?;
            match self.get_text(&full, deadline)? {
                Some(more) => text += &more,
                None => {
                    return Err(
                        Reason::Malformed(format!("part {part} of {parts} of a value is missing")).into()
                    );
                }
            }
        }
        Ok(Some(value::decode(&text)?))
    }
}
