//! Records of the shared-memory ring other than user messages: the protocol that stands in for RDMA where the kernel
//! cannot copy between processes, and the atomics. Each fits in one cache line.
//!
//! ```text
//!  PullRequest    | job 4 | chunk 4 | address 8 | key 8 | length 8 | ticket 4 | 0 4 |   owner, send me this memory
//!  ShareRequest   | ticket 4 | chunk 4 | source 8 | key 8 | target 8 | length 8 | ... and copy a part of it yourself
//!  PushHeader     | job 4 | last 4 | address 8 | key 8 | total 8 | (then data)  store this at address
//!  PushAck        | job 4 | status 4 |
//!  AtomicRequest  | job 4 | code 2 | width 2 | address 8 | key 8 | operand 8 | compare 8 |
//!  AtomicReply    | job 4 | status 4 | old value 8 |
//!  AheadOffer     | address 8 | key 8 | length 8 |                                      the bytes of this memory follow
//! ```
//! Pull data is the bare bytes; its job number is the record's immediate word. Behind a `SendAhead` come one `AheadOffer` and
//! then its bytes in order, as `AheadData`; nothing comes in between.

use super::{Reader, Writer};

/// Room for a record's body beside the slot header in one cache line.
pub const INLINE_RECORD_BYTES: usize = 48;

numbered! {
    /// What a ring record is.
    RecordKind: u8, from_u8 {
        /// A message for the layer above.
        Send = 1,
        /// An RDMA write with immediate has been done; the body is its length (8 bytes).
        Written = 2,
        /// See the diagrams, as for those that follow.
        PullRequest = 3,
        /// A piece of what was asked for, in order.
        PullData = 4,
        /// The request was refused; the body is a `PushAck`.
        PullRefused = 5,
        /// A piece of an RDMA write.
        Push = 6,
        /// The write is done, or refused.
        PushAck = 7,
        /// An atomic.
        AtomicRequest = 8,
        /// Its result.
        AtomicReply = 9,
        /// A read that both ends work on.
        ShareRequest = 10,
        /// The sender closes this ring: no record follows.
        Goodbye = 11,
        /// As `Send`; an `AheadOffer` comes next.
        SendAhead = 12,
        /// The memory of which the message before told is sent unasked.
        AheadOffer = 13,
        /// A piece of it, in order.
        AheadData = 14,
    }
}

numbered! {
    /// How a request ended, on the wire.
    WireStatus: u32, from_u32 {
        /// Done.
        Success = 0,
        /// Key, range or access was refused.
        RemoteAccess = 1,
    }
}

numbered! {
    /// Atomic operations on the wire.
    #[expect(missing_docs, reason = "the names are the operations")]
    AtomicCode: u16, from_u16 {
        FetchAdd = 1,
        FetchAnd = 2,
        FetchOr = 3,
        FetchXor = 4,
        FetchMin = 5,
        FetchMax = 6,
        Swap = 7,
        CompareSwap = 8,
    }
}

/// A structure with one fixed layout.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident, $bytes:literal { $($(#[$field_meta:meta])* $field:ident: $type:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type),+ }

        impl $name {
            /// Length on the wire.
            pub const BYTES: usize = $bytes;

            /// The bytes on the wire.
            #[inline]
            pub fn encode(&self) -> [u8; $bytes] {
                Writer::new()$(.put(&self.$field.to_le_bytes()))+.finish()
            }

            /// From the bytes on the wire; `None` if the length is not exactly [`Self::BYTES`].
            #[inline]
            pub fn decode(bytes: &[u8]) -> Option<Self> {
                let bytes: &[u8; $bytes] = bytes.try_into().ok()?;
                let mut reader = Reader::new(bytes);
                Some(Self { $($field: $type::from_le_bytes(reader.array())),+ })
            }
        }
    };
}

