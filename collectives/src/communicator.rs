//! A communicator: processes of a job that do things together.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ironband::Context;

use crate::engine::{Engine, FinishAll};
use crate::error::Error;
use crate::group::Group;
use crate::hierarchy;
use crate::operation::{Chooser, Operation};
use crate::operator::Max;
use crate::schedule::{Place, Schedule};
use crate::table::Table;
use crate::topology::Topology;

/// What a schedule is kept by: what is done, and how long an element is.
type Key = (Operation, u32);

/// A schedule that was made, and what for.
type Known = (Key, Rc<Schedule>);

/// What a communicator has made.
#[derive(Default)]
struct Schedules {
    all: RefCell<HashMap<Key, Rc<Schedule>>>,
    /// Of each kind of operation the one that was used last: most programs do few things again and again.
    last: RefCell<[Option<Known>; Operation::KINDS]>,
}

/// How many schedules a communicator keeps for the next time.
const SCHEDULES_MAX: usize = 256;

/// Processes that call collective operations together: all of them call the same ones, in the same order.
///
/// ```
/// use ironband::Context;
/// use ironband_collectives::Communicator;
/// use ironband_collectives::operator::Sum;
///
/// let context = Context::open()?;
/// let world = Communicator::world(&context)?;
/// let mut sums = [0.0; 2];
/// world.allreduce(&[1.0, f64::from(world.rank())], &mut sums, Sum)?;
/// assert_eq!(sums[0], f64::from(world.size()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// *Failure.* When a process ends, an operator panics, a message has another length than was expected or a limit passes, the communicator is of no use any more: what
/// all of its processes do with it, and are doing, ends with that error; who had all that it needed before may have the result of that operation still. That processes call
/// different things is noticed by the lengths only. [`Communicator::shrink`] makes a new one of those that live.
///
/// *Dropped*, the last communicator of those made of one [`Communicator::world`] waits for all operations under way, as long as the others take; those that have failed
/// have 3 s more, and then their buffers are leaked. A process that gives up calls [`Communicator::revoke`] of those that have some under way, or
/// [`Context::abort`], before it returns.
///
/// A communicator stays with its context and its thread:
///
/// ```compile_fail,E0505
/// # use ironband::Context;
/// # use ironband_collectives::Communicator;
/// let context = Context::open().unwrap();
/// let world = Communicator::world(&context).unwrap();
/// context.close().unwrap();
/// world.barrier().unwrap();
/// ```
pub struct Communicator<'c> {
    pub(crate) group: Rc<Group<'c>>,
    pub(crate) table: Rc<Table>,
    schedules: Rc<Schedules>,
    reproducible: bool,
    /// Where the ranks are, and where all processes of the job are.
    topology: Rc<Topology>,
    topology_of_job: Rc<Topology>,
    // Last: it drives what the others have begun.
    ends: Rc<FinishAll<'c>>,
}

impl std::fmt::Debug for Communicator<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Communicator({}: rank {} of {})", self.group.id(), self.rank(), self.size())
    }
}

/// What processes tell each other to split.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Wish {
    color: u64,
    /// Less than 2^63 is negative.
    key: u64,
    /// The rank in the old communicator.
    rank: u64,
    next_id: u64,
}

/// Of those that want no communicator.
const NO_COLOR: u64 = u64::MAX;

impl<'c> Communicator<'c> {
    /// All processes of the job, `MPI_COMM_WORLD`. They all have to call it, and the operations of each one that they make are apart from the
    /// others'. Connections are made when they are first used, and nobody waits for others here, but where [`Context::locations`] does.
    ///
    /// Its table is that of the file which the environment variable `IRONBAND_COLLECTIVES_TABLE` names, and the default one where it is not set.
    /// Together with the first operation processes make sure that all have the same: if not, that operation fails in all of them, with
    /// [`Error::TablesDiffer`], or with [`Error::Mismatch`] where that is noticed before.
    ///
    /// # Errors
    /// [`Error::TableFile`]; [`Error::Transport`] when it cannot be found out where the processes are.
    pub fn world(context: &'c Context) -> Result<Self, Error> {
        let table = Rc::new(Table::from_environment()?);
        let topology = hierarchy::topology_of_job(context)?;
        let engine = Engine::new(context);
        let members: Vec<u32> = (0..context.size()).collect();
        let id = crate::fate::Registry::of(context).next_world();
        let group = Group::new(&engine, id, context.rank(), members.into());
        let world = Self {
            group,
            table,
            schedules: Rc::default(),
            reproducible: false,
            topology: Rc::clone(&topology),
            topology_of_job: topology,
            ends: Rc::new(FinishAll(engine)),
        };
        world.group.comparisons().want(world.fingerprint());
        Ok(world)
    }

