//! RDMA and atomics. A request is posted, moves in pieces, has landed, and is told of; or it is refused, or its connection fails
//! somewhere in between. Memory of a poster is used until its completion is in the queue, and not a moment longer.

use super::arena::Handle;
use super::link::Reason;
use super::memory;
use super::regions::User;
use super::state::{Credit, Event, Ready, State};
use crate::extent::Want;
use crate::{AtomicOp, AtomicScope, AtomicWidth, CompletionStatus, Operation, Posted, RemoteAddress, WorkId};

/// A request has a bit for each of its pieces.
const PIECES_MAX: u32 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write { imm: Option<u32> },
    Atomic { op: AtomicOp, width: AtomicWidth },
}

impl Kind {
    const fn operation(self) -> Operation {
        match self {
            Self::Read => Operation::Read,
            Self::Write { .. } => Operation::Write,
            Self::Atomic { .. } => Operation::Atomic,
        }
    }

    const fn want(self) -> Want {
        match self {
            Self::Read => Want::Read,
            Self::Write { .. } => Want::Write,
            Self::Atomic { .. } => Want::Atomic,
        }
    }
}

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) kind: Kind,
    pub(super) id: WorkId,
    /// Address of the poster's memory.
    pub(super) local: usize,
    /// Key of the region that it lies in.
    pub(super) local_key: Option<u64>,
    pub(super) remote: RemoteAddress,
    pub(super) len_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Request {
    work: Work,
    link: Handle,
    /// Who has posted it.
    end: u8,
    /// Where it is in the list of its lane.
    place: u32,
    pieces: u8,
    /// A bit for each piece that has moved.
    moved: u32,
    /// The target still has to do with it.
    at_target: bool,
    /// The target's device, and its end of the connection.
    target: u32,
    target_qp: u32,
    /// It was in time; from then on it is done whatever becomes of the connection, because what is behind it arrives.
    landed: bool,
    /// When all of it has to have moved.
    landed_ns: u64,
    /// The data of a write, when it does not come from its poster's memory any more.
    data: Option<Box<[u8]>>,
    /// It has ended for its poster, and its data goes on.
    ended: bool,
    /// What its poster is told if it is told of an end.
    status: CompletionStatus,
    /// Nothing more of it will be done: it was refused, or the connection had failed when it was to land.
    given_up: bool,
    /// What an atomic has found.
    old: u64,
}

impl State {
    /// Posts a request. One that needs nothing of the peer ends by itself.
    pub(super) fn post_request(&mut self, device: u32, qp: u32, work: Work) -> Posted {
        let (handle, end) = match self.admit(device, qp) {
            Ok(found) => found,
            Err(posted) => return posted,
        };
        let Some(link) = self.links.get_mut(handle) else { return Posted::Failed };
        let (broken, target, target_qp) = (link.broken, link.ends[1 - end].device, link.ends[1 - end].qp);
        let lane = &mut link.lanes[end];
        let notifies = matches!(work.kind, Kind::Write { imm: Some(_) });
        if lane.requests.len() >= self.options.outstanding_max as usize || notifies && !lane.window.has_room()
        {
            return Posted::Busy;
        }
        if work.len_bytes == 0 && !notifies {
            return Posted::Complete;
        }
        if notifies {
            lane.window.take();
        }
        let place = lane.requests.len() as u32;
        let first = place == 0 && lane.parcels.is_empty() && !broken && self.options.one_sided;
        let request = Request::new(work, (handle, end), place, (target, target_qp));
        let request = self.requests.insert(request);
        lane.requests.push(request);
        self.statistics.requests += 1;
        self.hold(device, target, work);
        self.note(|_| {
            let (operation, id, len_bytes) = (work.kind.operation(), work.id.0, work.len_bytes);
            format!("device {device} posts {operation:?} {id} of {len_bytes} bytes at device {target}")
        });
        if work.is_misaligned() {
            self.release_target(request);
            self.tell(request, CompletionStatus::RemoteAccess);
        } else if first && self.random.chance(self.options.faults.at_once) && self.execute_at_once(request) {
            return Posted::Complete;
        } else if self.requests.get(request).is_some_and(|it| !it.landed) {
            if self.never_crosses(handle, end) {
                self.release_target(request);
            }
            self.schedule(request, handle, end, work);
            self.may_break(handle);
        }
        Posted::Queued
    }

