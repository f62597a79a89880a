use proptest::prelude::*;

use super::*;

/// The table in words of its own: which function is taken.
fn expected(table: &Table, case: &Case) -> &'static str {
    let Case { collective, bytes, ranks, commutes, reproducible, is_one_node } = *case;
    match collective {
        Collective::Barrier => "barrier::dissemination",
        Collective::Bcast if bytes <= table.bcast_tree_max || ranks <= 2 => "bcast::knomial",
        Collective::Bcast if is_one_node && ranks <= table.bcast_node_ranks => "bcast::knomial",
        Collective::Bcast if bytes >= table.bcast_pipeline_min => "bcast::circulant",
        Collective::Bcast => "bcast::scatter_allgather",
        Collective::Reduce if bytes <= table.reduce_tree_max || reproducible => "reduce::knomial",
        Collective::Reduce => "reduce::reduce_scatter_gather",
        Collective::Allreduce if bytes <= table.allreduce_whole_max => "allreduce::recursive_doubling",
        Collective::Allreduce
            if bytes >= table.allreduce_ring_min && commutes && !reproducible && ranks > 2 =>
        {
            "allreduce::ring"
        }
        Collective::Allreduce => "allreduce::rabenseifner",
        Collective::ReduceScatter if reproducible => "reduce_scatter::recursive_halving",
        Collective::ReduceScatter if bytes > table.reduce_scatter_halving_max => "reduce_scatter::pairwise",
        Collective::ReduceScatter if commutes => "reduce_scatter::circulant",
        Collective::ReduceScatter => "reduce_scatter::recursive_halving",
        Collective::Gather if bytes <= table.gather_tree_max => "gather::binomial",
        Collective::Gather | Collective::Gatherv => "gather::direct",
        Collective::Scatter if bytes <= table.gather_tree_max => "scatter::binomial",
        Collective::Scatter | Collective::Scatterv => "scatter::direct",
        Collective::Allgather | Collective::Allgatherv if bytes > table.allgather_doubling_max => {
            "allgather::ring"
        }
        Collective::Allgather if ranks.is_power_of_two() => "allgather::recursive_doubling",
        Collective::Allgather | Collective::Allgatherv => "allgather::bruck",
        Collective::Alltoall if bytes <= table.alltoall_bruck_max && ranks >= table.alltoall_bruck_ranks => {
            "alltoall::bruck"
        }
        Collective::Alltoall | Collective::Alltoallv => "alltoall::direct",
        Collective::Scan | Collective::Exscan if bytes >= table.scan_chain_min && !reproducible => {
            "scan::chain"
        }
        Collective::Scan | Collective::Exscan => "scan::recursive_doubling",
        Collective::NeighbourExchange => "neighbour::exchange",
    }
}

/// Lengths near each other, so that rows and lengths meet.
fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..6, Just(1 << 12), Just((1 << 12) + 1), 0_u64..1 << 22]
}

