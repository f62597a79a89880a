//! `ironband tune --costs`: what every algorithm costs, from a few ranks to very many, counted from its
//! schedules.

use std::io::Write;

use indicatif::ProgressBar;
use ironband_collectives::choose::Collective;
use ironband_collectives::cost::{Counted, bound_ns, count};
use ironband_collectives::{Model, Tuning};

use super::asked::Asked;
use super::explain::{constants, whose};
use crate::quantity::{quotient_text, size_label, value_text};

/// Vectors or blocks of so many bytes.
const SIZES: [u64; 3] = [8, 64 << 10, 16 << 20];

/// Whether it is counted: with blocks of any lengths an operation costs as much as with equal ones, and whose
/// neighbours are whose is not known.
const fn is_counted(collective: &Collective) -> bool {
    use Collective::{Allgatherv, Alltoallv, Gatherv, NeighbourExchange, Scatterv};
    !matches!(collective, Gatherv | Scatterv | Allgatherv | Alltoallv | NeighbourExchange)
}

/// Numbers of ranks: powers of four, and between them three times one, which is no power of two; and the
/// greatest.
pub(super) fn numbers_of_ranks(max: u32) -> Vec<u32> {
    let powers = (1..16).map(|power| 4_u32.pow(power));
    let mut all: Vec<u32> = powers.flat_map(|four| [four, four / 4 * 12]).chain([2, 3, max]).collect();
    all.retain(|ranks| *ranks <= max);
    all.sort_unstable();
    all.dedup();
    all
}

fn known<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// One line of the table.
fn row(asked: Asked, name: &str, ranks: u32, counted: &Counted, bound: f64) -> String {
    let Counted { busiest, messages, path, walked, .. } = counted;
    format!(
        "{:<15} {name:<28} {ranks:>6} {:>5} {:>7} {:>8} {:>14} {:>12} {:>7} {:>14} {:>14} {:>12} {:>12} {:>7}  {walked}",
        asked.collective.name(),
        size_label(asked.bytes),
        busiest.rounds,
        busiest.messages_sent.max(busiest.messages_received),
        busiest.elements_sent.max(busiest.elements_received),
        known(*messages),
        known(path.map(|path| path.alphas)),
        known(path.map(|path| path.bytes_moved)),
        known(path.map(|path| path.bytes_combined)),
        known(path.map(|path| value_text(path.ns / 1000.0))),
        value_text(bound / 1000.0),
        known(path.filter(|_| bound > 0.0).map(|path| quotient_text(path.ns / bound))),
    )
}

/// Prints the table as it is counted.
pub(super) fn print(
    tuning: &Tuning,
    max_ranks: u32,
    bar: &ProgressBar,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let nominal = Model::default();
    let model = tuning.model.as_ref().unwrap_or(&nominal);
    writeln!(
        out,
        "Counted from the schedules. rounds, messages, bytes: of the busiest rank that was walked; all: messages of all ranks;"
    )?;
    writeln!(
        out,
        "path: the longest way through all ranks, in messages, bytes moved and bytes combined, each where nothing else takes time;"
    )?;
    writeln!(out, "us: by {} ({}).", constants(model), whose(model))?;
    writeln!(
        out,
        "{:<15} {:<28} {:>6} {:>5} {:>7} {:>8} {:>14} {:>12} {:>7} {:>14} {:>14} {:>12} {:>12} {:>7}  walked",
        "operation",
        "algorithm",
        "ranks",
        "size",
        "rounds",
        "messages",
        "bytes",
        "all",
        "path",
        "path bytes",
        "path combined",
        "us",
        "bound us",
        "ratio"
    )?;
    let numbers = numbers_of_ranks(max_ranks);
    let operations = || Collective::ALL.into_iter().filter(is_counted);
    bar.set_length((operations().count() * numbers.len()) as u64);
    for collective in operations() {
        for ranks in &numbers {
            bar.set_message(format!("{} with {ranks} ranks", collective.name()));
            let sizes = if collective == Collective::Barrier { &SIZES[..1] } else { &SIZES };
            for bytes in sizes {
                let bytes = if collective == Collective::Barrier { 0 } else { *bytes };
                let asked = Asked { collective, bytes };
                let Some(operation) = asked.operation() else { continue };
                for algorithm in tuning.table.algorithms(&asked.case(*ranks)) {
                    let counted = count(operation, algorithm, *ranks, model);
                    let bound = bound_ns(operation, *ranks, model);
                    let line = row(asked, &algorithm.to_string(), *ranks, &counted, bound);
                    bar.suspend(|| writeln!(out, "{line}"))?;
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_ranks_and_the_most() {
        assert_eq!(numbers_of_ranks(2), [2]);
        assert_eq!(numbers_of_ranks(50), [2, 3, 4, 12, 16, 48, 50]);
        assert_eq!(numbers_of_ranks(65_536).last(), Some(&65_536));
        assert!(numbers_of_ranks(65_536).contains(&49_152));
    }

    #[test]
    fn every_operation_has_a_line_for_each_algorithm() {
        let mut out = Vec::new();
        print(&Tuning::default(), 4, &ProgressBar::hidden(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for start in [
            "barrier         dissemination (radix 4)           4     0       1        3              0           12       1",
            "allreduce       ring                              4   64K       6        6          98304           24       6          98304          49152",
            "scatter         direct (window 16)                3     8       1        2             16            2       1",
        ] {
            assert!(text.lines().any(|line| line.starts_with(start)), "no {start}\n{text}");
        }
    }
}
