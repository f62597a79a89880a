//! What launchers and processes say, as any bytes: the body of a fuzz target (`tests/fuzz`).

use crate::nodes::NodeMap;
use crate::pmi1::server::{Action, Server};
use crate::record::{RECORD_BYTES_MAX, Record, body_bytes, escape};
use crate::{slurm, value};

/// The first byte says what the others are.
pub fn line(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match which % 8 {
        0 => read(Record::of_line(&text).ok()),
        1 => body(&text),
        2 => assert!(!body_bytes(bytes).is_ok_and(|count| count > RECORD_BYTES_MAX)),
        3 | 4 => mapping(&text),
        5 => drop(slurm::first_host(&text)),
        6 => stored(&text),
        _ => serve(bytes),
    }
}

/// Everything that is asked of a record.
fn read(record: Option<Record>) {
    let Some(record) = record else { return };
    assert_eq!(record.get("cmd"), Some(record.command()));
    let _ = (record.is_found(), record.message(), record.required("value").is_ok());
    let (number, wide) = (record.number::<u32>("rc"), record.number::<u64>("rc"));
    assert!(number.is_err() || number.map(u64::from) == wide);
}

fn body(text: &str) {
    let Ok(record) = Record::of_body(text) else { return };
    let command = escape(record.command());
    let again = Record::of_body(&format!("cmd={command};")).expect("an escaped value is a value");
    assert_eq!(again.command(), record.command());
    read(Some(record));
}

/// The size first, which is not the launcher's to choose.
fn mapping(text: &str) {
    let size = text.bytes().next().map_or(1, |byte| u32::from(byte % 64) + 1);
    let text = text.char_indices().nth(1).map_or("", |(at, _)| &text[at..]);
    let Some(map) = NodeMap::if_it_is_told(text, size) else { return };
    for rank in 0..size {
        assert!(map.neighbours_of(rank).contains(&rank));
    }
}

fn stored(text: &str) {
    if let Ok((count, part)) = value::first_part(text) {
        assert!((1..=value::VALUE_BYTES_MAX).contains(&count));
        if let Ok(bytes) = value::decode(part) {
            let parts = value::split(&bytes, value::VALUE_BYTES_MAX * 2).expect("it came in one part");
            assert_eq!(value::decode(value::first_part(&parts[0]).expect("ours").1), Ok(bytes));
        }
    }
}

/// Lines of three processes; the first byte of each says whose. What is answered is one record, whatever was said.
fn serve(bytes: &[u8]) {
    let mut server = Server::new(3, "space", Some("(vector,(0,1,3))"));
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((first, text)) = line.split_first() else { continue };
        let rank = u32::from(first % 3);
        let actions = match first % 32 {
            31 => server.gone(rank),
            _ => server.handle(rank, &String::from_utf8_lossy(text)),
        };
        for action in actions {
            if let Action::Answer { rank, line } = action {
                assert!(rank < 3 && line.ends_with('\n') && line.matches('\n').count() == 1, "{line:?}");
                assert!(Record::of_line(&line).is_ok(), "{line:?}");
            }
        }
        let _ = (server.is_over(), server.is_inside(rank));
    }
}