record! {
    /// Asks the owner of memory to send it through the ring.
    PullRequest, 40 {
        /// The asker's number for this transfer.
        job: u32,
        /// Piece length in bytes that suits the asker.
        chunk_bytes: u32,
        /// In the owner.
        address: u64,
        /// The region's key.
        key: u64,
        /// In bytes.
        len_bytes: u64,
        /// A ticket with one piece that the owner takes before it sends, so that an asker that is tired of waiting can take it
        /// instead and read by itself; [`PullRequest::NO_TICKET`] if it cannot.
        ticket: u32,
        /// 0.
        reserved: u32,
    }
}
record! {
    /// Asks the owner of memory to write a part of it into the asker's, while the asker reads the rest.
    ShareRequest, 40 {
        /// Number of the ticket, in the ring's header, that both ends take pieces from.
        ticket: u32,
        /// Piece length in bytes.
        chunk_bytes: u32,
        /// In the owner.
        source: u64,
        /// The region's key.
        key: u64,
        /// In the asker.
        target: u64,
        /// In bytes.
        len_bytes: u64,
    }
}
record! {
    /// Says which memory is sent unasked.
    AheadOffer, 24 {
        /// In the owner.
        address: u64,
        /// The region's key.
        key: u64,
        /// In bytes.
        len_bytes: u64,
    }
}
record! {
    /// Goes before each piece of an emulated RDMA write.
    PushHeader, 32 {
        /// The writer's number for this transfer.
        job: u32,
        /// 1 in the last piece (it is acknowledged), 3 if the layer above is to be notified too.
        flags: u32,
        /// Where this piece goes.
        address: u64,
        /// The region's key.
        key: u64,
        /// Length of the whole write in bytes.
        total_bytes: u64,
    }
}
record! {
    /// Ends an emulated write, or refuses a pull.
    PushAck, 8 {
        /// The asker's number.
        job: u32,
        /// A [`WireStatus`].
        status: u32,
    }
}
record! {
    /// An atomic to be done by the owner's processor.
    AtomicRequest, 40 {
        /// The asker's number.
        job: u32,
        /// An [`AtomicCode`].
        code: u16,
        /// 4 or 8.
        width: u16,
        /// In the owner.
        address: u64,
        /// The region's key.
        key: u64,
        /// Operand, or the new value.
        operand: u64,
        /// For compare-and-swap.
        compare: u64,
    }
}
record! {
    /// What an atomic found.
    AtomicReply, 16 {
        /// The asker's number.
        job: u32,
        /// A [`WireStatus`].
        status: u32,
        /// The value before.
        old: u64,
    }
}

impl PullRequest {
    /// The asker will wait.
    pub const NO_TICKET: u32 = u32::MAX;
}

impl PushHeader {
    /// This is the last piece: acknowledge.
    pub const LAST: u32 = 1;
    /// Tell the layer above when the last piece has been stored.
    pub const NOTIFY: u32 = 2;
}

const _: () =
    assert!(ShareRequest::BYTES <= INLINE_RECORD_BYTES && AtomicRequest::BYTES <= INLINE_RECORD_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let pull = PullRequest {
            job: 1,
            chunk_bytes: 0x1000,
            address: 2,
            key: 3,
            len_bytes: 4,
            ticket: 5,
            reserved: 0,
        };
        let mut golden = vec![1, 0, 0, 0, 0, 0x10, 0, 0];
        golden.extend([2u64, 3, 4, 5].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(pull.encode().as_slice(), golden);

        let atomic = AtomicRequest {
            job: 7,
            code: 8,
            width: 4,
            address: 2,
            key: 3,
            operand: 0x0a0b,
            compare: u64::MAX,
        };
        let mut golden = vec![7, 0, 0, 0, 8, 0, 4, 0];
        golden.extend([2u64, 3, 0x0a0b, u64::MAX].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(atomic.encode().as_slice(), golden);
        assert_eq!(AtomicRequest::decode(&golden), Some(atomic));

        assert_eq!(PushAck { job: 5, status: 1 }.encode(), [5, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            AtomicReply { job: 5, status: 0, old: 0x0102 }.encode(),
            [5, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]
        );
        let share = ShareRequest { ticket: 1, chunk_bytes: 2, source: 3, key: 4, target: 5, len_bytes: 6 };
        let mut golden = vec![1, 0, 0, 0, 2, 0, 0, 0];
        golden.extend([3u64, 4, 5, 6].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(share.encode().as_slice(), golden);
        let push = PushHeader { job: 1, flags: 3, address: 5, key: 6, total_bytes: 7 };
        let offer = AheadOffer { address: 0x0102, key: 3, len_bytes: 0x4000 };
        let golden: Vec<u8> = [0x0102_u64, 3, 0x4000].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(offer.encode().as_slice(), golden);

        let mut golden = vec![1, 0, 0, 0, 3, 0, 0, 0];
        golden.extend([5u64, 6, 7].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(push.encode().as_slice(), golden);
    }

    #[test]
    fn unassigned_numbers_are_refused() {
        for value in 0..=u8::MAX {
            assert!(RecordKind::from_u8(value).is_none_or(|kind| kind as u8 == value));
        }
        assert_eq!((RecordKind::from_u8(0), RecordKind::from_u8(15)), (None, None));
        assert_eq!((AtomicCode::from_u16(0), AtomicCode::from_u16(9)), (None, None));
        assert!((1..9).all(|v| AtomicCode::from_u16(v).is_some_and(|code| code as u16 == v)));
        assert_eq!(WireStatus::from_u32(2), None);
    }

    #[test]
    fn a_wrong_length_is_refused() {
        assert_eq!(PullRequest::decode(&[0; 39]), None);
        assert_eq!(PullRequest::decode(&[0; 41]), None);
    }
}