    /// Does a request in its post, with nothing before it; true if that was all. What is refused, and an atomic that takes its time,
    /// ends with a completion.
    fn execute_at_once(&mut self, request: Handle) -> bool {
        let Some(target) = self.target_of(request) else { return false };
        if let Some(found) = self.requests.get_mut(request) {
            found.landed = true;
        }
        if let Some(written) = self.execute(request) {
            self.complete(target, written);
        }
        let Some(found) = self.requests.get(request).filter(|it| it.status == CompletionStatus::Success)
        else {
            return false;
        };
        if let Kind::Atomic { width, .. } = found.work.kind {
            memory::store(found.work.local as *mut u8, width, found.old);
        }
        self.end_request(request, None);
        true
    }

    /// What is posted now on a connection that has broken does not reach the other end any more, whose regions it so leaves alone.
    fn never_crosses(&self, handle: Handle, end: usize) -> bool {
        let crossed_ns = self.now_ns + self.options.latency_ns;
        self.links.get(handle).is_some_and(|link| link.broken && crossed_ns > link.lanes[end].cut_ns)
    }

    /// Notes which regions a request uses.
    fn hold(&mut self, device: u32, target: u32, work: Work) {
        if let Some(adapter) = self.adapter(target) {
            adapter.asked += 1;
            adapter.regions.hold(work.remote.key, User::Peer);
        }
        let Some(adapter) = self.places[device as usize].adapter.as_deref_mut() else { return };
        adapter.requests += 1;
        let Some(key) = work.local_key else { return };
        adapter.regions.hold(key, User::Owner);
        if !adapter.regions.covers(key, work.local, work.len_bytes) {
            let (operation, len_bytes) = (work.kind.operation(), work.len_bytes);
            self.violation(
                device,
                format!("posts a {operation:?} whose {len_bytes} local bytes are not in the region it names"),
            );
        }
    }

    /// Decides when a request moves.
    fn schedule(&mut self, request: Handle, handle: Handle, end: usize, work: Work) {
        let faults = self.options.faults;
        let crossed_ns = self.now_ns + self.options.latency_ns;
        let delay_ns = self.random.within(faults.rdma_delay_ns);
        let transfer_ns = self.transfer_ns(work.len_bytes);
        let Some(link) = self.links.get_mut(handle) else { return };
        let lane = &mut link.lanes[end];
        // A write pushes what is behind it, and reads and atomics find what was written before them; what is behind a read may
        // overtake it.
        let (start_ns, landed_ns) = match work.kind {
            Kind::Write { .. } => {
                let start_ns =
                    if self.options.places_in_order { crossed_ns.max(lane.last_ns) } else { crossed_ns };
                lane.last_ns = lane.last_ns.max(start_ns + delay_ns) + transfer_ns;
                (start_ns, lane.last_ns)
            }
            Kind::Read => {
                let start_ns = crossed_ns.max(lane.last_ns).max(lane.last_atomic_ns);
                (start_ns, start_ns + delay_ns + transfer_ns)
            }
            Kind::Atomic { .. } => {
                let start_ns = crossed_ns.max(lane.last_ns).max(lane.last_atomic_ns);
                lane.last_atomic_ns = start_ns + delay_ns;
                (start_ns, start_ns + delay_ns)
            }
        };
        let pieces_max = u64::from(faults.pieces_max.min(PIECES_MAX)).min(work.len_bytes as u64);
        if pieces_max > 1 && self.options.one_sided && !matches!(work.kind, Kind::Atomic { .. }) {
            let pieces = 1 + self.random.below(pieces_max);
            if let Some(request) = self.requests.get_mut(request) {
                request.pieces = pieces as u8;
            }
            for _ in 1..pieces {
                let time_ns = start_ns + self.random.below(landed_ns - start_ns + 1);
                self.events.push(time_ns, Event::Piece(request));
            }
        }
        if let Some(request) = self.requests.get_mut(request) {
            request.landed_ns = landed_ns;
        }
        self.events.push(landed_ns, Event::Landed(request));
    }