fn tables() -> impl Strategy<Value = Table> {
    (prop::collection::vec(bytes(), 9), 2_u32..9, 2_u32..9, 1_u64..1 << 18, 1_u32..40).prop_map(
        |(max, radix, ranks, segment, window)| Table {
            barrier_radix: radix,
            bcast_node_ranks: radix,
            bcast_tree_max: max[0],
            bcast_radix: radix,
            bcast_pipeline_min: max[1],
            reduce_tree_max: max[2],
            reduce_radix: radix,
            allreduce_whole_max: max[3],
            allreduce_ring_min: max[4],
            reduce_scatter_halving_max: max[5],
            allgather_doubling_max: max[6],
            alltoall_bruck_max: max[7],
            alltoall_bruck_ranks: ranks,
            gather_tree_max: max[8],
            scan_chain_min: max[0],
            segment,
            window,
            ..Table::default()
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let collective = prop::sample::select(&Collective::ALL[..]);
    (collective, bytes(), 1_u32..70, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(collective, bytes, ranks, commutes, reproducible, is_one_node)| Case {
            collective,
            bytes,
            ranks,
            commutes,
            reproducible,
            is_one_node,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// What is chosen is what the rows say, the reason holds, and it is among what could be chosen.
    #[test]
    fn choices_are_those_of_the_table(table in tables(), case in cases()) {
        let choice = table.choose(&case);
        prop_assert_eq!(case.path(choice.algorithm), expected(&table, &case));
        prop_assert!(choice.reason.conditions().count() > 0);
        for condition in choice.reason.conditions() {
            prop_assert!(condition.holds(&case, &table), "{condition:?} of {case:?}");
        }
        prop_assert!(table.algorithms(&case).contains(&choice.algorithm), "{:?}", choice.algorithm);
    }

    /// Where a row has decided, another value of that row on the other side decides otherwise, or the reason
    /// would not have named it.
    #[test]
    fn named_rows_are_those_that_decide(table in tables(), case in cases()) {
        let choice = table.choose(&case);
        for condition in choice.reason.conditions() {
            let (name, value) = match condition {
                Condition::UpTo(name) if case.bytes > 0 => (name, case.bytes - 1),
                Condition::Above(name) => (name, case.bytes),
                Condition::From(name) => (name, case.bytes + 1),
                Condition::Below(name) => (name, case.bytes),
                Condition::Ranks(name) => (name, u64::from(case.ranks) + 1),
                Condition::FewRanks(name) => (name, u64::from(case.ranks)),
                Condition::NotMoreRanks(name) => (name, u64::from(case.ranks) - 1),
                _ => continue,
            };
            let mut rows: toml::Table = toml::Table::try_from(&table).unwrap();
            rows.insert(name.to_owned(), toml::Value::Integer(value as i64));
            let other: Table = rows.try_into().unwrap();
            prop_assert_ne!(other.choose(&case).reason, choice.reason, "{}", name);
        }
    }

    /// Where ranks do not know the length alike, it does not count.
    #[test]
    fn what_one_rank_knows_does_not_count(table in tables(), case in cases(), other in bytes()) {
        use Collective::{Alltoallv, Gatherv, NeighbourExchange, Scatterv};
        if matches!(case.collective, Alltoallv | Gatherv | NeighbourExchange | Scatterv) {
            prop_assert_eq!(table.choose(&case), table.choose(&Case { bytes: other, ..case }));
        }
    }
}

#[test]
fn reasons_name_the_rows() {
    let table = Table::default();
    let case = |collective, bytes, ranks| Case {
        collective,
        bytes,
        ranks,
        commutes: true,
        reproducible: false,
        is_one_node: false,
    };
    let text = |case: Case| table.choose(&case).reason.text(&case, &table);
    assert_eq!(
        text(case(Collective::Allreduce, 65_536, 8)),
        "64 KiB is above allreduce_whole_max (4 KiB) and below allreduce_ring_min (1 MiB)"
    );
    assert_eq!(
        text(Case { commutes: false, ..case(Collective::Allreduce, 3 << 20, 8) }),
        "3 MiB is above allreduce_whole_max (4 KiB) and the operator does not commute"
    );
    assert_eq!(text(case(Collective::Alltoall, 100, 4)), "4 ranks are below alltoall_bruck_ranks (8)");
    assert_eq!(text(case(Collective::Gather, 2049, 4)), "2049 B is above gather_tree_max (2 KiB)");
    assert_eq!(text(case(Collective::Bcast, 1 << 20, 2)), "there are only 2 ranks");
    assert_eq!(
        text(Case { is_one_node: true, ..case(Collective::Bcast, 1 << 20, 5) }),
        "1 MiB is above bcast_tree_max (8 KiB) and 5 ranks are not above bcast_node_ranks (8) and all share a node"
    );
    assert_eq!(
        text(case(Collective::Allgather, 80 << 10, 6)),
        "80 KiB is not above allgather_doubling_max (80 KiB) and 6 ranks are no power of two"
    );
    assert_eq!(text(case(Collective::Barrier, 0, 3)), "there is no other algorithm");
}

#[test]
fn algorithms_say_their_numbers() {
    assert_eq!(Algorithm::Knomial { radix: 4 }.to_string(), "knomial (radix 4)");
    assert_eq!(Algorithm::OrderedKnomial { radix: 2 }.to_string(), "knomial (radix 2, in order)");
    assert_eq!(Algorithm::Chain { segment_bytes: 10 }.to_string(), "chain (pieces of 10 B)");
    assert_eq!(Algorithm::Direct { window: 3 }.to_string(), "direct (window 3)");
    assert_eq!(Algorithm::Circulant { blocks: 3 }.to_string(), "circulant (3 blocks)");
    assert_eq!(Algorithm::Ring.to_string(), "ring");
}
