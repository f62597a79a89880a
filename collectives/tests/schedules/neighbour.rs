use ironband_collectives::algorithms::neighbour;
use ironband_collectives::schedule::{Blocks, Place, Space};

use super::alltoall::{chance, expected, scattered};
use super::world::{Start, run, sizes};

/// What ranks say of their edges, in this order.
struct Graph {
    sources: Vec<Vec<u32>>,
    destinations: Vec<Vec<u32>>,
}

impl Graph {
    /// As many ranks as there are lists of destinations; sources come in an order that a seed decides.
    fn of_destinations(destinations: Vec<Vec<u32>>, seed: u64) -> Self {
        let mut sources = vec![Vec::new(); destinations.len()];
        for (from, to) in
            (0..).zip(&destinations).flat_map(|(from, list)| list.iter().map(move |to| (from, *to)))
        {
            sources[to as usize].push(from);
        }
        for (rank, list) in (0..).zip(&mut sources) {
            list.sort_by_cached_key(|from| chance(&[seed, rank, u64::from(*from)]));
            // Edges of the same rank apart from each other, too.
            if seed % 2 == 1 {
                let at = list.len() / 2;
                list.rotate_left(at);
                let middle = list.len() / 3;
                list[..at].rotate_left(middle.min(at));
            }
        }
        Self { sources, destinations }
    }

    fn size(&self) -> u32 {
        self.sources.len() as u32
    }

    /// Where an edge is among the destinations of its source: `at` is where it is among the sources of the
    /// rank.
    fn edge(&self, rank: u32, at: usize) -> (u32, usize) {
        let sources = &self.sources[rank as usize];
        let from = sources[at];
        let before = sources[..at].iter().filter(|other| **other == from).count();
        let destinations = self.destinations[from as usize].iter().enumerate();
        let (index, _) = destinations.filter(|(_, to)| **to == rank).nth(before).unwrap();
        (from, index)
    }

    /// Every rank has for every edge what was meant for it, with blocks of any length.
    fn check_exchange(&self, seed: u64) {
        let len = |from: u32, at: usize| chance(&[seed, from.into(), at as u64]) % 4;
        let input = |rank: u32| {
            let counts: Vec<u64> =
                (0..self.destinations[rank as usize].len()).map(|at| len(rank, at)).collect();
            scattered(&counts, seed + u64::from(rank))
        };
        let output = |rank: u32| {
            let edges = (0..self.sources[rank as usize].len()).map(|at| self.edge(rank, at));
            scattered(&edges.map(|(from, at)| len(from, at)).collect::<Vec<_>>(), 77 + seed + u64::from(rank))
        };
        let start = |rank: u32| {
            let place = Place { rank, size: self.size() };
            let (sources, destinations) = (&self.sources[rank as usize], &self.destinations[rank as usize]);
            let schedule = neighbour::exchange(place, sources, destinations, &input(rank), &output(rank));
            assert!(schedule.rounds().len() <= 1);
            Start::new(rank, schedule, input(rank).end(), output(rank).end())
        };
        for (rank, found) in (0..).zip(run((0..self.size()).map(start).collect(), seed)) {
            let first = |at: u32| {
                let (from, index) = self.edge(rank, at as usize);
                (from, input(from).of(index as u32, Space::Input).start)
            };
            assert_eq!(found, expected(&output(rank), first), "rank {rank} of {}", self.size());
        }
    }

    /// Every rank has what its sources have, `len(source)` elements.
    fn check_gather(&self, seed: u64, len: impl Fn(u32) -> u64) {
        let output = |rank: u32| {
            let counts: Vec<u64> = self.sources[rank as usize].iter().map(|from| len(*from)).collect();
            scattered(&counts, seed + u64::from(rank))
        };
        let start = |rank: u32| {
            let place = Place { rank, size: self.size() };
            let (sources, destinations) = (&self.sources[rank as usize], &self.destinations[rank as usize]);
            let schedule = neighbour::gather(place, sources, destinations, len(rank), &output(rank));
            assert!(schedule.rounds().len() <= 1);
            Start::new(rank, schedule, len(rank), output(rank).end())
        };
        for (rank, found) in (0..).zip(run((0..self.size()).map(start).collect(), seed)) {
            let first = |at: u32| (self.sources[rank as usize][at as usize], 0);
            assert_eq!(found, expected(&output(rank), first), "rank {rank} of {}", self.size());
        }
    }

    fn check(&self, seed: u64) {
        self.check_exchange(seed);
        self.check_gather(seed, |_| 3);
        self.check_gather(seed, |rank| chance(&[seed, rank.into()]) % 3);
    }
}

/// A torus of this extent. Destinations are those down and up in each dimension; so sources are up and down.
fn torus(rows: u32, columns: u32) -> Graph {
    let at = |row: u32, column: u32| row % rows * columns + column % columns;
    let all = || (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let down_up = |(row, column)| {
        vec![
            at(row + rows - 1, column),
            at(row + 1, column),
            at(row, column + columns - 1),
            at(row, column + 1),
        ]
    };
    let destinations: Vec<Vec<u32>> = all().map(down_up).collect();
    let sources = destinations.iter().map(|of| vec![of[1], of[0], of[3], of[2]]).collect();
    Graph { sources, destinations }
}

#[test]
fn rings() {
    for size in sizes() {
        let both = |rank| vec![(rank + size - 1) % size, (rank + 1) % size];
        for seed in 0..2 {
            Graph::of_destinations((0..size).map(both).collect(), seed).check(seed);
            Graph::of_destinations((0..size).map(|rank| vec![(rank + 1) % size]).collect(), seed).check(seed);
        }
    }
}

#[test]
fn tori() {
    for (rows, columns) in (1..=5).flat_map(|rows| (1..=5).map(move |columns| (rows, columns))) {
        let torus = torus(rows, columns);
        for seed in 0..2 {
            torus.check(seed);
        }
        // What comes from above is what went down, even if above and below are the same.
        for rank in 0..torus.size() {
            for at in 0..4 {
                let (from, index) = torus.edge(rank, at);
                assert_eq!((torus.sources[rank as usize][at], at), (from, index), "{rows} x {columns}");
            }
        }
    }
}

#[test]
fn random_graphs() {
    for size in sizes() {
        for seed in 0..6 {
            // A degree of 0 to 6, with edges to the own rank and several to the same one.
            let to = |rank: u32, at| (chance(&[seed, rank.into(), at, 5]) % u64::from(size)) as u32;
            let degree = |rank: u32| chance(&[seed, rank.into(), 6]) % 7;
            let destinations = |rank| (0..degree(rank)).map(|at| to(rank, at)).collect();
            Graph::of_destinations((0..size).map(destinations).collect(), seed).check(seed);
        }
    }
}

#[test]
#[should_panic(expected = "does not agree with itself")]
fn an_edge_to_oneself_has_two_ends() {
    let blocks = Blocks::even(2, 1);
    neighbour::exchange(Place { rank: 0, size: 2 }, &[0, 1], &[1, 1], &blocks, &blocks);
}
