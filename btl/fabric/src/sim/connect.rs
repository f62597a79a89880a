//! Connections: made on first use, left, broken, and ended by a death.

use super::arena::Handle;
use super::link::{Link, QueuePair, Reason};
use super::state::{Event, Ready, State};
use crate::{CompletionStatus, Posted};

impl State {
    /// The queue pair of `device` to `peer`, made if there is none that its user knows.
    pub(super) fn create_qp(&mut self, device: u32, peer: u32) -> Option<u32> {
        let adapter = self.adapter(device)?;
        let known = adapter.by_peer.get(&peer).copied();
        match known.map(|qp| (qp, &adapter.qps[qp as usize])) {
            Some((qp, known)) if !known.destroyed => Some(qp),
            known => {
                let not_before_ns = known.map_or(0, |(_, known)| known.not_before_ns);
                Some(adapter.add_qp(peer, not_before_ns))
            }
        }
    }

    /// The connection of a queue pair that may be posted to, and which end it is; or what the post returns instead.
    #[inline]
    pub(super) fn admit(&mut self, device: u32, qp: u32) -> Result<(Handle, usize), Posted> {
        let pair = self.places[device as usize].adapter.as_deref().and_then(|it| it.qps.get(qp as usize));
        let Some(pair) = pair.filter(|pair| !pair.destroyed && pair.failure.is_none()) else {
            return Err(Posted::Failed);
        };
        let (link, end) = (pair.link, pair.end as usize);
        if self.random.chance(self.options.faults.busy) {
            self.statistics.faults += 1;
            return Err(Posted::Busy);
        }
        let Some(handle) = link else {
            self.ask(device, qp);
            return Err(Posted::Busy);
        };
        match self.links.get(handle) {
            Some(link) if link.ends[end].up => Ok((handle, end)),
            _ => Err(Posted::Busy),
        }
    }

    /// Sends a connection request.
    fn ask(&mut self, device: u32, qp: u32) {
        let time_ns = self.crossing(self.options.faults.connect_delay_ns);
        let receives = self.options.receives_max;
        let Some(adapter) = self.places[device as usize].adapter.as_deref_mut() else { return };
        let pair = &mut adapter.qps[qp as usize];
        let link = self.links.insert(Link::asked_by(device, qp, pair.peer, receives));
        (pair.link, pair.end) = (Some(link), 0);
        self.events.push(time_ns.max(pair.not_before_ns), Event::Asked(link));
        self.note(|it| {
            let peer = it.links.get(link).map_or(0, |link| link.ends[1].device);
            format!("device {device} asks device {peer} for a connection, as queue pair {qp}")
        });
    }

    /// A connection request has arrived at the peer's adapter.
    pub(super) fn asked(&mut self, handle: Handle) {
        let Some(link) = self.links.get_mut(handle) else { return };
        let peer = link.ends[1].device;
        let fault = self.random.chance(self.options.faults.connect);
        if fault || self.places[peer as usize].adapter.is_none() {
            link.ends[0].reason = if fault { Reason::NotMade } else { Reason::Ended };
            self.statistics.faults += u64::from(fault);
            self.events.push(self.now_ns + self.options.latency_ns, Event::Noticed(handle, 0));
        } else if self.options.connects_alone {
            self.answer(handle);
        } else {
            self.complete(peer, Ready::Answer(handle));
        }
    }

    /// The peer accepts: it may post at once, and the asker when it has heard of it.
    pub(super) fn answer(&mut self, handle: Handle) {
        let Some(link) = self.links.get(handle) else { return };
        let (asker, peer) = (link.ends[0].device, link.ends[1].device);
        let qp = if link.is_loopback() { Some(link.ends[0].qp) } else { self.make_way(peer, asker) };
        let Some(qp) = qp else { return };
        let up_ns = self.crossing(self.options.faults.connect_delay_ns);
        let loopback = asker == peer;
        let (Some(link), Some(adapter)) =
            (self.links.get_mut(handle), self.places[peer as usize].adapter.as_deref_mut())
        else {
            return;
        };
        let end = &mut link.ends[1];
        (end.qp, end.attached, end.up) = (qp, true, true);
        link.lanes[0].last_ns = self.now_ns;
        link.lanes[1].last_ns = up_ns;
        if !loopback {
            let pair = &mut adapter.qps[qp as usize];
            (pair.link, pair.end) = (Some(handle), 1);
        }
        self.statistics.connections += 1;
        self.events.push(up_ns, Event::Up(handle));
        self.note(|_| format!("device {peer} accepts device {asker}, as queue pair {qp}"));
    }