    /// The target's device, if the request reaches it now.
    fn target_of(&self, request: Handle) -> Option<u32> {
        let found = self.requests.get(request)?;
        if found.landed {
            return self.places[found.target as usize].adapter.is_some().then_some(found.target);
        }
        let link = self.links.get(found.link)?;
        let (lane, target) = (&link.lanes[found.end as usize], link.ends[1 - found.end as usize]);
        (target.attached && self.now_ns <= lane.cut_ns).then_some(target.device)
    }

    /// The target's memory, if it may be used so.
    fn target_memory(&self, request: Handle, target: u32) -> Option<*mut u8> {
        let Work { kind, remote, len_bytes, .. } = self.requests.get(request)?.work;
        let adapter = self.places[target as usize].adapter.as_deref()?;
        adapter.regions.check(remote.key, remote.address, len_bytes as u64, kind.want())
    }

    /// One piece moves, any of those that have not. What is refused is noticed when all have to have moved.
    pub(super) fn piece(&mut self, request: Handle) {
        let Some(target) = self.target_of(request) else { return };
        let Some(memory) = self.target_memory(request, target) else { return };
        let Some(found) = self.requests.get_mut(request) else { return };
        let left = u32::from(found.pieces) - found.moved.count_ones();
        let Some(mut which) = left.checked_sub(1).map(|_| self.random.below(u64::from(left)) as u32) else {
            return;
        };
        for piece in 0..u32::from(found.pieces) {
            if found.moved & 1 << piece > 0 {
                continue;
            }
            if which == 0 {
                self.statistics.rdma_bytes += found.move_piece(piece, memory);
                return;
            }
            which -= 1;
        }
    }

    /// All of a request has to have moved now; if the adapter cannot do it alone, when the target polls.
    pub(super) fn landed(&mut self, request: Handle) {
        let Some(target) = self.target_of(request) else {
            if let Some(found) = self.requests.get_mut(request) {
                found.given_up = true;
            }
            self.forget_ended(request);
            return;
        };
        let Some(found) = self.requests.get_mut(request) else { return };
        found.landed = true;
        if !self.options.one_sided {
            // The data of a write has come, and waits with it.
            if let (Kind::Write { .. }, work) = (found.work.kind, found.work) {
                let copy = || memory::snapshot(work.local as *const u8, work.len_bytes);
                found.data.get_or_insert_with(copy);
            }
            self.complete(target, Ready::Serve(request));
        } else if let Some(written) = self.execute(request) {
            self.complete(target, written);
        }
    }

    /// Does what is left of a request at its target; returns the notification of it.
    pub(super) fn execute(&mut self, request: Handle) -> Option<Ready> {
        let target = self.target_of(request)?;
        let fault = self.random.chance(self.options.faults.refusal);
        self.statistics.faults += u64::from(fault);
        let Some(memory) = self.target_memory(request, target).filter(|_| !fault) else {
            self.refuse(request);
            self.forget_ended(request);
            return None;
        };
        let found = self.requests.get_mut(request)?;
        if let Kind::Atomic { op, width } = found.work.kind {
            self.run_atomic(request, target, memory, op, width);
            return None;
        }
        for piece in 0..u32::from(found.pieces) {
            if found.moved & 1 << piece == 0 {
                self.statistics.rdma_bytes += found.move_piece(piece, memory);
            }
        }
        let (kind, qp, len_bytes) = (found.work.kind, found.target_qp, found.work.len_bytes);
        let credit = Credit { link: found.link, sender: found.end };
        self.done_at_target(request);
        self.forget_ended(request);
        self.note(|_| format!("{:?} of {len_bytes} bytes is done at device {target}", kind.operation()));
        match kind {
            Kind::Write { imm: Some(imm) } => Some(Ready::Written { qp, imm, len_bytes, credit }),
            _ => None,
        }
    }

    /// Nobody waits for the end of a write that has ended for its poster.
    pub(super) fn forget_ended(&mut self, request: Handle) {
        if self.requests.get(request).is_some_and(|found| found.ended) {
            self.requests.remove(request);
        }
    }

