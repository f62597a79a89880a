//! `ironband tune --explain`: what is taken, why, what it costs, and what else there is.

use std::fmt::Write as _;

use ironband_collectives::choose::Case;
use ironband_collectives::cost::{bound_ns, count};
use ironband_collectives::reason::Bytes;
use ironband_collectives::{Model, Tuning};

use super::asked::Asked;
use crate::quantity::{quotient_text, value_text};

/// The constants of a model for a reader.
pub(super) fn constants(model: &Model) -> String {
    let Model { alpha_ns, beta_ns_per_byte, gamma_ns_per_byte, gap_ns, .. } = model;
    format!(
        "alpha {} us, beta {} ns/B, gamma {} ns/B, gap {} us",
        value_text(alpha_ns / 1000.0),
        value_text(*beta_ns_per_byte),
        value_text(*gamma_ns_per_byte),
        value_text(gap_ns / 1000.0)
    )
}

/// Whose constants they are.
pub(super) fn whose(model: &Model) -> String {
    if model.date.is_empty() { model.machine.clone() } else { format!("{}, {}", model.machine, model.date) }
}

/// A time for a reader, in us.
fn us(ns: Option<f64>) -> String {
    ns.map_or_else(|| "-".to_owned(), |ns| value_text(ns / 1000.0))
}

/// The answer. `table` says whose table it is.
pub(super) fn text(asked: Asked, ranks: u32, tuning: &Tuning, table: &str) -> String {
    let case = asked.case(ranks);
    let choice = tuning.table.choose(&case);
    let name = asked.collective.name();
    let (bytes, whose_bytes) = (Bytes(asked.bytes), asked.whose());
    let mut text = format!("{name}, {bytes} ({whose_bytes}), {ranks} ranks, by {table}\n");
    let _ = writeln!(text, "  takes    {}: {}", case.path(choice.algorithm), choice.algorithm);
    let _ = writeln!(text, "  because  {}", choice.reason.text(&case, &tuning.table));
    let on_one = Case { is_one_node: true, ..case };
    let there = tuning.table.choose(&on_one);
    if there != choice {
        let _ = writeln!(
            text,
            "  or, where all ranks share a node, {}: {}",
            case.path(there.algorithm),
            there.algorithm
        );
        let _ = writeln!(text, "  because  {}", there.reason.text(&on_one, &tuning.table));
    }
    let Some(operation) = asked.operation() else {
        text += "  Whose neighbours are whose is the program's to say, so nothing can be counted.\n";
        return text;
    };
    let nominal = Model::default();
    let model = tuning.model.as_ref().unwrap_or(&nominal);
    let bound = bound_ns(operation, ranks, model);
    let _ = writeln!(
        text,
        "\nCounted from the schedules, of the busiest rank; path: of the longest way through all ranks."
    );
    let _ = writeln!(text, "Times by {} ({})", constants(model), whose(model));
    let _ = writeln!(
        text,
        "\n  {:<30} {:>6} {:>8} {:>12} {:>12} {:>7} {:>12} {:>9} {:>7}",
        "algorithm", "rounds", "messages", "bytes", "combined", "path", "path bytes", "us", "/ bound"
    );
    for algorithm in tuning.table.algorithms(&case) {
        let counted = count(operation, algorithm, ranks, model);
        let (cost, path) = (counted.busiest, counted.path);
        let _ = writeln!(
            text,
            "{} {:<30} {:>6} {:>8} {:>12} {:>12} {:>7} {:>12} {:>9} {:>7}",
            if algorithm == choice.algorithm { "*" } else { " " },
            algorithm.to_string(),
            cost.rounds,
            cost.messages_sent.max(cost.messages_received),
            cost.elements_sent.max(cost.elements_received),
            cost.elements_combined,
            path.map_or_else(|| "-".to_owned(), |path| path.alphas.to_string()),
            path.map_or_else(|| "-".to_owned(), |path| path.bytes_moved.to_string()),
            us(path.map(|path| path.ns)),
            path.filter(|_| bound > 0.0)
                .map_or_else(|| "-".to_owned(), |path| quotient_text(path.ns / bound)),
        );
    }
    let _ = writeln!(text, "  {:<94} {:>9}", "bound: the best broadcast, the bytes", us(Some(bound)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(line: &str, ranks: u32, tuning: &Tuning) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        text(Asked::parse(&words).unwrap(), ranks, tuning, "the default table")
    }

    #[test]
    fn the_answer_in_full() {
        assert_eq!(
            explained("allreduce 64KiB", 8, &Tuning::default()),
            include_str!("explain_allreduce.txt")
        );
    }

    #[test]
    fn a_measured_machine_is_named_and_counts() {
        let model = Model {
            machine: "a machine".to_owned(),
            date: "2026-01-31".to_owned(),
            alpha_ns: 2000.0,
            ..Model::default()
        };
        let text = explained("barrier", 8, &Tuning { model: Some(model), ..Tuning::default() });
        assert!(text.contains("(a machine, 2026-01-31)"), "{text}");
        let line = text.lines().find(|line| line.starts_with('*')).unwrap();
        assert!(line.starts_with("* dissemination (radix 4) ") && line.ends_with(" 4.400    1.38"), "{text}");
    }

    #[test]
    fn what_cannot_be_counted_is_said() {
        let text = explained("neighbour_exchange 8", 8, &Tuning::default());
        assert!(
            text.contains("neighbour::exchange: exchange\n  because  there is no other algorithm\n"),
            "{text}"
        );
        assert!(text.ends_with("so nothing can be counted.\n"), "{text}");
    }
}
