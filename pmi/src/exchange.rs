//! What every protocol offers to [`Pmi`](crate::Pmi).

use crate::deadline::Deadline;
use crate::error::Fault;
use crate::nodes::NodeMap;

/// One process's connection to the exchange of values. No call lasts longer than its deadline.
pub(crate) trait Exchange: Send {
    /// Rank and size.
    fn identity(&self) -> (u32, u32);

    /// Stores a value of this process. Others see it after a fence.
    fn put(&mut self, key: &str, value: &[u8], deadline: Deadline) -> Result<(), Fault>;

    /// What `rank` has put before a fence; `None` if it has put nothing by this key.
    fn get(&mut self, rank: u32, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>, Fault>;

    /// Until all processes have come.
    fn fence(&mut self, deadline: Deadline) -> Result<(), Fault>;

    /// Which ranks share a node, if the launcher tells.
    fn nodes(&mut self, deadline: Deadline) -> Result<Option<NodeMap>, Fault>;

    /// The ranks of the node of this process, in order, if the launcher tells them apart from [`Exchange::nodes`].
    fn neighbours(&mut self, deadline: Deadline) -> Result<Option<Vec<u32>>, Fault> {
        let (rank, _) = self.identity();
        Ok(self.nodes(deadline)?.map(|nodes| nodes.neighbours_of(rank)))
    }

    /// Asks the launcher to end all processes of the job. Says nothing, because nobody waits for the answer.
    fn abort(&mut self, code: i32, message: &str);

    /// Leaves the job.
    fn finalize(&mut self, deadline: Deadline) -> Result<(), Fault>;
}