    fn run_atomic(
        &mut self,
        request: Handle,
        target: u32,
        memory: *mut u8,
        op: AtomicOp,
        width: AtomicWidth,
    ) {
        let delay = self.options.faults.rdma_delay_ns;
        let excludes_processor = self.options.atomics == AtomicScope::Global || delay.max == 0;
        let Some(adapter) = self.places[target as usize].adapter.as_deref_mut() else { return };
        if excludes_processor && !adapter.atomic_under_way {
            let old = memory::run_atomic(memory, op, width);
            if let Some(found) = self.requests.get_mut(request) {
                found.old = old;
            }
            self.done_at_target(request);
            return;
        }
        if std::mem::replace(&mut adapter.atomic_under_way, true) {
            adapter.atomics.push_back(request);
            return;
        }
        if let Some(found) = self.requests.get_mut(request) {
            found.old = memory::load(memory, width);
        }
        let stored_ns = self.now_ns + self.random.within(delay);
        self.events.push(stored_ns, Event::Stored(request, target));
    }

    /// The second half of the first atomic; then the next one's turn comes.
    pub(super) fn stored(&mut self, request: Handle, device: u32) {
        if self.target_of(request).is_some()
            && let Some(found) = self.requests.get(request)
            && let Kind::Atomic { op, width } = found.work.kind
        {
            let new = memory::apply(op, width, found.old);
            match self.target_memory(request, device) {
                Some(memory) => {
                    memory::store(memory, width, new);
                    self.done_at_target(request);
                }
                None => self.refuse(request),
            }
        }
        if let Some(adapter) = self.adapter(device) {
            adapter.atomic_under_way = false;
        }
        while let Some(adapter) = self.adapter(device).filter(|adapter| !adapter.atomic_under_way)
            && let Some(next) = adapter.atomics.pop_front()
        {
            // Nothing, if its connection has failed meanwhile.
            let _ = self.execute(next);
        }
    }

    /// The target has nothing to do with a request any more; its poster will be told.
    fn done_at_target(&mut self, request: Handle) {
        self.release_target(request);
        self.tell(request, CompletionStatus::Success);
    }

    fn tell(&mut self, request: Handle, status: CompletionStatus) {
        let time_ns = self.crossing(self.options.faults.completion_delay_ns);
        if let Some(found) = self.requests.get_mut(request) {
            found.status = status;
            self.events.push(time_ns, Event::Completed(request));
        }
    }

    /// The target refuses a request. On devices that do not survive that, the connection fails, and the request ends with it.
    fn refuse(&mut self, request: Handle) {
        self.statistics.refusals += 1;
        self.release_target(request);
        let Some(found) = self.requests.get_mut(request) else { return };
        found.given_up = true;
        let (handle, end, kind, id) = (found.link, found.end as usize, found.work.kind, found.work.id.0);
        self.note(|_| format!("{:?} {id} is refused", kind.operation()));
        if self.options.survives_refusal {
            if let (Kind::Write { imm: Some(_) }, Some(link)) = (kind, self.links.get_mut(handle)) {
                link.lanes[end].window.untake();
            }
            self.tell(request, CompletionStatus::RemoteAccess);
            return;
        }
        if self.options.names_refusal
            && let Some(found) = self.requests.get_mut(request)
        {
            found.status = CompletionStatus::RemoteAccess;
        }
        let mut reasons = [Reason::HasRefused; 2];
        reasons[end] = Reason::WasRefused;
        self.break_link(handle, reasons, false);
    }

    /// Word of a request's end has come, unless the connection failed before.
    pub(super) fn completed(&mut self, request: Handle) {
        let Some(found) = self.requests.get(request) else { return };
        let (status, old, work) = (found.status, found.old, found.work);
        let Some(link) = self.links.get(found.link) else { return };
        if self.now_ns > link.lanes[1 - found.end as usize].cut_ns {
            return;
        }
        if let (Kind::Atomic { width, .. }, CompletionStatus::Success) = (work.kind, status) {
            memory::store(work.local as *mut u8, width, old);
        }
        self.end_request(request, Some(status));
    }

