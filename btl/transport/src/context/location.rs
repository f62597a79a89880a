//! Where the processes of a job are: which of them share a node, and which of those a cache. For those who arrange what processes do by that.
//!
//! Each process says with its card by which third-level cache it runs, as hwloc sees it. The launcher knows the nodes of all; the caches are
//! asked of it only when somebody wants to know them, and only those of the own node.

use hwlocality::Topology;
use hwlocality::cpu::binding::CpuBindingFlags;
use hwlocality::object::types::ObjectType;

use super::bootstrap::{Bootstrap, Directory};
use super::{Context, Error};

/// By which processes publish their caches.
pub(super) const CACHE_KEY: &str = "cache";
/// Of those that are bound to none.
const NO_CACHE: u32 = u32::MAX;
/// Of so many processes of a node the caches are asked: each asks for each, so a launcher has as many questions as there are pairs.
const ASKED_MAX: usize = 256;

/// Where a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Its node, as the launcher says. The numbers tell nodes apart, and no more.
    pub node: u32,
    /// The third-level cache of that node whose processors it is bound to, if it is bound so: the number of its first processor. Of a process of
    /// another node it is not known, and of none on a node with more than 256 processes of the job.
    pub cache: Option<u32>,
}

impl Context {
    /// Where the processes of the job are, by rank. All processes are told the same of nodes, and those of a node the same of its caches.
    ///
    /// Where a launcher speaks PMIx and does not tell nodes, all processes have to call this at the same time; nowhere else does it wait
    /// for other processes.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let locations = context.locations()?;
    /// assert_eq!(locations.len(), context.size() as usize);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WireUp`] when the launcher does not answer, [`Error::Unreachable`] when a process has not said where it runs, or this one has left
    /// the job; [`Error::Bootstrap`] when the nodes that a program's [`Directory`] tells are not those of all processes.
    pub fn locations(&self) -> Result<Vec<Location>, Error> {
        let mut directory = self.directory.borrow_mut();
        let has_left =
            || Error::Unreachable { rank: self.rank(), reason: "this process has left the job".to_owned() };
        ask(directory.as_deref_mut().ok_or_else(has_left)?, self.rank(), self.size())
    }
}

/// Says by which cache this process runs, before the fence after which others may ask.
pub(super) fn publish(bootstrap: &mut impl Bootstrap) -> Result<(), Error> {
    let cache = if bootstrap.size() > 1 { own_cache() } else { None };
    bootstrap.put(CACHE_KEY, &encode(cache))
}

/// What a process publishes of its cache.
pub(super) fn encode(cache: Option<u32>) -> [u8; 4] {
    cache.unwrap_or(NO_CACHE).to_le_bytes()
}

fn ask(directory: &mut dyn Directory, rank: u32, size: u32) -> Result<Vec<Location>, Error> {
    let nodes = directory.nodes()?.unwrap_or_else(|| (0..size).collect());
    if nodes.len() != size as usize {
        let reason = format!("it tells the nodes of {} processes, and there are {size}", nodes.len());
        return Err(Error::Bootstrap { reason });
    }
    let mut locations: Vec<Location> = nodes.into_iter().map(|node| Location { node, cache: None }).collect();
    let own = locations[rank as usize].node;
    let neighbours: Vec<usize> = (0..locations.len()).filter(|&other| locations[other].node == own).collect();
    if (2..=ASKED_MAX).contains(&neighbours.len()) {
        for other in neighbours {
            locations[other].cache = cache_of(directory, other as u32)?;
        }
    }
    Ok(locations)
}

fn cache_of(directory: &mut dyn Directory, rank: u32) -> Result<Option<u32>, Error> {
    let said = directory.get(rank, CACHE_KEY)?;
    let Some(cache) = said.as_deref().and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
    else {
        let reason = format!(
            "{said:?} is not what a process says of the cache that it is bound to: it runs another version of Ironband"
        );
        return Err(Error::Unreachable { rank, reason });
    };
    Ok((cache != NO_CACHE).then_some(cache))
}

/// The third-level cache that the calling thread is bound to: the first of all processors beside it, allowed or not, so that two processes of
/// different control groups have the same number for it.
fn own_cache() -> Option<u32> {
    if !may_be_bound() {
        return None;
    }
    let topology =
        Topology::new().inspect_err(|error| tracing::debug!(%error, "hwloc does not answer")).ok()?;
    let binding = topology.cpu_binding(CpuBindingFlags::THREAD).ok()?;
    let mut caches = topology.objects_with_type(ObjectType::L3Cache);
    let own = caches.find(|cache| cache.cpuset().is_some_and(|processors| processors.includes(&binding)))?;
    let first = own.complete_cpuset()?.first_set()?;
    u32::try_from(usize::from(first)).ok()
}

/// Whether there is a processor that this process may not run on. If not hwloc need not be asked, which takes milliseconds for each of the
/// processors of a large machine.
fn may_be_bound() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
    match (allowed, online) {
        (Some(allowed), Some(online)) => allowed.trim() != online.trim(),
        // hwloc may know it all the same.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bound to one processor a thread is beside the cache of that processor, if the machine has such a cache; else beside none.
    #[test]
    fn who_is_bound_to_a_processor_is_beside_its_cache() {
        let topology = Topology::new().expect("hwloc knows every machine");
        let caches: Vec<_> = topology.objects_with_type(ObjectType::L3Cache).collect();
        for processor in topology.objects_with_type(ObjectType::PU) {
            let cpuset = processor.cpuset().expect("a processor has a set of itself");
            topology.bind_cpu(cpuset, CpuBindingFlags::THREAD).expect("a thread may be bound");
            let beside = caches.iter().find(|cache| cache.cpuset().is_some_and(|set| set.includes(cpuset)));
            let first = beside.and_then(|cache| cache.complete_cpuset()?.first_set());
            // With one processor nobody is bound.
            if may_be_bound() {
                assert_eq!(own_cache(), first.map(|first| usize::from(first) as u32));
            }
        }
        topology.bind_cpu(topology.cpuset(), CpuBindingFlags::THREAD).expect("a thread may be bound");
        if caches.len() != 1 {
            assert_eq!(own_cache(), None, "all caches are none");
        }
    }
}
