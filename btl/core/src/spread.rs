//! Which port a process of this node uses first, second and so on, so that the processes of a node share what there is.
//!
//! Two ports of one adapter share its connection to the processor, so a second adapter is worth more than a second port. Among
//! adapters, near memory is worth more than far memory; among equally near ones processes take turns, and once all adapters had
//! their turn, ports of one adapter take turns.

use std::collections::BTreeMap;

use crate::ports::PortName;

/// A port, and how far its adapter is from the memory of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The port.
    pub name: PortName,
    /// Any measure that grows with the distance; the same number for all where it is not known.
    pub distance: u32,
}

/// The ports in the order in which the process with this number on its node should use them. The order does not depend on that
/// of `ports`, and each port is there once.
pub fn order(ports: &[Placed], local_rank: u32) -> Vec<PortName> {
    let mut adapters: BTreeMap<&str, (u32, Vec<&PortName>)> = BTreeMap::new();
    for port in ports {
        let (distance, names) =
            adapters.entry(&port.name.adapter).or_insert_with(|| (port.distance, Vec::new()));
        *distance = port.distance.min(*distance);
        names.push(&port.name);
    }
    // Equally near adapters together, the nearest first.
    let mut rings: BTreeMap<u32, Vec<Vec<&PortName>>> = BTreeMap::new();
    for (_, (distance, mut names)) in adapters {
        names.sort();
        names.dedup();
        rings.entry(distance).or_default().push(names);
    }
    let local_rank = local_rank as usize;
    let mut turns: Vec<Vec<&PortName>> = Vec::new();
    for mut ring in rings.into_values() {
        let count = ring.len();
        ring.rotate_left(local_rank % count);
        for mut names in ring {
            let ports = names.len();
            names.rotate_left(local_rank / count % ports);
            turns.push(names);
        }
    }
    // One port of each adapter, then a second one of those that have it, and so on.
    let rounds = turns.iter().map(Vec::len).max().unwrap_or(0);
    (0..rounds)
        .flat_map(|round| turns.iter().filter_map(move |names| names.get(round)))
        .map(|name| (*name).clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn placed(adapter: &str, port: u8, distance: u32) -> Placed {
        Placed { name: PortName { adapter: adapter.to_owned(), port }, distance }
    }

    fn text(ports: &[Placed], local_rank: u32) -> String {
        let names: Vec<String> = order(ports, local_rank).iter().map(PortName::to_string).collect();
        names.join(" ")
    }

    #[test]
    fn adapters_take_turns_before_ports_do() {
        let ports = [placed("a", 1, 10), placed("a", 2, 10), placed("b", 1, 10), placed("b", 2, 10)];
        assert_eq!(text(&ports, 0), "a:1 b:1 a:2 b:2");
        assert_eq!(text(&ports, 1), "b:1 a:1 b:2 a:2");
        assert_eq!(text(&ports, 2), "a:2 b:2 a:1 b:1");
        assert_eq!(text(&ports, 3), "b:2 a:2 b:1 a:1");
        assert_eq!(text(&ports, 4), text(&ports, 0));
    }

    #[test]
    fn near_adapters_come_first_and_far_ones_before_a_second_port() {
        let ports = [placed("a", 1, 20), placed("b", 1, 10), placed("b", 2, 10)];
        assert_eq!(text(&ports, 0), "b:1 a:1 b:2");
        assert_eq!(text(&ports, 1), "b:2 a:1 b:1");
        assert_eq!(text(&[], 7), "");
    }

    fn any_ports() -> impl Strategy<Value = Vec<Placed>> {
        // One distance for each adapter, some ports of each.
        let adapter = (0..3_u32, proptest::collection::btree_set(1..4_u8, 1..3));
        proptest::collection::vec(adapter, 0..6).prop_map(|adapters| {
            let each = adapters.into_iter().enumerate();
            each.flat_map(|(at, (distance, ports))| {
                ports.into_iter().map(move |port| placed(&format!("dev{at}"), port, distance))
            })
            .collect()
        })
    }

    proptest! {
        #[test]
        fn every_port_is_there_once_whatever_the_order(ports in any_ports(), rank in any::<u32>()) {
            let ordered = order(&ports, rank);
            let names: BTreeSet<&PortName> = ordered.iter().collect();
            prop_assert_eq!(names.len(), ordered.len());
            prop_assert_eq!(ordered.len(), ports.len());
            let mut reversed = ports;
            reversed.reverse();
            prop_assert_eq!(order(&reversed, rank), ordered);
        }

        #[test]
        fn no_adapter_is_used_twice_before_another_is_used_at_all(ports in any_ports(), rank in any::<u32>()) {
            let adapters: BTreeSet<&String> = ports.iter().map(|port| &port.name.adapter).collect();
            let ordered = order(&ports, rank);
            let first: BTreeSet<&String> = ordered.iter().take(adapters.len()).map(|name| &name.adapter).collect();
            prop_assert_eq!(first, adapters);
        }

        #[test]
        fn the_first_is_of_a_nearest_adapter_and_the_first_round_goes_outward(ports in any_ports(), rank in any::<u32>()) {
            let distance = |name: &PortName| ports.iter().find(|port| port.name == *name).map(|port| port.distance);
            let adapters = ports.iter().map(|port| &port.name.adapter).collect::<BTreeSet<_>>().len();
            let round: Vec<Option<u32>> = order(&ports, rank).iter().take(adapters).map(distance).collect();
            prop_assert!(round.is_sorted(), "{round:?}");
        }

        #[test]
        fn neighbours_share_evenly(ports in any_ports(), ranks in 1..40_u32) {
            let Some(nearest) = ports.iter().map(|port| port.distance).min() else { return Ok(()) };
            let mut uses: BTreeMap<String, u32> =
                ports.iter().filter(|port| port.distance == nearest).map(|port| (port.name.adapter.clone(), 0)).collect();
            for rank in 0..ranks {
                *uses.get_mut(&order(&ports, rank)[0].adapter).expect("a nearest adapter") += 1;
            }
            let (least, most) = (uses.values().min(), uses.values().max());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{uses:?}");
        }
    }
}