    /// Ends a request. With a status, its poster finds a completion; one that was not told of its success, because the
    /// connection has failed, is told that it was flushed. The data of a write that is under way goes on without it: what was
    /// posted behind it may arrive.
    pub(super) fn end_request(&mut self, request: Handle, status: Option<CompletionStatus>) {
        self.release_target(request);
        let Some(found) = self.requests.get_mut(request) else { return };
        let (work, link, end, place) = (found.work, found.link, found.end as usize, found.place);
        let refused = found.status == CompletionStatus::RemoteAccess;
        let is_write = matches!(work.kind, Kind::Write { .. });
        let undone = found.status == CompletionStatus::Flushed && !found.given_up;
        let lands = found.landed || status == Some(CompletionStatus::Flushed);
        // One that waits for the target's processor waits for nothing when that is dead.
        let served = !found.landed || self.places[found.target as usize].adapter.is_some();
        if is_write && undone && lands && served {
            found.ended = true;
            let copy = || memory::snapshot(work.local as *const u8, work.len_bytes);
            found.data.get_or_insert_with(copy);
        } else {
            self.requests.remove(request);
        }
        let Some(link) = self.links.get_mut(link) else { return };
        let own = link.ends[end];
        let list = &mut link.lanes[end].requests;
        // The list is empty when all of it ends.
        if list.get(place as usize) == Some(&request) {
            list.swap_remove(place as usize);
            if let Some(filler) = list.get(place as usize).and_then(|filler| self.requests.get_mut(*filler)) {
                filler.place = place;
            }
        }
        let Some(adapter) = self.adapter(own.device) else { return };
        adapter.requests -= 1;
        if let Some(key) = work.local_key {
            adapter.regions.unhold(key, User::Owner);
        }
        let Some(status) = status else { return };
        let status = if refused { CompletionStatus::RemoteAccess } else { status };
        let (id, operation) = (work.id, work.kind.operation());
        self.note(|_| format!("{operation:?} {} of device {} ends: {status:?}", id.0, own.device));
        self.complete(own.device, Ready::Done { qp: own.qp, id, operation, status });
    }

    /// Just before the first write of this end lands that is still under way.
    pub(super) fn first_unwritten_ns(&self, handle: Handle, end: usize) -> Option<u64> {
        let own = self.links.get(handle)?.lanes[end].requests.iter().filter_map(|it| self.requests.get(*it));
        let writes = own.filter(|it| matches!(it.work.kind, Kind::Write { .. }) && !it.landed);
        writes.map(|it| it.landed_ns.saturating_sub(1)).min()
    }

    /// The target need not keep its region for this request any more.
    pub(super) fn release_target(&mut self, request: Handle) {
        let Some(found) = self.requests.get_mut(request) else { return };
        if !std::mem::replace(&mut found.at_target, false) {
            return;
        }
        let (key, end, handle) = (found.work.remote.key, found.end as usize, found.link);
        let Some(target) = self.links.get(handle).map(|link| link.ends[1 - end].device) else { return };
        if let Some(adapter) = self.adapter(target) {
            adapter.asked -= 1;
            adapter.regions.unhold(key, User::Peer);
        }
    }
}

impl Work {
    const fn is_misaligned(&self) -> bool {
        matches!(self.kind, Kind::Atomic { width, .. } if !self.remote.address.is_multiple_of(width.bytes() as u64))
    }
}

impl Request {
    const fn new(work: Work, poster: (Handle, usize), place: u32, target: (u32, u32)) -> Self {
        Self {
            work,
            link: poster.0,
            end: poster.1 as u8,
            place,
            pieces: 1,
            moved: 0,
            at_target: true,
            target: target.0,
            target_qp: target.1,
            landed: false,
            landed_ns: 0,
            data: None,
            ended: false,
            status: CompletionStatus::Flushed,
            given_up: false,
            old: 0,
        }
    }

    /// Moves one piece between the poster's memory and the target's; returns how long it is.
    fn move_piece(&mut self, piece: u32, target: *mut u8) -> u64 {
        self.moved |= 1 << piece;
        let edge =
            |piece: u32| (self.work.len_bytes as u128 * u128::from(piece) / u128::from(self.pieces)) as usize;
        let (from, to) = (edge(piece), edge(piece + 1));
        let (local, target) = ((self.work.local as *mut u8).wrapping_add(from), target.wrapping_add(from));
        match (self.work.kind, &self.data) {
            (Kind::Read, _) => memory::copy(target, local, to - from),
            (_, Some(bytes)) => memory::copy(bytes[from..].as_ptr(), target, to - from),
            (_, None) => memory::copy(local, target, to - from),
        }
        (to - from) as u64
    }
}
