//! In which order transports run. A machine's speed drifts by more than the transports differ, so every round runs
//! all of them once, and each round starts with another, so that none always runs first or after the same one.

/// One place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Counted from 0.
    pub(super) round: usize,
    /// The place within the round, counted from 0.
    pub(super) position: usize,
    /// The transport's index.
    pub(super) transport: usize,
}

/// Every turn of a comparison: `A B C`, `B C A`, `C A B`, `A B C`, ...
pub(super) fn turns(rounds: usize, transports: usize) -> impl Iterator<Item = Turn> {
    (0..rounds).flat_map(move |round| {
        (0..transports).map(move |position| Turn {
            round,
            position,
            transport: (round + position) % transports,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_transports_rotate() {
        let order: Vec<usize> = turns(4, 3).map(|turn| turn.transport).collect();
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]);
    }

    #[test]
    fn nothing_to_compare_is_nothing_to_do() {
        assert_eq!(turns(5, 0).count(), 0);
        assert_eq!(turns(0, 5).count(), 0);
    }

    proptest! {
        #[test]
        fn each_transport_runs_once_a_round_and_every_place_is_shared_fairly(rounds in 1usize..12, transports in 1usize..6) {
            let all: Vec<Turn> = turns(rounds, transports).collect();
            prop_assert_eq!(all.len(), rounds * transports);
            for round in 0..rounds {
                let mut seen: Vec<_> = all.iter().filter(|t| t.round == round).map(|t| t.transport).collect();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..transports).collect::<Vec<_>>());
            }
            for transport in 0..transports {
                for position in 0..transports {
                    let count = all.iter().filter(|t| t.transport == transport && t.position == position).count();
                    prop_assert!(count == rounds / transports || count == rounds.div_ceil(transports));
                }
            }
        }
    }
}
