//! A device of a simulated world. What happens behind its posts and polls is the world's; here is what it lends to its
//! user.

use std::cell::OnceCell;
use std::ptr::NonNull;
use std::rc::Rc;

use ironband_core::config::Config;

use super::capabilities;
use super::card::{CARD_BYTES, Card};
use super::regions::MemoryRegion;
use super::requests::{Kind, Work};
use super::state::{Credit, Ready};
use super::world::World;
use crate::{
    Access, AtomicOp, AtomicScope, AtomicWidth, Capabilities, Completion, Device, DeviceError, Job, Message,
    Payload, Posted, QueuePairNumber, Reach, ReadHint, ReceiveToken, RegisterError, RemoteAddress, SendFill,
    Unreachable, WorkId,
};

/// What the user may look at of a queue pair, by reference.
#[derive(Debug)]
struct Seen {
    address: [u8; CARD_BYTES],
    /// Fetched when it is asked for.
    failure: OnceCell<Box<str>>,
}

/// A message that the user has not given back.
#[derive(Debug)]
struct Lent {
    bytes: Box<[u8]>,
    credit: Credit,
}

/// A device of the `sim` fabric. Dropping it is the end of its process, as its peers see it.
#[derive(Debug)]
pub struct SimDevice {
    world: World,
    number: u32,
    address: [u8; CARD_BYTES],
    name: Rc<str>,
    capabilities: Rc<Capabilities>,
    seen: Vec<Seen>,
    lent: Vec<Option<Lent>>,
    /// Free places of `lent`.
    free: Vec<u32>,
}

impl SimDevice {
    pub(super) fn open(world: &World, name: Rc<str>, config: &Config, job: &Job) -> Self {
        let state = &mut *world.state();
        let number = state.open(job.rank);
        let wanted = capabilities::of(&state.options, config.eager_bytes);
        let capabilities = match &state.capabilities {
            Some(known) if **known == wanted => Rc::clone(known),
            _ => Rc::clone(state.capabilities.insert(Rc::new(wanted))),
        };
        Self {
            number,
            address: Card { world: state.identity(), device: number, rank: job.rank }.encode(),
            name,
            capabilities,
            seen: Vec::new(),
            lent: Vec::new(),
            free: Vec::new(),
            world: world.clone(),
        }
    }

    /// Its number in its world, from 0 in the order of opening.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The world that it is in.
    pub fn world(&self) -> &World {
        &self.world
    }

    fn card(&self, address: &[u8]) -> Result<Card, Unreachable> {
        let card = Card::decode(address)?;
        let state = self.world.state();
        if card.world != state.identity() || card.device as usize >= state.places.len() {
            return Err(Unreachable::because("the peer is in another simulated world"));
        }
        if card.device == self.number && !self.capabilities.loopback {
            return Err(Unreachable::because("the device has no loopback"));
        }
        Ok(card)
    }

    /// Makes the addresses of all queue pairs up to this one.
    fn see(&mut self, qp: u32) {
        let mut state = self.world.state();
        let world = state.identity();
        while self.seen.len() <= qp as usize {
            let peer = state.adapter(self.number).map_or(0, |adapter| adapter.qps[self.seen.len()].peer);
            let rank = state.places[peer as usize].rank;
            let address = Card { world, device: peer, rank }.encode();
            self.seen.push(Seen { address, failure: OnceCell::new() });
        }
    }

