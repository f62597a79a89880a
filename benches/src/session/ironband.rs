//! A job without MPI: under any launcher, by Ironband's messages. What ranks agree on goes through rank 0; none of it is timed.

use ironband::{Context, Endpoint, Error};

use crate::{error::BenchError, point_to_point::abort};

/// Tags of what is not measured.
const TO_ROOT: u64 = 1 << 32;
const FROM_ROOT: u64 = TO_ROOT + 1;
const TO_PEER: u64 = TO_ROOT + 2;

/// A context, closed when dropped.
pub(super) struct Job {
    context: Option<Context>,
}

/// Ends the job when a call fails: the other ranks may wait for this one.
fn check<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        abort()
    })
}

impl Job {
    pub(super) fn start() -> Result<Self, BenchError> {
        Ok(Self { context: Some(Context::open()?) })
    }

    pub(super) fn context(&self) -> &Context {
        self.context.as_ref().expect("it is closed when this is dropped")
    }

    /// This rank, and how many there are.
    pub(super) fn place(&self) -> (i32, i32) {
        let context = self.context();
        let small = |number: u32| i32::try_from(number).expect("a job has fewer than two billion ranks");
        (small(context.rank()), small(context.size()))
    }

    fn peer(&self, rank: u32) -> Endpoint<'_> {
        check(self.context().endpoint(rank))
    }

    /// Sends a message of any length: its length goes first.
    fn send(&self, to: u32, tag: u64, bytes: &[u8]) {
        check(self.peer(to).send(tag, &(bytes.len() as u64).to_le_bytes()));
        check(self.peer(to).send(tag, bytes));
    }

    /// Receives what [`Job::send`] has sent. By receives that name their source, so that the end of that process is noticed.
    fn receive(&self, from: u32, tag: u64) -> Vec<u8> {
        let mut len_bytes = [0; 8];
        check(self.peer(from).receive(tag, &mut len_bytes));
        let mut bytes = vec![0; u64::from_le_bytes(len_bytes) as usize];
        check(self.peer(from).receive(tag, &mut bytes));
        bytes
    }

    pub(super) fn tell(&self, peer: i32, text: &str) {
        self.send(peer as u32, TO_PEER, text.as_bytes());
    }

    pub(super) fn hear(&self, peer: i32) -> String {
        String::from_utf8_lossy(&self.receive(peer as u32, TO_PEER)).into_owned()
    }

    /// What all ranks say, by rank, on rank 0; empty elsewhere.
    fn gather(&self, mine: Vec<u8>) -> Vec<Vec<u8>> {
        if self.context().rank() > 0 {
            self.send(0, TO_ROOT, &mine);
            return Vec::new();
        }
        let others = (1..self.context().size()).map(|rank| self.receive(rank, TO_ROOT));
        std::iter::once(mine).chain(others).collect()
    }

    /// What rank 0 says.
    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        if self.context().rank() > 0 {
            return self.receive(0, FROM_ROOT);
        }
        (1..self.context().size()).for_each(|rank| self.send(rank, FROM_ROOT, &bytes));
        bytes
    }

    pub(super) fn barrier(&self) {
        self.gather(Vec::new());
        self.broadcast(Vec::new());
    }

    pub(super) fn sum_at_root(&self, value: f64) -> f64 {
        self.gather_at_root(&[value]).into_iter().sum()
    }

    pub(super) fn gather_at_root(&self, samples: &[f64]) -> Vec<f64> {
        let bytes = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let of_one = |bytes: Vec<u8>| -> Vec<f64> {
            bytes.as_chunks::<8>().0.iter().map(|sample| f64::from_le_bytes(*sample)).collect()
        };
        self.gather(bytes).into_iter().flat_map(of_one).collect()
    }

    pub(super) fn first_word(&self, word: Option<&str>) -> Option<(i32, String)> {
        // A word begins with a space, so that an empty one is told from none.
        let said = self.gather(word.map_or_else(Vec::new, |word| format!(" {word}").into_bytes()));
        let first = said.iter().position(|word| !word.is_empty());
        let told =
            first.map_or_else(Vec::new, |rank| [&(rank as u32).to_le_bytes()[..], &said[rank][1..]].concat());
        let heard = self.broadcast(told);
        let (rank, word) = heard.split_first_chunk::<4>()?;
        Some((u32::from_le_bytes(*rank) as i32, String::from_utf8_lossy(word).into_owned()))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.context.take().map(Context::close) {
            eprintln!("{error}");
        }
    }
}
