use ironband_collectives::algorithms::barrier;
use ironband_collectives::schedule::{Place, Transfer};

use super::world::{Start, run, sizes};

#[test]
fn dissemination_ends() {
    for size in sizes() {
        for radix in 2..6 {
            let schedule = |rank| barrier::dissemination(Place { rank, size }, radix);
            let starts = (0..size).map(|rank| Start::new(rank, schedule(rank), 0, 0)).collect();
            run(starts, u64::from(size * radix));
        }
    }
}

/// Nobody leaves before all have come: at the end each has heard of all, over others.
#[test]
fn dissemination_keeps_all_until_all_have_come() {
    for size in sizes() {
        for radix in 2..6 {
            let mut known: Vec<u64> = (0..size).map(|rank| 1 << rank).collect();
            let schedules: Vec<_> =
                (0..size).map(|rank| barrier::dissemination(Place { rank, size }, radix)).collect();
            for round in 0..schedules[0].rounds().len() {
                let before = known.clone();
                for (rank, schedule) in schedules.iter().enumerate() {
                    for transfer in &schedule.rounds()[round].transfers {
                        if let Transfer::Receive { from, .. } = transfer {
                            known[rank] |= before[*from as usize];
                        }
                    }
                }
            }
            assert!(
                known.iter().all(|known| *known == (1 << size) - 1),
                "{size} with radix {radix}: {known:x?}"
            );
        }
    }
}
