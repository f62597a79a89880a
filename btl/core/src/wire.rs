//! Wire formats: everything that one process writes and another reads, other than user data. Little-endian, fixed
//! layouts, each with a diagram and golden bytes in a test.
//!
//! Whoever reads treats the bytes as hostile: unknown magic, version or kind is an error value, never a guess.

/// What is told apart by a number: an enumeration, and how a peer's number is read.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident: $number:ident, $read:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $value:literal),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr($number)]
        pub enum $name { $($(#[$variant_meta])* $variant = $value),+ }

        impl $name {
            /// From its number; `None` for a number that is not assigned.
            #[inline]
            pub const fn $read(value: $number) -> Option<Self> {
                Some(match value {
                    $($value => Self::$variant,)+
                    _ => return None,
                })
            }
        }
    };
}

mod card;
mod datagram;
mod eager_slot;
mod greeting;
pub mod message;
mod process_card;
mod record;
mod short_read;
mod verbs_card;

pub use card::{CARD_BYTES, CARD_VERSION, Card, CardError, HostIdentity};
pub use datagram::{
    CREDITS_MIN, DATAGRAM_BYTES, Datagram, DatagramKind, MESSAGE_HEADER_BYTES, MessageHeader, MessageKind,
    Offer,
};
pub use eager_slot::{
    RING_OFFER_BYTES, RingOffer, SLOT_BYTES, SLOT_MESSAGE_BYTES_MAX, SLOT_TRAILER_BYTES, SlotTrailer,
    padded_bytes, slot_message_bytes_max,
};
pub use greeting::{
    ANSWER_BYTES, Answer, GREETING_BYTES, Greeting, LANDING_BYTES, Landing, REFUSAL_BYTES, Refusal,
};
pub use process_card::{addresses_of, encode_process_card, encode_refusal_card, refusal_of};
pub use record::{
    AheadOffer, AtomicCode, AtomicReply, AtomicRequest, INLINE_RECORD_BYTES, PullRequest, PushAck,
    PushHeader, RecordKind, ShareRequest, WireStatus,
};
pub use short_read::{ReadReply, ReadRequest, SHORT_READ_BYTES_MAX};
pub use verbs_card::{Carrier, VERBS_CARD_BYTES, VERBS_VERSION, VerbsCard, VerbsCardError};

/// Takes fixed-size little-endian fields from the front of a byte string whose length was checked before.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) =
            self.0.split_first_chunk::<N>().expect("callers pass arrays of the format's full length");
        self.0 = tail;
        *head
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// Puts fixed-size little-endian fields one after another into an array.
pub(crate) struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    pub(crate) fn put(mut self, field: &[u8]) -> Self {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
        self
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn finish(self) -> [u8; N] {
        debug_assert_eq!(self.at, N, "a format's fields fill it");
        self.bytes
    }
}
