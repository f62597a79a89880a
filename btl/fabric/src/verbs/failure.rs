//! What is known when the adapter reports an error: collected here, put into words by [`ironband_core::diagnosis`].

use ironband_core::diagnosis::{self, End, FailedOperation, FailureFacts, RetrySettings};
use ironband_core::gid::{self, PeerGid};
use ironband_core::ports::PortName;
use ironband_core::wire::VerbsCard;

use super::device::VerbsDevice;
use super::gid_table;
use super::object::{ACK_TIMEOUT, RETRIES, RNR_RETRIES, WorkCompletion};
use super::port::LinkKind;
use super::tree::Root;
use crate::QueuePairNumber;
use crate::host;

const fn mtu_bytes(mtu: u8) -> u32 {
    128 << mtu
}

fn end(port: String, card: &VerbsCard) -> End {
    End { port, gid: card.gid, mtu_bytes: mtu_bytes(card.mtu) }
}

impl VerbsDevice {
    /// Fails a connection because of an error that the adapter reports, with everything that is known now.
    pub(super) fn fail_by(
        &mut self,
        qp: QueuePairNumber,
        completion: &WorkCompletion,
        operation: FailedOperation,
    ) {
        let text = diagnosis::explain(&self.failure_facts(qp, completion, operation));
        self.give_up(qp, text);
    }

    /// For a peer that does not answer: which other identifier of the own port would reach it better, as the end of a sentence.
    pub(super) fn gid_advice(&self, qp: QueuePairNumber) -> String {
        let card = &self.peers[qp.index()].card;
        let (root, adapter) =
            (Root::machine(), self.name.rsplit_once(':').map_or("", |(adapter, _)| adapter));
        let name = PortName { adapter: adapter.to_owned(), port: self.card.port };
        // Read again: addresses may have come and gone since the device was opened.
        let entries = gid_table::read(&root, &name, LinkKind::of(&root, &name));
        let peer = PeerGid { bytes: card.gid, carrier: card.carrier };
        gid::better_for(&entries, self.gid_index, &peer).map_or_else(String::new, |better| {
            let index = better.entry.index;
            format!("; {better} would reach it better: set gid_index = {index}")
        })
    }

    fn failure_facts(
        &self,
        qp: QueuePairNumber,
        completion: &WorkCompletion,
        operation: FailedOperation,
    ) -> FailureFacts {
        let peer = &self.peers[qp.index()];
        let card = &peer.card;
        FailureFacts {
            peer_rank: card.rank,
            peer_host: card.host.clone(),
            peer_pid: card.pid,
            operation,
            status: completion.status,
            vendor_error: completion.vendor_error,
            carrier: self.card.carrier,
            own: end(self.name.clone(), &self.card),
            peer: end(format!("port {}", card.port), card),
            prefix_bits: self.prefix_bits,
            retries: RetrySettings { timeout: ACK_TIMEOUT, retry_cnt: RETRIES, rnr_retry: RNR_RETRIES },
            own_port_active: self.domain.context().port(self.card.port).ok().map(|port| port.is_active),
            peer_alive: card.shares_process_numbers(&self.card).then(|| host::is_alive(card.pid)),
            worked_before: peer.connection.as_ref().is_some_and(|it| it.works.any_has_ended()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironband_core::diagnosis::status_name;
    use rdma_sys::ibv_wc_status as status;

    #[test]
    fn lengths_of_packets_are_as_verbs_count_them() {
        assert_eq!((mtu_bytes(1), mtu_bytes(5)), (256, 4096));
    }

    #[test]
    fn the_core_s_names_of_statuses_are_the_library_s() {
        let same = [
            (status::IBV_WC_SUCCESS, "IBV_WC_SUCCESS"),
            (status::IBV_WC_LOC_LEN_ERR, "IBV_WC_LOC_LEN_ERR"),
            (status::IBV_WC_LOC_QP_OP_ERR, "IBV_WC_LOC_QP_OP_ERR"),
            (status::IBV_WC_LOC_EEC_OP_ERR, "IBV_WC_LOC_EEC_OP_ERR"),
            (status::IBV_WC_LOC_PROT_ERR, "IBV_WC_LOC_PROT_ERR"),
            (status::IBV_WC_WR_FLUSH_ERR, "IBV_WC_WR_FLUSH_ERR"),
            (status::IBV_WC_MW_BIND_ERR, "IBV_WC_MW_BIND_ERR"),
            (status::IBV_WC_BAD_RESP_ERR, "IBV_WC_BAD_RESP_ERR"),
            (status::IBV_WC_LOC_ACCESS_ERR, "IBV_WC_LOC_ACCESS_ERR"),
            (status::IBV_WC_REM_INV_REQ_ERR, "IBV_WC_REM_INV_REQ_ERR"),
            (status::IBV_WC_REM_ACCESS_ERR, "IBV_WC_REM_ACCESS_ERR"),
            (status::IBV_WC_REM_OP_ERR, "IBV_WC_REM_OP_ERR"),
            (status::IBV_WC_RETRY_EXC_ERR, "IBV_WC_RETRY_EXC_ERR"),
            (status::IBV_WC_RNR_RETRY_EXC_ERR, "IBV_WC_RNR_RETRY_EXC_ERR"),
            (status::IBV_WC_LOC_RDD_VIOL_ERR, "IBV_WC_LOC_RDD_VIOL_ERR"),
            (status::IBV_WC_REM_INV_RD_REQ_ERR, "IBV_WC_REM_INV_RD_REQ_ERR"),
            (status::IBV_WC_REM_ABORT_ERR, "IBV_WC_REM_ABORT_ERR"),
            (status::IBV_WC_INV_EECN_ERR, "IBV_WC_INV_EECN_ERR"),
            (status::IBV_WC_INV_EEC_STATE_ERR, "IBV_WC_INV_EEC_STATE_ERR"),
            (status::IBV_WC_FATAL_ERR, "IBV_WC_FATAL_ERR"),
            (status::IBV_WC_RESP_TIMEOUT_ERR, "IBV_WC_RESP_TIMEOUT_ERR"),
            (status::IBV_WC_GENERAL_ERR, "IBV_WC_GENERAL_ERR"),
            (status::IBV_WC_TM_ERR, "IBV_WC_TM_ERR"),
            (status::IBV_WC_TM_RNDV_INCOMPLETE, "IBV_WC_TM_RNDV_INCOMPLETE"),
        ];
        for (number, name) in same {
            assert_eq!(status_name(number).0, name, "{number}");
        }
    }
}
