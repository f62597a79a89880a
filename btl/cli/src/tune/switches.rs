//! Where one algorithm becomes faster than another, measured: for each row of the table that is such a place,
//! both algorithms at some lengths around where the model, the default, or both put it.

use indicatif::ProgressBar;
use ironband_collectives::choose::{Algorithm, Collective};
use ironband_collectives::cost::{bound_ns, count};
use ironband_collectives::schedule::{Place, Schedule};
use ironband_collectives::{Communicator, Error, Model, Table};

use super::asked::Asked;
use super::fit::{median, switch};
use super::operations::{Buffers, time};

/// Lengths that are measured, as the row counts them.
const SHORTEST: u64 = 64;
const LONGEST: u64 = 4 << 20;
/// What all ranks together have in one operation at most.
const ALL_BYTES_MAX: u64 = 64 << 20;
/// How many lengths of a row at most.
const LENGTHS_MAX: usize = 8;
/// About so long takes one sample, in ns, if it is not a single operation.
const SAMPLE_NS: f64 = 2e6;
/// So many operations a sample has at most.
const TIMES_MAX: f64 = 50.0;

/// A row of the table that says where one algorithm follows another.
pub(super) struct Switch {
    pub(super) row: &'static str,
    pub(super) collective: Collective,
    /// Whether the row is the first length of the second algorithm, and not the last of the first.
    is_first_of_second: bool,
    pub(super) value: fn(&mut Table) -> &mut u64,
    /// Sets the row that would have a third one taken.
    beside: fn(&mut Table),
}

/// All such rows. What else is in a table (radices, windows, pieces) is not measured.
pub(super) const SWITCHES: [Switch; 10] = [
    Switch::max("bcast_tree_max", Collective::Bcast, |table| &mut table.bcast_tree_max)
        .beside(|table| (table.bcast_pipeline_min, table.bcast_node_ranks) = (u64::MAX, 0)),
    Switch::min("bcast_pipeline_min", Collective::Bcast, |table| &mut table.bcast_pipeline_min)
        .beside(|table| (table.bcast_tree_max, table.bcast_node_ranks) = (0, 0)),
    Switch::max("reduce_tree_max", Collective::Reduce, |table| &mut table.reduce_tree_max),
    Switch::max("allreduce_whole_max", Collective::Allreduce, |table| &mut table.allreduce_whole_max)
        .beside(|table| table.allreduce_ring_min = u64::MAX),
    Switch::min("allreduce_ring_min", Collective::Allreduce, |table| &mut table.allreduce_ring_min)
        .beside(|table| table.allreduce_whole_max = 0),
    Switch::max("reduce_scatter_halving_max", Collective::ReduceScatter, |table| {
        &mut table.reduce_scatter_halving_max
    }),
    Switch::max("allgather_doubling_max", Collective::Allgather, |table| &mut table.allgather_doubling_max),
    Switch::max("alltoall_bruck_max", Collective::Alltoall, |table| &mut table.alltoall_bruck_max),
    Switch::max("gather_tree_max", Collective::Gather, |table| &mut table.gather_tree_max),
    Switch::min("scan_chain_min", Collective::Scan, |table| &mut table.scan_chain_min),
];

impl Switch {
    /// A row that is the last length of the first.
    const fn max(row: &'static str, collective: Collective, value: fn(&mut Table) -> &mut u64) -> Self {
        Self { row, collective, is_first_of_second: false, value, beside: |_| {} }
    }

    /// A row that is the first length of the second.
    const fn min(row: &'static str, collective: Collective, value: fn(&mut Table) -> &mut u64) -> Self {
        Self { is_first_of_second: true, ..Self::max(row, collective, value) }
    }

    const fn beside(self, beside: fn(&mut Table)) -> Self {
        Self { beside, ..self }
    }

    /// The tables that take the one and the other for all lengths.
    pub(super) fn tables(&self, base: &Table) -> [Table; 2] {
        [u64::MAX, 0].map(|value| {
            let mut table = base.clone();
            (self.beside)(&mut table);
            *(self.value)(&mut table) = value;
            table
        })
    }

    /// What is asked for at a length as the row counts it.
    fn asked(&self, length: u64, ranks: u32) -> Asked {
        let is_of_all = matches!(self.collective, Collective::ReduceScatter | Collective::Allgather);
        let bytes = if is_of_all { length / u64::from(ranks) } else { length };
        Asked { collective: self.collective, bytes }
    }

    /// The algorithms that are taken then.
    fn algorithms(&self, tables: &[Table; 2], length: u64, ranks: u32) -> [Algorithm; 2] {
        let case = self.asked(length, ranks).case(ranks);
        tables.each_ref().map(|table| table.choose(&case).algorithm)
    }

