//! What went wrong, for a person.

use rdma_sys::ibv_wc_status as status;

use super::connection::Peer;
use super::object::{ACK_TIMEOUT, RETRIES, WorkCompletion};
use ironband_core::gid::gid_text;
use ironband_core::wire::VerbsCard;

const fn mtu_bytes(mtu: u8) -> u32 {
    128 << mtu
}

/// Likely cause, and what to try.
fn advice(number: u32) -> &'static str {
    match number {
        status::IBV_WC_RETRY_EXC_ERR => {
            "the peer has ended, or packets do not get through: look at the link, the peer's process and the MTU of both ends"
        }
        status::IBV_WC_RNR_RETRY_EXC_ERR => {
            "the peer has posted no receive for too long: its process may be stopped"
        }
        status::IBV_WC_REM_ACCESS_ERR => {
            "the key, the range or the access of a remote operation was refused: the memory is not registered (any more), or not for this"
        }
        status::IBV_WC_REM_INV_REQ_ERR => {
            "the peer's adapter refused the request: both ends must run the same release"
        }
        status::IBV_WC_REM_OP_ERR => {
            "the peer's adapter could not do the request: look at the peer's kernel log"
        }
        status::IBV_WC_LOC_PROT_ERR => {
            "the local memory of the request is not registered, or for reading only"
        }
        status::IBV_WC_WR_FLUSH_ERR => {
            "the adapter had ended the connection before: a request of the peer was refused, or the port went down"
        }
        _ => "look at the kernel's log of both hosts",
    }
}

/// Everything that is known of a failed work.
pub(super) fn explain(own: &VerbsCard, peer: &Peer, completion: &WorkCompletion, operation: &str) -> String {
    let end = |card: &VerbsCard| {
        format!("{} port {} with MTU {}", gid_text(&card.gid), card.port, mtu_bytes(card.mtu))
    };
    let wait_ms = (4096_u64 << ACK_TIMEOUT) / 1_000_000;
    format!(
        "{operation} ended with status {} ({}, vendor error {:#x}); {}; from {} to {}, {RETRIES} repetitions after {wait_ms} ms each",
        completion.status,
        completion.status_text(),
        completion.vendor_error,
        advice(completion.status),
        end(own),
        end(&peer.card),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_shown_as_addresses() {
        let mut gid = [0; 16];
        gid[10..].copy_from_slice(&[0xff, 0xff, 10, 77, 0, 1]);
        assert_eq!(gid_text(&gid), "10.77.0.1");
        assert_eq!((mtu_bytes(1), mtu_bytes(5)), (256, 4096));
        let mut gid = [0; 16];
        gid[..2].copy_from_slice(&[0xfe, 0x80]);
        assert_eq!(gid_text(&gid), "fe80::");
    }
}
