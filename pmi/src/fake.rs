//! Servers that behave as badly as real ones were seen to, for the tests of both clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::record::{LENGTH_BYTES, body_bytes};
use crate::stream::Stream;

/// What a fake server does when it is asked.
pub(crate) enum Reply {
    /// Sends this, as it is.
    Say(String),
    /// Sends it one byte at a time.
    Spell(String),
    /// Nothing, for ever.
    Hang,
    /// Ends the connection.
    Close,
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A connection to a server that reads lines.
pub(crate) fn of_lines(mut reply: impl FnMut(&str) -> Reply + Send + 'static) -> Stream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(theirs.try_clone().unwrap());
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap_or(0) == 0 || !answer(&theirs, reply(line.trim_end())) {
                return;
            }
        }
    });
    Stream::new(ours.into())
}

/// A connection to a server that reads one line, and then records with their length in front. It is given what is behind the
/// length.
pub(crate) fn of_records(mut reply: impl FnMut(&str) -> Reply + Send + 'static) -> Stream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut input = BufReader::new(theirs.try_clone().unwrap());
        let mut line = String::new();
        if input.read_line(&mut line).unwrap_or(0) == 0 || !answer(&theirs, reply(line.trim_end())) {
            return;
        }
        loop {
            let mut length = [0; LENGTH_BYTES];
            if input.read_exact(&mut length).is_err() {
                return;
            }
            let mut body = vec![0; body_bytes(&length).unwrap()];
            input.read_exact(&mut body).unwrap();
            if !answer(&theirs, reply(std::str::from_utf8(&body).unwrap())) {
                return;
            }
        }
    });
    Stream::new(ours.into())
}

/// False when the connection is to be ended.
fn answer(mut to: &UnixStream, reply: Reply) -> bool {
    match reply {
        Reply::Say(text) => to.write_all(text.as_bytes()).is_ok(),
        Reply::Spell(text) => text.bytes().all(|byte| {
            std::thread::sleep(Duration::from_micros(200));
            to.write_all(&[byte]).is_ok()
        }),
        Reply::Hang => {
            // Until the client goes.
            let _ = to.read_to_end(&mut Vec::new());
            false
        }
        Reply::Close => false,
    }
}