    /// The queue pair that a request of `asker` belongs to. A request of our own that crosses it is withdrawn; what is left
    /// of an earlier connection ends now.
    fn make_way(&mut self, device: u32, asker: u32) -> Option<u32> {
        let adapter = self.adapter(device)?;
        if let Some(&qp) = adapter.by_peer.get(&asker)
            && let Some(old) = adapter.qps[qp as usize].link
        {
            let end = adapter.qps[qp as usize].end;
            match self.links.get(old) {
                Some(link) if !link.ends[1].attached && end == 0 && !link.ends[0].up => {
                    if let Some(adapter) = self.adapter(device) {
                        adapter.qps[qp as usize].link = None;
                    }
                    self.drop_link(old);
                }
                Some(link) if link.broken => self.noticed(old, end),
                _ => self.left(old, 1 - end),
            }
        }
        let adapter = self.adapter(device)?;
        let known = adapter.by_peer.get(&asker).copied();
        let working = known.filter(|qp| {
            let pair = &adapter.qps[*qp as usize];
            !pair.destroyed && pair.failure.is_none()
        });
        Some(working.unwrap_or_else(|| adapter.add_qp(asker, 0)))
    }

    /// The asker has been answered.
    pub(super) fn up(&mut self, handle: Handle) {
        if let Some(link) = self.links.get_mut(handle) {
            link.ends[0].up = link.ends[0].attached;
        }
    }

    /// Ends a queue pair in an orderly way: what it has sent arrives, its requests end as flushed, and the peer finds an
    /// unconnected queue pair.
    pub(super) fn destroy_qp(&mut self, device: u32, qp: u32) {
        let earliest_ns = self.now_ns + self.options.latency_ns;
        let Some(adapter) = self.places[device as usize].adapter.as_deref_mut() else { return };
        let Some(pair) = adapter.qps.get_mut(qp as usize).filter(|pair| !pair.destroyed) else { return };
        pair.destroyed = true;
        let Some(handle) = pair.link.take() else { return };
        let end = pair.end as usize;
        let Some(link) = self.links.get(handle) else { return };
        let (leave_ns, broken) = (earliest_ns.max(link.lanes[end].last_ns), link.broken);
        pair.not_before_ns = leave_ns;
        self.note(|_| format!("device {device} destroys queue pair {qp}"));
        if !self.detach(handle, end, true) && !broken {
            self.events.push(leave_ns, Event::Left(handle, end as u8));
        }
    }

    /// The other end learns that this one has left. Nothing has failed, but what it asked for will not be done.
    pub(super) fn left(&mut self, handle: Handle, leaver: u8) {
        let other = 1 - leaver as usize;
        let Some(link) = self.links.get(handle).filter(|link| link.ends[other].attached) else { return };
        let end = link.ends[other];
        let now_ns = self.now_ns;
        if let Some(adapter) = self.adapter(end.device) {
            let pair = &mut adapter.qps[end.qp as usize];
            (pair.link, pair.not_before_ns) = (None, now_ns);
        }
        self.note(|_| {
            format!("device {} learns that the peer of queue pair {} has left", end.device, end.qp)
        });
        self.detach(handle, other, true);
    }

    /// A fault.
    pub(super) fn broken(&mut self, handle: Handle) {
        self.break_link(handle, [Reason::Broken; 2], true);
    }

    /// From now on the connection does not work, and each end learns of it when it does. What is under way may still arrive
    /// until then, up to some moment, if `lingers`.
    pub(super) fn break_link(&mut self, handle: Handle, reasons: [Reason; 2], lingers: bool) -> bool {
        let notices = [(); 2].map(|()| self.crossing(self.options.faults.notice_delay_ns));
        let Some(link) = self.links.get_mut(handle) else { return false };
        if link.broken || link.ends.iter().any(|end| !end.attached) {
            return false;
        }
        link.broken = true;
        for end in 0..2 {
            link.ends[end].reason = reasons[end];
            // Whoever has been told finds nothing more.
            let span_ns = notices[1 - end] - self.now_ns;
            let more_ns = if lingers { self.random.below(span_ns + 1) } else { 0 };
            link.lanes[end].cut_ns = self.now_ns + more_ns;
            self.events.push(notices[end], Event::Noticed(handle, end as u8));
        }
        let devices = link.ends.map(|end| end.device);
        self.note(|_| {
            format!("the connection of devices {} and {} breaks: {:?}", devices[0], devices[1], reasons[0])
        });
        true
    }

    /// This end learns that its connection has failed.
    pub(super) fn noticed(&mut self, handle: Handle, end: u8) {
        let end = end as usize;
        let Some(link) = self.links.get(handle).filter(|link| link.ends[end].attached) else { return };
        let (own, peer) = (link.ends[end], link.ends[1 - end].device);
        let text = format!("the connection to {} failed: {}", self.name_of(peer), own.reason.text());
        let now_ns = self.now_ns;
        let Some(adapter) = self.adapter(own.device) else { return };
        let pair = &mut adapter.qps[own.qp as usize];
        (pair.failure, pair.link, pair.not_before_ns) = (Some(text.into()), None, now_ns);
        self.statistics.failures += 1;
        self.note(|_| {
            format!("device {} learns that queue pair {} has failed: {:?}", own.device, own.qp, own.reason)
        });
        let told_first = self.random.below(2) == 0;
        if told_first {
            self.complete(own.device, Ready::Disconnected { qp: own.qp });
        }
        self.forget_messages(handle, end);
        self.detach(handle, end, true);
        if !told_first {
            self.complete(own.device, Ready::Disconnected { qp: own.qp });
        }
    }

