//! Which port of a peer each own port talks to, where both have several.

use std::collections::BTreeSet;

use crate::gid::Reach;

/// The port of a peer that each own port talks to, given how well each of ours reaches each of theirs (rows are ours); `None` for
/// a port that is left out.
///
/// Both processes come to the same pairs: only the best reach counts, and among such pairs each port takes the first that is
/// free, which is the same taken from either side. Each port has one partner at most: what a process registers with one of its
/// ports can be reached by that port's partner. Once two ports are in one network, those that need a router are left out.
pub fn pairs(reach: &[Vec<Option<Reach>>]) -> Vec<Option<usize>> {
    let mut all = Vec::new();
    for (own, row) in reach.iter().enumerate() {
        let reached = row.iter().enumerate().filter_map(|(peer, reach)| Some((peer, (*reach)?)));
        all.extend(
            reached.filter(|(_, reach)| *reach > Reach::Never).map(|(peer, reach)| (reach, own, peer)),
        );
    }
    let best = all.iter().map(|(reach, ..)| *reach).max();
    all.retain(|(reach, ..)| Some(*reach) == best);
    let mut partners = vec![None; reach.len()];
    let mut taken = BTreeSet::new();
    for (_, own, peer) in all {
        if partners[own].is_none() && taken.insert(peer) {
            partners[own] = Some(peer);
        }
    }
    partners
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEAR: Option<Reach> = Some(Reach::Subnet);
    const FAR: Option<Reach> = Some(Reach::Routed);

    #[test]
    fn like_numbers_are_partners_unless_networks_differ() {
        assert_eq!(pairs(&[vec![NEAR, NEAR], vec![NEAR, NEAR]]), [Some(0), Some(1)]);
        assert_eq!(pairs(&[vec![FAR, NEAR], vec![NEAR, FAR]]), [Some(1), Some(0)]);
        assert_eq!(pairs(&[vec![NEAR, FAR], vec![FAR, FAR]]), [Some(0), None], "the other needs a router");
        assert_eq!(pairs(&[vec![FAR, FAR], vec![FAR, FAR]]), [Some(0), Some(1)], "all need one");
        assert_eq!(pairs(&[vec![NEAR, NEAR]]), [Some(0)]);
        assert_eq!(pairs(&[vec![NEAR], vec![NEAR]]), [Some(0), None], "as the peer sees it");
        assert_eq!(pairs(&[vec![None, Some(Reach::Never)]]), [None]);
        assert_eq!(pairs(&[vec![]]), [None]);
    }

    fn any_reach() -> impl Strategy<Value = Vec<Vec<Option<Reach>>>> {
        let one = prop_oneof![
            Just(None),
            Just(Some(Reach::Never)),
            Just(Some(Reach::Routed)),
            Just(Some(Reach::Perhaps)),
            Just(Some(Reach::Subnet)),
        ];
        (1..6_usize, 1..6_usize).prop_flat_map(move |(own, peer)| {
            proptest::collection::vec(proptest::collection::vec(one.clone(), peer), own)
        })
    }

    proptest! {
        #[test]
        fn both_sides_come_to_the_same_pairs(reach in any_reach()) {
            let theirs: Vec<Vec<_>> = (0..reach[0].len()).map(|peer| reach.iter().map(|row| row[peer]).collect()).collect();
            let (ours, theirs) = (pairs(&reach), pairs(&theirs));
            for (own, partner) in ours.iter().enumerate() {
                if let Some(peer) = partner {
                    prop_assert_eq!(theirs[*peer], Some(own));
                }
            }
            prop_assert_eq!(ours.iter().flatten().count(), theirs.iter().flatten().count());
        }

        #[test]
        fn whoever_can_be_reached_is_and_as_well_as_possible(reach in any_reach()) {
            let best = reach.iter().flatten().flatten().max().copied().filter(|best| *best > Reach::Never);
            let partners = pairs(&reach);
            let used: Vec<_> = partners.iter().enumerate().filter_map(|(own, peer)| Some(reach[own][(*peer)?])).collect();
            prop_assert_eq!(used.is_empty(), best.is_none());
            prop_assert!(used.iter().all(|reach| *reach == best));
        }
    }
}
