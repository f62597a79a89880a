//! The columns of OSU's collective benchmarks, and what is in them: averages over all ranks, at rank 0.

use super::{operation::Form, overlap::overlap_percent, rounds::Averages};
use crate::{
    options::By,
    report::{Column, Metric},
};

const fn time(heading: &'static str, key: &'static str) -> Metric {
    Metric { heading, key, unit: "us", better: "lower" }
}

const AVERAGE: Metric = time("Avg Latency(us)", "latency_us");
const MIN: Metric = time("Min Latency(us)", "latency_min_us");
const MAX: Metric = time("Max Latency(us)", "latency_max_us");
const OVERALL: Metric = time("Overall(us)", "overall_us");
const COMPUTE: Metric = time("Compute(us)", "compute_us");
const BEGIN: Metric = time("Coll. Init(us)", "collective_init_us");
const TEST: Metric = time("MPI_Test(us)", "test_us");
const WAIT: Metric = time("MPI_Wait(us)", "wait_us");
const PURE: Metric = time("Pure Comm.(us)", "pure_communication_us");
const PURE_MIN: Metric = time("Min Comm.(us)", "pure_communication_min_us");
const PURE_MAX: Metric = time("Max Comm.(us)", "pure_communication_max_us");
const OVERLAP: Metric = Metric { heading: "Overlap(%)", key: "overlap_percent", unit: "%", better: "higher" };
/// Of the operation alone, where both are measured.
const RATIO: Metric = Metric { heading: "Ironband/MPI", key: "ironband_per_mpi", unit: "", better: "lower" };

fn metrics(form: Form, full: bool) -> &'static [Metric] {
    match (form, full) {
        (Form::Nonblocking, false) => &[OVERALL, COMPUTE, PURE, OVERLAP],
        (Form::Nonblocking, true) => {
            &[OVERALL, COMPUTE, BEGIN, TEST, WAIT, PURE, PURE_MIN, PURE_MAX, OVERLAP]
        }
        (_, false) => &[AVERAGE],
        (_, true) => &[AVERAGE, MIN, MAX],
    }
}

/// The columns of a table: of one implementation, OSU's; of two, those of each, and the quotient of Ironband's latency and MPI's.
pub fn columns(form: Form, full: bool, by: &[By]) -> Vec<Column> {
    let metrics = metrics(form, full);
    if by.len() < 2 {
        return metrics.iter().copied().map(Column::from).collect();
    }
    let of_each = by.iter().flat_map(|by| metrics.iter().map(|metric| Column::of(by.name(), *metric)));
    of_each.chain([Column::from(RATIO)]).collect()
}

/// What is in them. `of_all` has, for each implementation, the averages of all ranks, one behind the other; nothing at other ranks than 0.
/// MPI is the first of two.
pub(super) fn values(form: Form, full: bool, of_all: &[Vec<f64>]) -> Vec<f64> {
    let by_rank = of_all.iter().map(|numbers| -> Vec<Averages> {
        numbers.as_chunks().0.iter().map(|numbers| Averages::of_array(*numbers)).collect()
    });
    let by_rank: Vec<Vec<Averages>> = by_rank.collect();
    let mut values: Vec<f64> = by_rank.iter().flat_map(|ranks| of_one(form, full, ranks)).collect();
    if let [mpi, ironband] = by_rank.as_slice() {
        values.push(mean(ironband, |rank| rank.latency) / mean(mpi, |rank| rank.latency));
    }
    values
}

fn mean(ranks: &[Averages], of: impl Fn(&Averages) -> f64) -> f64 {
    ranks.iter().map(of).sum::<f64>() / ranks.len().max(1) as f64
}

fn of_one(form: Form, full: bool, ranks: &[Averages]) -> Vec<f64> {
    let latency = mean(ranks, |rank| rank.latency);
    let latencies = || ranks.iter().map(|rank| rank.latency);
    let (min, max) = (latencies().fold(f64::INFINITY, f64::min), latencies().fold(0.0, f64::max));
    if form != Form::Nonblocking {
        return if full { vec![latency, min, max] } else { vec![latency] };
    }
    let overall = mean(ranks, |rank| rank.overall);
    let compute = mean(ranks, |rank| rank.compute);
    let overlap = overlap_percent(overall, compute, latency);
    if !full {
        return vec![overall, compute, latency, overlap];
    }
    let (begin, test) = (mean(ranks, |rank| rank.begin), mean(ranks, |rank| rank.test));
    let wait = mean(ranks, |rank| rank.wait);
    vec![overall, compute, begin, test, wait, latency, min, max, overlap]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headings(form: Form, full: bool, by: &[By]) -> Vec<String> {
        columns(form, full, by).iter().map(Column::heading).collect()
    }

    #[test]
    fn headings_are_osus() {
        let one = [By::Ironband];
        assert_eq!(headings(Form::Blocking, false, &one), ["Avg Latency(us)"]);
        let full = ["Avg Latency(us)", "Min Latency(us)", "Max Latency(us)"];
        assert_eq!(headings(Form::Persistent, true, &one), full);
        let overlapped = ["Overall(us)", "Compute(us)", "Pure Comm.(us)", "Overlap(%)"];
        assert_eq!(headings(Form::Nonblocking, false, &one), overlapped);
    }

    #[test]
    fn two_implementations_stand_side_by_side_with_their_quotient() {
        let both = headings(Form::Blocking, false, &[By::Mpi, By::Ironband]);
        assert_eq!(both, ["MPI Avg Latency(us)", "Ironband Avg Latency(us)", "Ironband/MPI"]);
        let keys: Vec<String> =
            columns(Form::Blocking, false, &[By::Mpi, By::Ironband]).iter().map(Column::key).collect();
        assert_eq!(keys, ["mpi_latency_us", "ironband_latency_us", "ironband_per_mpi"]);
        let ranks = |latencies: [f64; 2]| -> Vec<f64> {
            latencies
                .into_iter()
                .flat_map(|latency| Averages { latency, ..Averages::default() }.as_array())
                .collect()
        };
        assert_eq!(values(Form::Blocking, false, &[ranks([3.0, 5.0]), ranks([1.0, 1.0])]), [4.0, 1.0, 0.25]);
    }

    #[test]
    fn there_is_a_value_for_each_column_and_it_is_its_own() {
        let one = Averages { latency: 8.0, overall: 20.0, compute: 14.0, begin: 1.0, test: 2.0, wait: 3.0 };
        let other =
            Averages { latency: 12.0, overall: 24.0, compute: 16.0, begin: 3.0, test: 4.0, wait: 5.0 };
        let of_all = [one.as_array(), other.as_array()].concat();
        let of_all = [of_all];
        for form in Form::ALL {
            for full in [false, true] {
                let columns = columns(form, full, &[By::Mpi]).len();
                assert_eq!(values(form, full, &of_all).len(), columns, "{form:?} {full}");
                assert_eq!(values(form, full, &[Vec::new()]).len(), columns, "{form:?} {full} elsewhere");
            }
        }
        assert_eq!(values(Form::Blocking, true, &of_all), [10.0, 8.0, 12.0]);
        // 22 - 15 are 7 of 10: 30 per cent are hidden.
        assert_eq!(values(Form::Nonblocking, false, &of_all), [22.0, 15.0, 10.0, 30.0]);
        let full = [22.0, 15.0, 2.0, 3.0, 4.0, 10.0, 8.0, 12.0, 30.0];
        assert_eq!(values(Form::Nonblocking, true, &of_all), full);
    }
}