    /// Whether the two are one with so few ranks: they send the same messages.
    fn are_one(&self, algorithms: [Algorithm; 2], ranks: u32) -> bool {
        let Some(operation) = self.asked(LONGEST, ranks).operation() else { return false };
        (0..ranks).all(|rank| {
            let place = Place { rank, size: ranks };
            let [first, second] = algorithms.map(|algorithm| operation.schedule(algorithm, place, 1));
            let transfers = |schedule: &Schedule| -> Vec<_> {
                schedule.rounds().iter().map(|round| round.transfers.clone()).collect()
            };
            transfers(&first) == transfers(&second)
        })
    }

    /// The shortest length at which the second is faster by the model, in powers of two.
    fn predicted(&self, tables: &[Table; 2], ranks: u32, model: &Model) -> Option<u64> {
        lengths(SHORTEST, LONGEST).into_iter().find(|length| {
            let operation = self.asked(*length, ranks).operation();
            let times = self.algorithms(tables, *length, ranks).map(|algorithm| {
                operation.and_then(|operation| count(operation, algorithm, ranks, model).path)
            });
            matches!(times, [Some(first), Some(second)] if second.ns < first.ns)
        })
    }

    /// The row's value if the second is taken from the length of this place on.
    fn value_at(&self, lengths: &[u64], place: usize) -> u64 {
        let last_of_first = match place.checked_sub(1) {
            Some(before) => lengths[before],
            None => lengths[0] - 1,
        };
        if self.is_first_of_second {
            lengths.get(place).copied().unwrap_or(last_of_first + 1)
        } else {
            last_of_first
        }
    }
}

/// Powers of two from one length to another.
fn lengths(first: u64, last: u64) -> Vec<u64> {
    std::iter::successors(Some(first), |length| length.checked_mul(2))
        .take_while(|length| *length <= last)
        .collect()
}

/// Which of them are measured: those around what is predicted and what the table says, evenly, and not too
/// many.
fn around(value: u64, predicted: Option<u64>, ranks: u32, is_of_each: bool) -> Vec<u64> {
    let most = if is_of_each { (ALL_BYTES_MAX / u64::from(ranks)).min(LONGEST) } else { LONGEST };
    let most = if most.is_power_of_two() { most } else { most.next_power_of_two() / 2 };
    let near = |bytes: u64| bytes.next_power_of_two().clamp(SHORTEST * 2, most / 2);
    let (one, other) = (near(value), near(predicted.unwrap_or(LONGEST)));
    let all = lengths(one.min(other) / 2, one.max(other) * 2);
    let step = all.len().div_ceil(LENGTHS_MAX);
    all.into_iter().step_by(step).collect()
}

/// What was found for a row.
pub(super) struct Found {
    pub(super) switch: &'static Switch,
    pub(super) algorithms: [Algorithm; 2],
    pub(super) predicted: Option<u64>,
    pub(super) value: u64,
    /// Whether what was measured has no length at which the other one wins.
    pub(super) is_at_edge: bool,
    /// By length, the time of what is taken by that of the bound: the least and the most.
    pub(super) by_bound: (f64, f64),
}

/// A row that is measured.
struct Measured<'c> {
    switch: &'static Switch,
    communicators: [Communicator<'c>; 2],
    algorithms: [Algorithm; 2],
    predicted: Option<u64>,
    /// What the table says, and from which length on it takes the second.
    default: u64,
    default_place: usize,
    lengths: Vec<u64>,
    /// By length, operations of a sample.
    times: Vec<u32>,
    /// By algorithm and length, in ns.
    samples: [Vec<Vec<f64>>; 2],
}

/// Measures all rows that matter to so many ranks, as often as there are rounds, in turn. The others are
/// named with the reason.
pub(super) fn measure(
    world: &Communicator<'_>,
    base: &Table,
    model: &Model,
    rounds: u32,
    bar: &ProgressBar,
) -> Result<(Vec<Found>, Vec<String>), Error> {
    let mut skipped = Vec::new();
    let mut all = Vec::new();
    for switch in &SWITCHES {
        match begin(world, switch, base, model)? {
            Ok(measured) => all.push(measured),
            Err(why) => skipped.push(why),
        }
    }
    let bytes_max = all.iter().flat_map(|one| {
        one.lengths.iter().map(|length| {
            let asked = one.switch.asked(*length, world.size());
            asked.bytes.max(8) * u64::from(world.size())
        })
    });
    let mut buffers = Buffers::of(bytes_max.max().unwrap_or(8));
    bar.set_length(
        bar.position()
            + all.iter().map(|one| one.lengths.len() as u64).sum::<u64>() * (1 + u64::from(rounds)),
    );
    // The first round says how often each is done in a sample.
    for round in 0..=rounds {
        for one in &mut all {
            bar.set_message(format!("{}, round {round} of {rounds}", one.switch.row));
            for place in 0..one.lengths.len() {
                sample(one, place, round, &mut buffers)?;
                bar.inc(1);
            }
        }
    }
    Ok((all.iter().map(|one| found(one, world.size(), model)).collect(), skipped))
}

