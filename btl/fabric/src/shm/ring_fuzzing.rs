//! Peers that write what they like into a ring: the body of a fuzz target (`tests/fuzz`). Whatever they write, a body lies inside
//! the ring (the memory checks that), and nothing else happens than that a record comes, none comes, or the ring is [`Corrupt`].

use super::super::sync::Ordering;
use super::heap::HeapRing;
use super::*;

/// The first five bytes are the ring's size, where it stands and who is hostile; then what both do.
pub fn ring(data: &[u8]) {
    let Some(([geometry, slot, unit, near_wrap, end], script)) = data.split_first_chunk() else { return };
    let (slots, units) = (2 << (geometry % 5), 16 << (geometry / 5 % 6));
    let start =
        |before: u8| if near_wrap % 2 == 1 { 0_u32.wrapping_sub(before.into()) } else { before.into() };
    let (slot_start, unit_start) = (start(*slot), start(*unit));
    let memory = HeapRing::used_up_to(slots, units, slot_start, unit_start);
    let steps = script.chunks(9).map(|step| {
        let mut bytes = [0; 9];
        bytes[..step.len()].copy_from_slice(step);
        let [what, word @ ..] = bytes;
        (what, u64::from_le_bytes(word))
    });
    if end.is_multiple_of(2) {
        let consumer = Consumer::starting_at(&memory, slot_start, unit_start);
        hostile_producer(&memory, consumer, slot_start, steps);
    } else {
        let producer = Producer::starting_at(&memory, slot_start, unit_start);
        hostile_consumer(&memory, producer, steps);
    }
}

fn hostile_producer(
    memory: &HeapRing,
    mut consumer: Consumer<&HeapRing>,
    mut position: u32,
    steps: impl Iterator<Item = (u8, u64)>,
) {
    let slots = memory.slots();
    let mut held = 0;
    for (what, word) in steps {
        match what % 6 {
            // A header where one is looked for, with any length and kind.
            0 | 1 => {
                let header = u64::from(position.wrapping_add(1)) | word << 32;
                memory.header(position & (slots - 1)).store(header, Ordering::Release);
                position = position.wrapping_add(1);
            }
            // Any word anywhere.
            2 => memory.header(u32::from(what / 6) & (slots - 1)).store(word, Ordering::Release),
            3 | 4 => {
                let there = consumer.has_record();
                match consumer.take() {
                    Ok(Some(record)) => {
                        assert!(
                            there
                                && record.len_bytes <= body_bytes_max(memory.units()).max(INLINE_BODY_BYTES)
                        );
                        let (_, body) = memory.body(record.place, record.len_bytes);
                        assert_eq!(body.len(), record.len_bytes);
                        held += 1;
                    }
                    Ok(None) => assert!(!there),
                    // Then the connection ends.
                    Err(Corrupt(_)) => return,
                }
            }
            _ => {
                if held > 0 {
                    consumer.release();
                    held -= 1;
                }
                assert_eq!(consumer.is_held(), held > 0);
            }
        }
    }
}

fn hostile_consumer(
    memory: &HeapRing,
    mut producer: Producer<&HeapRing>,
    steps: impl Iterator<Item = (u8, u64)>,
) {
    let max = body_bytes_max(memory.units());
    for (what, word) in steps {
        let len_bytes = word as usize % (max + 1);
        match what % 6 {
            // Some more, or any word.
            0 => {
                let (slots, units) = unpack(memory.freed().load(Ordering::Acquire));
                let freed = pack(
                    slots.wrapping_add(u32::from(word as u8)),
                    units.wrapping_add(u32::from((word >> 8) as u8)),
                );
                memory.freed().store(freed, Ordering::Release);
            }
            1 => memory.freed().store(word, Ordering::Release),
            2 | 3 => {
                let Ok(claim) = producer.claim(len_bytes) else { return };
                let Some(claim) = claim else { continue };
                memory.body(claim.place, len_bytes);
                let sent = (word >> 32) as usize % (len_bytes + 1);
                let claim = producer.shorten(claim, len_bytes, sent);
                memory.body(claim.place, sent);
                producer.publish(claim, what, sent, word as u32);
            }
            // What is promised is kept.
            4 => {
                let records = (word >> 56) as usize % 4 + 1;
                if producer.has_room(records, len_bytes, records * len_bytes) {
                    for _ in 0..records {
                        let claim = producer.claim(len_bytes).expect("nothing is looked at again");
                        let claim = claim.expect("there is room");
                        memory.body(claim.place, len_bytes);
                        producer.publish(claim, what, len_bytes, 0);
                    }
                }
            }
            _ => {
                let _ = producer.is_drained();
                if word.is_multiple_of(2) { producer.reserve() } else { producer.unreserve() }
            }
        }
        // No more is taken for free than the ring has.
        assert!(producer.tail.wrapping_sub(producer.freed_slots) <= memory.slots());
        assert!(producer.bulk_tail.wrapping_sub(producer.freed_units) <= memory.units());
    }
}
