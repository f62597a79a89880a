//! What cannot be done in one vector, and with vectors of other lengths than were planned: refused before anything is sent.

use ironband_collectives::operator::Sum;
use ironband_collectives::schedule::{Schedule, Side, Span};
use ironband_collectives::{Communicator, Error, Table};

use super::planned::with_communicators;

fn text<R>(outcome: Result<R, Error>) -> String {
    outcome.err().map_or_else(|| "nothing was refused".to_owned(), |error| error.to_string())
}

/// In the eyes of rank 1 of 3.
fn with_one_of_three(check: impl Fn(&Communicator<'_>)) {
    with_communicators(3, &Table::default(), false, |communicators| check(&communicators[1]));
}

#[test]
fn operations_without_a_form_in_place() {
    with_one_of_three(|one| {
        let neighbours = one.plan_neighbour_exchange::<u8>((&[0], &[1]), (&[2], &[1])).unwrap();
        assert_eq!(
            text(neighbours.in_place()),
            "a neighbour exchange cannot be done in one vector: what a rank sends and what it gets have nothing in common; give it two"
        );
        let uneven = one.plan_alltoallv::<u8>(&[1, 2, 3], &[1, 2, 4]).unwrap();
        assert_eq!(
            text(uneven.in_place()),
            "the receive buffer has 4 elements, and 3 are needed: in place a rank gets as many elements from each as it gives"
        );
        assert!(one.plan_alltoallv::<u8>(&[1, 2, 3], &[1, 2, 3]).unwrap().in_place().is_ok());
    });
}

#[test]
fn vectors_of_other_lengths() {
    const NEEDED: &str =
        "the in-place buffer has 7 elements, and 6 are needed: the operation was planned for so many";
    with_one_of_three(|one| {
        let mut seven = [0_u32; 7];
        let own_root = one.root(1).unwrap();
        assert_eq!(text(one.allgather_in_place(&mut seven)), NEEDED);
        assert_eq!(text(one.alltoall_in_place(&mut seven)), NEEDED);
        assert_eq!(text(one.reduce_scatter_block_in_place(&mut seven, Sum)), NEEDED);
        assert_eq!(text(own_root.gather_in_place(&mut seven)), NEEDED);
        assert_eq!(text(own_root.scatter_in_place(&mut seven)), NEEDED);
        let counts = [1, 2, 3];
        assert_eq!(text(one.allgatherv_in_place(&mut seven, &counts)), NEEDED);
        assert_eq!(text(one.alltoallv_in_place(&mut seven, &counts)), NEEDED);
        assert_eq!(text(one.reduce_scatter_in_place(&mut seven, &counts, Sum)), NEEDED);
        assert_eq!(text(own_root.gatherv_in_place(&mut seven, &counts)), NEEDED);
        assert_eq!(text(own_root.scatterv_in_place(&mut seven, &counts)), NEEDED);
        let few = "the counts buffer has 2 elements, and 3 are needed: there is a count for each rank";
        assert_eq!(text(own_root.gatherv_in_place(&mut seven, &[1, 6])), few);
        assert_eq!(text(own_root.scatterv_in_place(&mut seven, &[1, 6])), few);
        let plan = one.plan_scatter(0, 6).unwrap().in_place().unwrap();
        assert_eq!(plan.len(), 6);
        assert_eq!(text(plan.run(&mut seven)), NEEDED);
        assert_eq!(text(plan.start(seven.to_vec())), NEEDED);
        assert_eq!(text(plan.with(seven.to_vec())), NEEDED);
        assert_eq!(text(one.scope(|scope| plan.start_in(scope, &mut seven).map(drop))), NEEDED);
    });
}

/// Lengths that no memory has, in a schedule of the program's: in bytes they are small again, if they are counted in 64 bits.
#[test]
fn schedules_that_no_memory_has_room_for() {
    let mut schedule = Schedule::new();
    schedule.scratch = (1 << 62) + 16;
    schedule.combine(Span::scratch(8, 1 << 61), Span::scratch(8 + (1 << 61), 1 << 61), Side::Right);
    with_one_of_three(|one| {
        let plan = one.plan_allreduce::<u64, _>(1, Sum).unwrap();
        assert_eq!(
            text(plan.by(schedule.clone())),
            "the schedule is none for this operation: no memory has 4611686018427387920 elements of scratch"
        );
    });
}