    /// One of these processes of the job.
    pub(crate) fn like_this(&self, id: u32, rank: u32, members: Vec<u32>) -> Self {
        let topology = Rc::new(self.topology_of_job.of(&members));
        let group = Group::new(self.group.engine(), id, rank, members.into());
        group.set_limit(self.group.limit());
        Self {
            group,
            table: Rc::clone(&self.table),
            schedules: Rc::default(),
            reproducible: self.reproducible,
            topology,
            topology_of_job: Rc::clone(&self.topology_of_job),
            ends: Rc::clone(&self.ends),
        }
    }

    /// The same one again.
    pub(crate) fn same(&self) -> Self {
        Self {
            group: Rc::clone(&self.group),
            table: Rc::clone(&self.table),
            schedules: Rc::clone(&self.schedules),
            reproducible: self.reproducible,
            topology: Rc::clone(&self.topology),
            topology_of_job: Rc::clone(&self.topology_of_job),
            ends: Rc::clone(&self.ends),
        }
    }

    /// Where its ranks are.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The number of this process, below [`Communicator::size`].
    pub fn rank(&self) -> u32 {
        self.group.rank()
    }

    /// The number of processes.
    pub fn size(&self) -> u32 {
        self.group.size()
    }

    /// The rank in the job of a rank of this communicator.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn rank_in_job(&self, rank: u32) -> Result<u32, Error> {
        self.check_rank(rank)?;
        Ok(self.group.member(rank))
    }

    /// Operations that take longer, those under way counted from their start, fail, and the communicator with them; `None`, as at the start, is no limit: then only the end of a process
    /// ends them.
    pub fn set_limit(&self, limit: Option<Duration>) {
        self.group.set_limit(limit);
    }

    /// From which length on which algorithm is taken. All processes have to set the same, between the same operations; the next one makes sure of
    /// it, as for [`Communicator::world`].
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_table(&mut self, table: Table) -> Result<(), Error> {
        table.check()?;
        self.table = Rc::new(table);
        self.group.comparisons().want(self.fingerprint());
        self.schedules = Rc::default();
        Ok(())
    }

    /// From now on the result of an operation depends on the values and the number of ranks alone, in every bit, whatever the lengths and the machine are:
    /// sums of floating point numbers are made in one tree over the ranks, which need not be that of another operation. All processes have to set the same,
    /// as with [`Communicator::set_table`].
    pub fn set_reproducible(&mut self, reproducible: bool) {
        self.reproducible = reproducible;
        self.group.comparisons().want(self.fingerprint());
        self.schedules = Rc::default();
    }

    pub(crate) fn place(&self) -> Place {
        Place { rank: self.rank(), size: self.size() }
    }

    /// A number that differs if choices may.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.table.fingerprint() ^ u64::from(self.reproducible)
    }

    pub(crate) fn chooser(&self, element_bytes: usize) -> Chooser<'_> {
        Chooser {
            table: &self.table,
            place: self.place(),
            element_bytes: (element_bytes as u64).max(1),
            reproducible: self.reproducible,
            is_one_node: self.table.hierarchy > 0 && self.topology.node_count() == 1,
        }
    }

    /// The schedule of an operation on elements of so many bytes: made once, and kept.
    pub(crate) fn schedule(&self, operation: Operation, element_bytes: usize) -> Rc<Schedule> {
        let key = (operation, element_bytes as u32);
        let kind = operation.kind();
        if let Some((last, schedule)) = &self.schedules.last.borrow()[kind]
            && *last == key
        {
            return Rc::clone(schedule);
        }
        let schedule = self.kept_schedule(key);
        self.schedules.last.borrow_mut()[kind] = Some((key, Rc::clone(&schedule)));
        schedule
    }

    fn kept_schedule(&self, key: Key) -> Rc<Schedule> {
        if let Some(known) = self.schedules.all.borrow().get(&key) {
            return Rc::clone(known);
        }
        let (operation, element_bytes) = key;
        let chooser = self.chooser(element_bytes as usize);
        let over_nodes = hierarchy::schedule(&chooser, &self.topology, operation);
        let new = Rc::new(over_nodes.unwrap_or_else(|| chooser.schedule(operation)));
        let mut schedules = self.schedules.all.borrow_mut();
        if schedules.len() == SCHEDULES_MAX {
            schedules.clear();
        }
        schedules.insert(key, Rc::clone(&new));
        new
    }

    pub(crate) fn check_rank(&self, rank: u32) -> Result<(), Error> {
        let size = self.size();
        if rank < size { Ok(()) } else { Err(Error::NoSuchRank { rank, size }) }
    }

    /// A communicator of the same processes, whose operations are apart from those of this one. `MPI_Comm_dup`.
    ///
    /// # Errors
    /// As [`Communicator::barrier`].
    pub fn duplicate(&self) -> Result<Self, Error> {
        let mut ids = [0];
        self.allreduce(&[self.group.registry().next_id()], &mut ids, Max)?;
        self.group.registry().check_id(ids[0])?;
        let members = (0..self.size()).map(|rank| self.group.member(rank)).collect();
        Ok(self.like_this(ids[0], self.rank(), members))
    }

    /// Processes with the same color come together, in the order of their keys and, with equal keys, of their ranks here. Who has no
    /// color gets no communicator. All processes have to call it. `MPI_Comm_split`.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::Communicator;
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let half = world.split(Some(world.rank() % 2), 0)?.expect("all have a color");
    /// assert_eq!(half.size(), world.size().div_ceil(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Communicator::barrier`].
    pub fn split(&self, color: Option<u32>, key: i32) -> Result<Option<Self>, Error> {
        let own = Wish {
            color: color.map_or(NO_COLOR, u64::from),
            key: (i64::from(key) - i64::from(i32::MIN)) as u64,
            rank: self.rank().into(),
            next_id: self.group.registry().next_id().into(),
        };
        let mut wishes = vec![Wish::default(); self.size() as usize];
        self.allgather(&[own], &mut wishes)?;
        let id = wishes.iter().map(|wish| wish.next_id).max().unwrap_or(0) as u32;
        self.group.registry().check_id(id)?;
        if color.is_none() {
            return Ok(None);
        }
        wishes.retain(|wish| wish.color == own.color);
        wishes.sort_unstable();
        let rank = wishes.iter().position(|wish| wish.rank == own.rank).unwrap_or(0) as u32;
        let members = wishes.iter().map(|wish| self.group.member(wish.rank as u32)).collect();
        Ok(Some(self.like_this(id, rank, members)))
    }

    /// The processes of each node come together. `MPI_Comm_split_type` with `MPI_COMM_TYPE_SHARED`.
    ///
    /// # Errors
    /// As [`Communicator::barrier`].
    pub fn split_node(&self, key: i32) -> Result<Self, Error> {
        // Two containers of one host are one node: shared memory reaches across.
        let path = "/proc/sys/kernel/random/boot_id";
        // Where it cannot be read the launcher is believed.
        let id = std::fs::read_to_string(path)
            .unwrap_or_else(|_| format!("node {}", self.topology.node_of(self.rank())));
        let mut own = [0_u8; 40];
        let len = id.trim().len().min(own.len());
        own[..len].copy_from_slice(&id.trim().as_bytes()[..len]);
        let mut nodes = vec![0_u8; own.len() * self.size() as usize];
        self.allgather(&own, &mut nodes)?;
        let first = nodes.chunks(own.len()).position(|node| node == own).unwrap_or(0);
        let split = self.split(Some(first as u32), key)?;
        Ok(split.unwrap_or_else(|| unreachable!("who has a color gets a communicator")))
    }
}
