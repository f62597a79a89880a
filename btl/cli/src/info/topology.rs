//! The processors, caches and memories of this machine as hwloc finds them: what a control group hides is not counted.

use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::ObjectType;
use serde::Serialize;

/// Counts, and the caches that ranks may share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Topology {
    /// Hardware threads.
    pub(crate) processors: usize,
    pub(crate) cores: usize,
    pub(crate) packages: usize,
    pub(crate) numa_nodes: usize,
    /// Level 2 and 3, equal ones together. What the machine does not tell is missing.
    pub(crate) caches: Vec<CacheGroup>,
}

/// Caches that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CacheGroup {
    pub(crate) level: u8,
    pub(crate) count: usize,
    /// Of each, where the machine tells it.
    pub(crate) size_bytes: Option<u64>,
    /// Hardware threads below each.
    pub(crate) processors: usize,
    /// Cores below each: with more than one, ranks on different cores meet in it.
    pub(crate) cores: usize,
}

/// Asks hwloc.
pub(crate) fn read() -> Result<Topology, String> {
    let found = hwlocality::Topology::new().map_err(|error| format!("hwloc: {error}"))?;
    let count = |kind| found.objects_with_type(kind).count();
    let caches =
        [(2, ObjectType::L2Cache), (3, ObjectType::L3Cache)].into_iter().flat_map(|(level, kind)| {
            let found = &found;
            found.objects_with_type(kind).map(move |cache| {
                let below = |kind| {
                    let inside = cache.cpuset();
                    found
                        .objects_with_type(kind)
                        .filter(|object| match (object.cpuset(), inside) {
                            (Some(object), Some(cache)) => cache.includes(object),
                            _ => false,
                        })
                        .count()
                };
                let size_bytes = match cache.attributes() {
                    Some(ObjectAttributes::Cache(attributes)) => attributes.size().map(u64::from),
                    _ => None,
                };
                CacheGroup {
                    level,
                    count: 1,
                    size_bytes,
                    processors: below(ObjectType::PU),
                    cores: below(ObjectType::Core),
                }
            })
        });
    Ok(Topology {
        processors: count(ObjectType::PU),
        cores: count(ObjectType::Core),
        packages: count(ObjectType::Package),
        numa_nodes: count(ObjectType::NUMANode),
        caches: group(caches),
    })
}

fn group(caches: impl Iterator<Item = CacheGroup>) -> Vec<CacheGroup> {
    let mut groups: Vec<CacheGroup> = Vec::new();
    for cache in caches {
        match groups.iter_mut().find(|group| CacheGroup { count: cache.count, ..(**group).clone() } == cache)
        {
            Some(group) => group.count += cache.count,
            None => groups.push(cache),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_caches_are_one_line_and_unequal_ones_are_not() {
        let cache = |level, cores| CacheGroup {
            level,
            count: 1,
            size_bytes: Some(1 << 20),
            processors: 2 * cores,
            cores,
        };
        let groups = group([cache(2, 1), cache(2, 1), cache(2, 4), cache(3, 6), cache(2, 1)].into_iter());
        assert_eq!(
            groups,
            [CacheGroup { count: 3, ..cache(2, 1) }, cache(2, 4), CacheGroup { count: 1, ..cache(3, 6) }]
        );
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let found = read().unwrap();
        assert!(found.processors >= 1 && found.numa_nodes >= 1, "{found:?}");
        assert!(found.cores <= found.processors, "{found:?}");
        for cache in &found.caches {
            assert!((1..=found.processors).contains(&cache.processors), "{found:?}");
        }
    }
}
