//! A communicator of those that live: `MPIX_Comm_shrink` of the proposal for fault tolerance in MPI.
//!
//! The first rank that is not known to have ended leads. The others report to it whom they have lost; it takes those out, tells the rest who is left,
//! and all go on in a new communicator. Who loses the leader turns to the next one.
//!
//! Known to be missing: if the leader ends between its answers, those who have none wait for those who have one, and so does one that lives and that others take
//! for lost because a connection has broken; nothing else goes on while this waits, and the communicator's limit does not count here.

use std::collections::BTreeSet;

use ironband::{Pattern, ReceiveRequest};

use crate::communicator::Communicator;
use crate::error::Error;
use crate::fate::{ID_SHRINK, tag_of};

/// A number, and ranks: what is said.
fn encode(number: u32, ranks: impl IntoIterator<Item = u32>) -> Vec<u8> {
    std::iter::once(number).chain(ranks).flat_map(u32::to_le_bytes).collect()
}

/// What was said; nothing, if it is not even a number.
fn decode(bytes: &[u8]) -> Option<(u32, Vec<u32>)> {
    let mut words =
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    Some((words.next()?, words.collect()))
}

impl Communicator<'_> {
    /// A communicator of the processes of this one that live, in the order of their ranks. All of them have to call it; usually because this one
    /// has failed.
    ///
    /// # Errors
    /// [`Error::PeerFailed`] with the own rank when others have lost this process, and go on without it.
    pub fn shrink(&self) -> Result<Self, Error> {
        let mut lost = BTreeSet::new();
        if let Err(Error::PeerFailed { rank, .. }) = self.group.check() {
            lost.insert(rank);
        }
        loop {
            let leader = (0..self.size()).find(|rank| !lost.contains(rank) || *rank == self.rank());
            let leader = leader.unwrap_or_else(|| self.rank());
            let said = if leader == self.rank() {
                Some(self.lead(&mut lost))
            } else {
                self.follow(leader, &mut lost)
            };
            let Some((id, ranks)) = said else { continue };
            let Some(rank) = ranks.iter().position(|rank| *rank == self.rank()) else {
                let reason = "others have lost this process, and go on without it".to_owned();
                return Err(Error::PeerFailed { rank: self.rank(), reason });
            };
            self.group.registry().check_id(id)?;
            let members = ranks.iter().map(|rank| self.group.member(*rank)).collect();
            return Ok(self.like_this(id, rank as u32, members));
        }
    }

    fn tag(&self) -> u64 {
        tag_of(ID_SHRINK, self.group.id().into())
    }

    /// As long as anything that is said.
    fn buffer(&self) -> Vec<u8> {
        vec![0; 4 * (1 + self.size() as usize)]
    }

    fn listen(&self, rank: u32) -> Option<ReceiveRequest<'_, Vec<u8>>> {
        let pattern = Pattern::exact(self.group.member(rank), self.tag());
        self.group.context().start_receive(pattern, self.buffer()).ok()
    }

    fn hear(request: ReceiveRequest<'_, Vec<u8>>) -> Option<(u32, Vec<u32>)> {
        let (bytes, received) = request.wait().ok()?;
        decode(&bytes[..received.len_bytes as usize])
    }

    /// Hears all whom it has not lost, and says who is left.
    fn lead(&self, lost: &mut BTreeSet<u32>) -> (u32, Vec<u32>) {
        let others: Vec<u32> = (0..self.size()).filter(|rank| *rank != self.rank()).collect();
        let listening: Vec<_> = (others.iter())
            .filter(|rank| !lost.contains(rank))
            .map(|rank| (*rank, self.listen(*rank)))
            .collect();
        let mut id = self.group.registry().next_id();
        let mut heard = Vec::new();
        for (rank, request) in listening {
            match request.and_then(Self::hear) {
                Some((next_id, lost_there)) => {
                    heard.push(rank);
                    id = id.max(next_id);
                    lost.extend(lost_there);
                }
                None => {
                    lost.insert(rank);
                }
            }
        }
        let is_left = |rank: &u32| *rank == self.rank() || (heard.contains(rank) && !lost.contains(rank));
        let left: Vec<u32> = (0..self.size()).filter(is_left).collect();
        for rank in heard {
            // Who has ended meanwhile need not know.
            let _ = self.say(rank, encode(id, left.iter().copied()));
        }
        (id, left)
    }

    /// Reports to the leader, and hears who is left; `None` if it is lost.
    fn follow(&self, leader: u32, lost: &mut BTreeSet<u32>) -> Option<(u32, Vec<u32>)> {
        let report = encode(self.group.registry().next_id(), lost.iter().copied());
        let said = self.listen(leader).filter(|_| self.say(leader, report).is_ok()).and_then(Self::hear);
        if said.is_none() {
            lost.insert(leader);
        }
        said
    }

    fn say(&self, rank: u32, words: Vec<u8>) -> Result<(), Error> {
        let request = self.group.endpoint(rank)?.start_send(self.tag(), words);
        // It is sent all the same when the request is dropped.
        request.map(drop).map_err(|error| self.group.explain(error, rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        assert_eq!(decode(&encode(7, [1, 2, 300])), Some((7, vec![1, 2, 300])));
        assert_eq!(decode(&encode(7, [])), Some((7, vec![])));
        assert_eq!(decode(&[1, 2]), None);
    }
}