    /// A device ends. Its memory is gone, so nothing reads or writes it from now on. What it has sent arrives if it was closed;
    /// if it was killed, the first part of it does.
    pub(super) fn die(&mut self, device: u32, closed: bool) {
        let Some(mut adapter) = self.places[device as usize].adapter.take() else { return };
        for ready in adapter.ready.drain(..) {
            match ready {
                // Whoever asked for a connection and was not answered.
                Ready::Answer(handle) => {
                    if let Some(link) = self.links.get_mut(handle) {
                        link.ends[0].reason = Reason::Ended;
                        self.events.push(self.now_ns + self.options.latency_ns, Event::Noticed(handle, 0));
                    }
                }
                Ready::Serve(request) => self.forget_ended(request),
                _ => {}
            }
        }
        self.note(|_| format!("device {device} {}", if closed { "is closed" } else { "is killed" }));
        for pair in &adapter.qps {
            let Some(handle) = pair.link else { continue };
            let end = pair.end as usize;
            let notice_ns = self.crossing(self.options.faults.notice_delay_ns);
            self.forget_messages(handle, end);
            let unwritten_ns = self.first_unwritten_ns(handle, end);
            if self.detach(handle, end, false) {
                continue;
            }
            let Some(link) = self.links.get_mut(handle) else { continue };
            // What was posted behind a write that will not be done does not arrive either.
            let lane = &mut link.lanes[end];
            lane.cut_ns = lane.cut_ns.min(unwritten_ns.unwrap_or(u64::MAX));
            if std::mem::replace(&mut link.broken, true) {
                continue;
            }
            link.ends[1 - end].reason = Reason::Ended;
            let lane = &mut link.lanes[end];
            let notice_ns = if closed { notice_ns.max(lane.last_ns) } else { notice_ns };
            let span_ns = notice_ns - self.now_ns;
            let cut_ns = if closed { u64::MAX } else { self.now_ns + self.random.below(span_ns + 1) };
            lane.cut_ns = lane.cut_ns.min(cut_ns);
            self.events.push(notice_ns, Event::Noticed(handle, 1 - end as u8));
        }
    }

    /// This end takes part no longer: its requests end, as flushed if it is `told`, and those of the other end are no longer
    /// its business. True if nobody is left, and the connection is gone.
    fn detach(&mut self, handle: Handle, end: usize, told: bool) -> bool {
        // The ends of a loopback are one queue pair.
        let loopback = self.links.get(handle).is_some_and(Link::is_loopback);
        let ends = if loopback { [end, 1 - end] } else { [end, end] };
        for end in ends {
            let Some(link) = self.links.get_mut(handle) else { return true };
            (link.ends[end].attached, link.ends[end].up) = (false, false);
            let own = std::mem::take(&mut link.lanes[end].requests);
            for request in own {
                self.end_request(request, told.then_some(CompletionStatus::Flushed));
            }
            let mut index = 0;
            while let Some(&request) =
                self.links.get(handle).and_then(|link| link.lanes[1 - end].requests.get(index))
            {
                self.release_target(request);
                index += 1;
            }
        }
        let nobody = self.links.get(handle).is_none_or(|link| link.ends.iter().all(|end| !end.attached));
        if nobody {
            self.drop_link(handle);
        }
        nobody
    }

    /// What this end has sent is no longer its business.
    fn forget_messages(&mut self, handle: Handle, end: usize) {
        let Some(link) = self.links.get_mut(handle) else { return };
        let (device, lane) = (link.ends[end].device, &mut link.lanes[end]);
        if std::mem::replace(&mut lane.forgotten, true) {
            return;
        }
        let count = lane.parcels.len() as u32;
        if let Some(adapter) = self.adapter(device) {
            adapter.outgoing -= count;
        }
    }

    fn drop_link(&mut self, handle: Handle) {
        self.forget_messages(handle, 0);
        self.forget_messages(handle, 1);
        let Some(link) = self.links.remove(handle) else { return };
        self.statistics.messages_lost += link.lanes.iter().map(|lane| lane.parcels.len() as u64).sum::<u64>();
    }
}

impl super::state::Adapter {
    fn add_qp(&mut self, peer: u32, not_before_ns: u64) -> u32 {
        let qp = self.qps.len() as u32;
        self.qps.push(QueuePair::new(peer, not_before_ns));
        self.by_peer.insert(peer, qp);
        qp
    }
}
