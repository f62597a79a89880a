use proptest::prelude::*;

use super::*;

/// With four ranks each row's two tables take two algorithms at all lengths, and no length takes another one.
#[test]
fn each_row_has_two_algorithms_for_itself() {
    let base = Table { alltoall_bruck_ranks: 2, ..Table::default() };
    for switch in &SWITCHES {
        let tables = switch.tables(&base);
        let [first, second] = switch.algorithms(&tables, LONGEST, 4);
        assert_ne!(first.name(), second.name(), "{}", switch.row);
        for length in lengths(SHORTEST, LONGEST) {
            let [short, long] = switch.algorithms(&tables, length, 4);
            assert_eq!(
                (short.name(), long.name()),
                (first.name(), second.name()),
                "{} at {length}",
                switch.row
            );
        }
    }
}

/// The row's value is what parts the two: with it in the table the first is taken before the place, and the
/// second from it on.
#[test]
fn a_row_s_value_puts_the_switch_where_it_was_found() {
    let base = Table { alltoall_bruck_ranks: 2, ..Table::default() };
    let lengths = lengths(1 << 10, 1 << 14);
    for switch in &SWITCHES {
        let tables = switch.tables(&base);
        for place in 0..=lengths.len() {
            // The rows around it do not get in the way.
            let [mut table, _] = tables.clone();
            *(switch.value)(&mut table) = switch.value_at(&lengths, place);
            for (at, length) in lengths.iter().enumerate() {
                let expected = switch.algorithms(&tables, *length, 4)[usize::from(at >= place)];
                let taken = table.choose(&switch.asked(*length, 4).case(4)).algorithm;
                assert_eq!(taken, expected, "{} from place {place} on, at {length}", switch.row);
            }
        }
    }
}

#[test]
fn two_ranks_have_nothing_to_choose_for_a_broadcast() {
    let switch = &SWITCHES[0];
    let [first, second] = switch.algorithms(&switch.tables(&Table::default()), LONGEST, 2);
    assert_eq!(first, second);
}

/// A message that costs a lot makes the switch late, bytes that do make it early.
#[test]
fn predictions_follow_the_model() {
    let allreduce = SWITCHES.iter().find(|switch| switch.row == "allreduce_whole_max").unwrap();
    let tables = allreduce.tables(&Table::default());
    let at = |alpha_ns, beta_ns_per_byte| {
        let model = Model { alpha_ns, beta_ns_per_byte, gamma_ns_per_byte: 0.0, ..Model::default() };
        allreduce.predicted(&tables, 4, &model)
    };
    // 2 (alpha + n beta) and 4 alpha + 1.5 n beta are equal at n = 4 alpha / beta.
    assert_eq!(at(1000.0, 1.0), Some(4 << 10));
    assert_eq!(at(100.0, 1.0), Some(512));
    assert_eq!(at(1e9, 0.001), None);
}

proptest! {
    #[test]
    fn the_lengths_have_both_places_between_them(
        value in 1_u64..1 << 24,
        predicted in prop::option::of(SHORTEST..LONGEST),
        ranks in 2_u32..4097,
        is_of_each in any::<bool>(),
    ) {
        let all = around(value, predicted, ranks, is_of_each);
        prop_assert!((2..=LENGTHS_MAX).contains(&all.len()), "{all:?}");
        prop_assert!(all.iter().all(|length| length.is_power_of_two() && (SHORTEST..=LONGEST).contains(length)), "{all:?}");
        prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        if is_of_each {
            prop_assert!(all[all.len() - 1] * u64::from(ranks) <= ALL_BYTES_MAX.max(2 * SHORTEST * u64::from(ranks)), "{all:?}");
        }
    }
}