    fn lend(&mut self, bytes: Box<[u8]>, credit: Credit) -> (Payload, ReceiveToken) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.lent.push(None);
            self.lent.len() as u32 - 1
        });
        let bytes = &mut self.lent[place as usize].insert(Lent { bytes, credit }).bytes;
        let payload = Payload::new(NonNull::from(&mut **bytes).cast(), bytes.len());
        (payload, ReceiveToken(u64::from(place)))
    }

    /// Counts what was refused for lack of room.
    #[inline]
    fn counted(&self, posted: Posted) -> Posted {
        if posted == Posted::Busy {
            self.world.state().statistics.busy += 1;
        }
        posted
    }

    fn assert_short(&self, len_bytes: usize) {
        let longest = self.capabilities.limits.send_copy_bytes_max;
        assert!(
            len_bytes <= longest,
            "a message of {len_bytes} bytes was posted; this device sends at most {longest} at once"
        );
    }

    fn post_request(&self, qp: QueuePairNumber, work: Work) -> Posted {
        let (len_bytes, longest) = (work.len_bytes, self.capabilities.limits.rdma_bytes_max);
        assert!(
            len_bytes <= longest,
            "{len_bytes} bytes were posted; this device moves at most {longest} at once"
        );
        let posted = self.world.state().post_request(self.number, qp.0, work);
        self.counted(posted)
    }
}

impl Device for SimDevice {
    type ProtectionDomain = ();
    type CompletionQueue = ();
    type MemoryRegion = MemoryRegion;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> &[u8] {
        &self.address
    }

    fn reach(&self, address: &[u8]) -> Result<Reach, Unreachable> {
        self.card(address).map(|_| Reach::Subnet)
    }

