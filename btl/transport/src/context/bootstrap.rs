//! How processes that open a context together find each other, out of band: before there are connections.
//!
//! Each says where it can be reached, then all wait for all, and from then on each can be asked for what it has said. That is two steps, and two
//! traits: before the fence there is nothing to get, after it nothing to put.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ironband_pmi::Pmi;

use super::Error;
use super::location::{self, Location};

/// Processes that are about to open a context together, seen by one of them: the launcher's job ([`Context::open`](super::Context::open)), an MPI
/// communicator (`Mpi`, with the cargo feature `mpi`), or whatever a program has.
///
/// ```
/// use std::collections::BTreeMap;
/// use ironband::{Bootstrap, Config, Context, Directory, Error};
///
/// /// A process alone, whatever its launcher says.
/// #[derive(Default)]
/// struct Alone(BTreeMap<String, Vec<u8>>);
///
/// impl Bootstrap for Alone {
///     fn rank(&self) -> u32 {
///         0
///     }
///     fn size(&self) -> u32 {
///         1
///     }
///     fn local_ranks(&mut self) -> Result<u32, Error> {
///         Ok(1)
///     }
///     fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
///         self.0.insert(key.to_owned(), value.to_owned());
///         Ok(())
///     }
///     fn fence(self) -> Result<Box<dyn Directory>, Error> {
///         Ok(Box::new(self))
///     }
/// }
///
/// impl Directory for Alone {
///     fn get(&mut self, _rank: u32, key: &str) -> Result<Option<Vec<u8>>, Error> {
///         Ok(self.0.get(key).cloned())
///     }
///     fn abort(self: Box<Self>, code: i32, message: &str) -> ! {
///         eprintln!("{message}");
///         std::process::exit(code)
///     }
/// }
///
/// let context = Context::open_over(Alone::default(), &Config::default())?;
/// assert_eq!(context.size(), 1);
/// context.close()?;
/// # Ok::<(), Error>(())
/// ```
pub trait Bootstrap {
    /// The number of this process, below [`Bootstrap::size`]. It is its rank in the context.
    fn rank(&self) -> u32;

    /// The number of processes, at least 1.
    fn size(&self) -> u32;

    /// How many of these processes are on this node, this one included: they share its memory. All call it together.
    ///
    /// # Errors
    /// When the processes cannot be brought together.
    fn local_ranks(&mut self) -> Result<u32, Error>;

    /// Publishes a value of this process. Each key is put once; a value has some hundred bytes, and 64 KiB at most.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error>;

    /// Waits until all processes have called this. What they have put before can be got after.
    ///
    /// # Errors
    /// When a process is known to have ended, or the others do not come.
    fn fence(self) -> Result<Box<dyn Directory>, Error>;
}

/// What processes have published, and the way out. The context has it as long as it is open.
pub trait Directory {
    /// What `rank` has put by this key; `None` if it has put nothing. Asked for when it is first needed.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, Error>;

    /// On which node each process is, by rank: numbers that tell nodes apart. `None`, if not said otherwise, is not known: then each is taken to be alone on
    /// its node. All processes have to be told the same.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn nodes(&mut self) -> Result<Option<Vec<u32>>, Error> {
        Ok(None)
    }

    /// How long a process that has passed the fence is waited for until it answers over the transport; 300 s if not said otherwise.
    fn limit(&self) -> Duration {
        Duration::from_secs(300)
    }

    /// Leaves, after all have agreed to. Nothing is to be done if not said otherwise.
    ///
    /// # Errors
    /// When whoever started the processes does not let go.
    fn leave(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }

    /// Leaves alone, because something has failed, and waits for nobody. Nothing is to be done if not said otherwise.
    fn leave_early(self: Box<Self>) {}

    /// Ends all processes, as far as that can be done, says why on standard error, and ends this one with this exit status.
    fn abort(self: Box<Self>, code: i32, message: &str) -> !;
}

/// The job of this process's launcher.
impl Bootstrap for Pmi {
    fn rank(&self) -> u32 {
        Self::rank(self)
    }

    fn size(&self) -> u32 {
        Self::size(self)
    }

    fn local_ranks(&mut self) -> Result<u32, Error> {
        Ok(u32::try_from(self.neighbours()?.len()).unwrap_or(u32::MAX))
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        Ok(Self::put(self, key, value)?)
    }

    fn fence(mut self) -> Result<Box<dyn Directory>, Error> {
        Self::fence(&mut self)?;
        Ok(Box::new(self))
    }
}

impl Directory for Pmi {
    fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(Self::get(self, rank, key)?)
    }

    fn nodes(&mut self) -> Result<Option<Vec<u32>>, Error> {
        let size = Self::size(self);
        let nodes = Self::nodes(self)?;
        Ok(Some((0..size).map(|rank| nodes.node_of(rank)).collect()))
    }

    fn limit(&self) -> Duration {
        self.fence_limit()
    }

    fn leave(self: Box<Self>) -> Result<(), Error> {
        Ok(self.finalize()?)
    }

    fn leave_early(self: Box<Self>) {
        // A launcher may wait for the others when it is told. It notices a process that ends without a word.
        if Self::size(&self) > 1 {
            std::mem::forget(self);
        }
    }

    fn abort(self: Box<Self>, code: i32, message: &str) -> ! {
        Self::abort(*self, code, message)
    }
}

/// What a launcher would know of processes that are all in this one.
pub(super) struct SimulatedJob {
    pub(super) cards: RefCell<Vec<Vec<u8>>>,
    pub(super) locations: Vec<Location>,
}

/// One of them.
pub(super) struct Simulated {
    pub(super) rank: u32,
    pub(super) table: Rc<SimulatedJob>,
}

impl Directory for Simulated {
    fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, Error> {
        if key == location::CACHE_KEY {
            return Ok(self
                .table
                .locations
                .get(rank as usize)
                .map(|own| location::encode(own.cache).to_vec()));
        }
        Ok(self.table.cards.borrow().get(rank as usize).cloned())
    }

    fn nodes(&mut self) -> Result<Option<Vec<u32>>, Error> {
        Ok(Some(self.table.locations.iter().map(|location| location.node).collect()))
    }

    fn abort(self: Box<Self>, code: i32, message: &str) -> ! {
        eprintln!("ironband: rank {} aborts: {message}", self.rank);
        std::process::exit(code)
    }
}
