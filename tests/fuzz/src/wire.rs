//! Every decoder of `ironband_core::wire`: whatever the bytes, it answers; and what it accepts it can write again.

use std::fmt::Debug;

use ironband_core::wire::message::{Announce, Ended, Hello, Kind, Piece, Ready};
use ironband_core::wire::{
    AheadOffer, Answer, AtomicCode, AtomicReply, AtomicRequest, Card, Datagram, Greeting, Landing,
    MessageHeader, PullRequest, PushAck, PushHeader, ReadReply, ReadRequest, RecordKind, Refusal, RingOffer,
    ShareRequest, SlotTrailer, VerbsCard, WireStatus,
};

/// The target: the first byte says which decoder, the others are for it.
pub fn wire(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 26 {
        0 => again(bytes, |bytes| Card::decode(bytes).ok(), |card| card.encode().to_vec()),
        1 => again(bytes, |bytes| VerbsCard::decode(bytes).ok(), |card| card.encode().to_vec()),
        2 => again(bytes, Datagram::decode, |datagram| datagram.encode().to_vec()),
        3 => again(bytes, |bytes| MessageHeader::decode(head(bytes)?), |header| header.encode().to_vec()),
        4 => again(bytes, |bytes| SlotTrailer::decode(head(bytes)?), |trailer| trailer.encode().to_vec()),
        5 => again(bytes, |bytes| RingOffer::decode(&head(bytes)?), |offer| offer.encode().to_vec()),
        6 => again(bytes, Greeting::decode, |greeting| greeting.encode().to_vec()),
        7 => again(bytes, |bytes| Some(Landing::decode(&head(bytes)?)), |landing| landing.encode().to_vec()),
        8 => again(bytes, Answer::decode, |answer| answer.encode().to_vec()),
        9 => again(bytes, Refusal::decode, |refusal| refusal.encode().to_vec()),
        10 => again(bytes, PullRequest::decode, |record| record.encode().to_vec()),
        11 => again(bytes, ShareRequest::decode, |record| record.encode().to_vec()),
        12 => again(bytes, AheadOffer::decode, |record| record.encode().to_vec()),
        13 => again(bytes, PushHeader::decode, |record| record.encode().to_vec()),
        14 => again(bytes, PushAck::decode, |record| record.encode().to_vec()),
        15 => again(bytes, AtomicRequest::decode, |record| record.encode().to_vec()),
        16 => again(bytes, AtomicReply::decode, |record| record.encode().to_vec()),
        17 => again(bytes, |bytes| ReadRequest::decode(&head(bytes)?), |read| read.encode().to_vec()),
        18 => again(bytes, |bytes| Some(ReadReply::decode(&head(bytes)?)), |read| read.encode().to_vec()),
        19 => again(bytes, |bytes| Hello::decode(&head(bytes)?).ok(), |hello| hello.encode().to_vec()),
        20 => again(bytes, |bytes| Some(Announce::decode(&head(bytes)?)), |word| word.encode().to_vec()),
        21 => again(bytes, |bytes| Some(Ready::decode(&head(bytes)?)), |word| word.encode().to_vec()),
        22 => again(bytes, |bytes| Ended::decode(&head(bytes)?), |word| word.encode().to_vec()),
        23 => again(bytes, |bytes| Some(Piece::decode(&head(bytes)?)), |word| word.encode().to_vec()),
        24 => {
            if let Some(word) = head(bytes).map(u32::from_le_bytes)
                && let Some((kind, number)) = Kind::of_immediate(word)
            {
                assert_eq!(kind.immediate(number), word);
            }
        }
        _ => codes(bytes),
    }
}

fn head<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

/// What is accepted is written as bytes that mean the same.
fn again<T: PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Some(value) = decode(bytes) {
        assert_eq!(decode(&encode(&value)).as_ref(), Some(&value));
    }
}

/// Numbers for enumerations.
fn codes(bytes: &[u8]) {
    let [kind, low, high, rest @ ..] = head::<8>(bytes).unwrap_or_default();
    if let Some(found) = RecordKind::from_u8(kind) {
        assert_eq!(found as u8, kind);
    }
    let code = u16::from_le_bytes([low, high]);
    if let Some(found) = AtomicCode::from_u16(code) {
        assert_eq!(found as u16, code);
    }
    let status = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
    if let Some(found) = WireStatus::from_u32(status) {
        assert_eq!(found as u32, status);
    }
}