    fn alloc_pd(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn create_cq(&mut self, _depth: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn create_qp(&mut self, (): (), (): (), address: &[u8]) -> Result<QueuePairNumber, Unreachable> {
        let card = self.card(address)?;
        let qp = self.world.state().create_qp(self.number, card.device);
        let qp = qp.ok_or_else(|| Unreachable::because("this device was killed"))?;
        self.see(qp);
        Ok(QueuePairNumber(qp))
    }

    fn destroy_qp(&mut self, qp: QueuePairNumber) {
        self.world.state().destroy_qp(self.number, qp.0);
    }

    fn peer_address(&self, qp: QueuePairNumber) -> Option<&[u8]> {
        self.seen.get(qp.index()).map(|seen| seen.address.as_slice())
    }

    fn failure(&self, qp: QueuePairNumber) -> Option<&str> {
        let seen = self.seen.get(qp.index())?;
        if seen.failure.get().is_none() {
            let mut state = self.world.state();
            let text = state.adapter(self.number)?.qps.get(qp.index())?.failure.clone()?;
            return Some(seen.failure.get_or_init(|| text));
        }
        seen.failure.get().map(|text| &**text)
    }

    fn take_notice(&mut self) -> Option<String> {
        None
    }

    unsafe fn register(
        &mut self,
        (): (),
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<MemoryRegion, RegisterError> {
        let state = &mut *self.world.state();
        let refused = |reason: &str| RegisterError::Refused { len_bytes, reason: reason.to_owned() };
        if state.random.chance(state.options.faults.register) {
            state.statistics.faults += 1;
            return Err(refused("a fault that the simulation was asked for"));
        }
        let limit = state.options.regions_max;
        let adapter = state.adapter(self.number).ok_or_else(|| refused("this device was killed"))?;
        adapter.regions.register((start as usize, len_bytes, access), limit)
    }

    fn deregister(&mut self, region: MemoryRegion) {
        let state = &mut *self.world.state();
        let Some(adapter) = state.adapter(self.number) else { return };
        let [peers, own] = adapter.regions.deregister(region.key);
        let len_bytes = region.len_bytes;
        for (count, whose) in [(peers, "of peers"), (own, "of its own")] {
            if count > 0 {
                let what = format!(
                    "deregisters a region of {len_bytes} bytes while {count} operations {whose} that use it are under way"
                );
                state.violation(self.number, what);
            }
        }
    }

    fn remote_key(&self, region: &MemoryRegion) -> u64 {
        region.key
    }

    #[inline]
    fn post_send(&mut self, qp: QueuePairNumber, imm: u32, header: &[u8], payload: &[u8]) -> Posted {
        self.assert_short(header.len() + payload.len());
        let state = &mut *self.world.state();
        match state.room(self.number, qp.0) {
            Ok(place) => state.send(place, imm, [header, payload].concat().into_boxed_slice()),
            Err(posted) => {
                state.statistics.busy += u64::from(posted == Posted::Busy);
                posted
            }
        }
    }

    fn post_send_fill(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload_bytes_max: usize,
        fill: impl SendFill,
    ) -> Posted {
        self.assert_short(header.len() + payload_bytes_max);
        let room = self.world.state().room(self.number, qp.0);
        let place = match room {
            Ok(place) => place,
            Err(posted) => return self.counted(posted),
        };
        let mut bytes = vec![0; header.len() + payload_bytes_max];
        let (start, rest) = bytes.split_at_mut(header.len());
        start.copy_from_slice(header);
        // The world is not borrowed: the payload may come from a call that looks at it.
        let filled = fill(NonNull::from(rest).cast(), payload_bytes_max);
        assert!(filled <= payload_bytes_max, "{filled} bytes were packed into room for {payload_bytes_max}");
        bytes.truncate(header.len() + filled);
        self.world.state().send(place, imm, bytes.into_boxed_slice())
    }

    unsafe fn post_read(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        local_region: Option<&MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        _hint: ReadHint,
    ) -> Posted {
        let (local, local_key) = (local as usize, local_region.map(|region| region.key));
        self.post_request(qp, Work { kind: Kind::Read, id, local, local_key, remote, len_bytes })
    }

    unsafe fn post_write(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *const u8,
        local_region: Option<&MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        imm: Option<u32>,
    ) -> Posted {
        assert!(
            imm.is_none() || self.capabilities.write_with_immediate,
            "a write with immediate data was posted; this device has none"
        );
        let (local, local_key) = (local as usize, local_region.map(|region| region.key));
        self.post_request(qp, Work { kind: Kind::Write { imm }, id, local, local_key, remote, len_bytes })
    }

    unsafe fn post_atomic(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        result: *mut u8,
        remote: RemoteAddress,
        op: AtomicOp,
        width: AtomicWidth,
    ) -> Posted {
        assert!(self.capabilities.atomics != AtomicScope::None, "an atomic was posted; this device has none");
        let (kind, local) = (Kind::Atomic { op, width }, result as usize);
        self.post_request(qp, Work { kind, id, local, local_key: None, remote, len_bytes: width.bytes() })
    }

    #[inline]
    fn poll_cq(&mut self, (): ()) -> Option<Completion> {
        let ready = self.world.state().poll(self.number)?;
        let (qp, completion) = match ready {
            Ready::Message { qp, imm, bytes, credit } => {
                let (payload, token) = self.lend(bytes, credit);
                (qp, Completion::Received(Message { qp: QueuePairNumber(qp), imm, payload, token }))
            }
            Ready::Written { qp, imm, len_bytes, .. } => {
                (qp, Completion::WrittenWithImmediate { qp: QueuePairNumber(qp), imm, len_bytes })
            }
            Ready::Done { qp, id, operation, status } => {
                (qp, Completion::Done { qp: QueuePairNumber(qp), id, operation, status })
            }
            Ready::Disconnected { qp } => (qp, Completion::Disconnected { qp: QueuePairNumber(qp) }),
            // The world does these itself.
            Ready::Answer(_) | Ready::Serve(_) => return None,
        };
        if self.seen.len() <= qp as usize {
            self.see(qp);
        }
        Some(completion)
    }

    #[inline]
    fn is_more_likely(&self, (): ()) -> bool {
        self.world.state().adapter(self.number).is_some_and(|adapter| !adapter.ready.is_empty())
    }

    #[inline]
    fn release(&mut self, token: ReceiveToken) {
        let place = token.0 as u32;
        let Some(lent) = self.lent.get_mut(place as usize).and_then(Option::take) else { return };
        self.free.push(place);
        self.world.state().give_back(lent.credit);
    }

    fn is_idle(&self) -> bool {
        self.world.state().is_idle(self.number)
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        // A panic inside a step leaves the world borrowed; it is of no use any more.
        if let Some(mut state) = self.world.try_state() {
            state.die(self.number, true);
        }
    }
}