/// What is needed to measure a row, or why it is not measured.
fn begin<'c>(
    world: &Communicator<'c>,
    switch: &'static Switch,
    base: &Table,
    model: &Model,
) -> Result<Result<Measured<'c>, String>, Error> {
    let (ranks, tables) = (world.size(), switch.tables(base));
    let algorithms = switch.algorithms(&tables, LONGEST, ranks);
    if algorithms[0] == algorithms[1] {
        let why = format!("{} stays: with {ranks} ranks {} is taken anyway", switch.row, algorithms[0]);
        return Ok(Err(why));
    }
    if switch.are_one(algorithms, ranks) {
        let [first, second] = algorithms.map(Algorithm::name);
        let why = format!("{} stays: with {ranks} ranks {first} and {second} do the same", switch.row);
        return Ok(Err(why));
    }
    let predicted = switch.predicted(&tables, ranks, model);
    let is_of_each = matches!(switch.collective, Collective::Alltoall | Collective::Gather);
    let default = *(switch.value)(&mut base.clone());
    let lengths = around(default, predicted, ranks, is_of_each);
    let is_first =
        |length: &&u64| if switch.is_first_of_second { **length < default } else { **length <= default };
    let default_place = lengths.iter().filter(is_first).count();
    let [first, second] = tables;
    let forced = |table| {
        let mut communicator = world.duplicate()?;
        communicator.set_table(table)?;
        Ok::<_, Error>(communicator)
    };
    let communicators = [forced(first)?, forced(second)?];
    let (times, samples) = (vec![1; lengths.len()], [(), ()].map(|()| vec![Vec::new(); lengths.len()]));
    Ok(Ok(Measured {
        switch,
        communicators,
        algorithms,
        predicted,
        default,
        default_place,
        lengths,
        times,
        samples,
    }))
}

/// Measures both at a length; each round begins with the other one.
fn sample(one: &mut Measured<'_>, place: usize, round: u32, buffers: &mut Buffers) -> Result<(), Error> {
    let ranks = one.communicators[0].size();
    let what = (one.switch.collective, one.switch.asked(one.lengths[place], ranks).bytes);
    let mut slowest = 0_f64;
    for turn in 0..2 {
        let which = (turn + round as usize) % 2;
        let took = time(&one.communicators[which], what, one.times[place], buffers)?;
        slowest = slowest.max(took);
        if round > 0 {
            one.samples[which][place].push(took);
        }
    }
    if round == 0 {
        // All ranks have the same time.
        one.times[place] = (SAMPLE_NS / slowest.max(1.0)).clamp(1.0, TIMES_MAX) as u32;
    }
    Ok(())
}

fn found(one: &Measured<'_>, ranks: u32, model: &Model) -> Found {
    let medians = one.samples.each_ref().map(|by_length| {
        let medians = by_length.iter().map(|times| median(times.iter().copied()).unwrap_or(0.0));
        medians.collect::<Vec<f64>>()
    });
    let place = switch(&medians[0], &medians[1], one.default_place);
    let is_default = place == one.default_place;
    let by_bound = one.lengths.iter().enumerate().filter_map(|(at, length)| {
        let operation = one.switch.asked(*length, ranks).operation()?;
        let took = medians[usize::from(at >= place)][at];
        Some(took / bound_ns(operation, ranks, model).max(f64::MIN_POSITIVE))
    });
    let by_bound: Vec<f64> = by_bound.collect();
    Found {
        switch: one.switch,
        algorithms: one.algorithms,
        predicted: one.predicted,
        value: if is_default { one.default } else { one.switch.value_at(&one.lengths, place) },
        is_at_edge: !is_default && (place == 0 || place == one.lengths.len()),
        by_bound: (
            by_bound.iter().copied().fold(f64::INFINITY, f64::min),
            by_bound.iter().copied().fold(0.0, f64::max),
        ),
    }
}

#[cfg(test)]
#[path = "switches_tests.rs"]
mod tests;
