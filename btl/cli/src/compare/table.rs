//! The table for a person.

use super::comparison::{Benchmark, Cell, Comparison, Table};
use super::metric::Better;
use crate::quantity::{quotient_text, value_text};
use std::fmt::Write;

/// Where and how everything was measured.
pub(super) fn head(comparison: &Comparison) -> String {
    let names: Vec<&str> = comparison.transports.iter().map(|transport| transport.name.as_str()).collect();
    format!(
        "# {}\n# Open MPI {}; {}; {} rounds of {}, interleaved\n",
        comparison.machine.line(),
        comparison.open_mpi_version,
        comparison.ranks_text(),
        comparison.rounds,
        names.join(", ")
    )
}

/// All tables of one benchmark.
pub(super) fn text(benchmark: &Benchmark) -> String {
    let mut out = String::new();
    for table in &benchmark.tables {
        write_table(&mut out, benchmark, table);
    }
    out
}

fn write_table(out: &mut String, benchmark: &Benchmark, table: &Table) {
    let names: Vec<&str> = table
        .rows
        .first()
        .map_or(Vec::new(), |row| row.cells.iter().map(|cell| cell.transport.as_str()).collect());
    let words =
        std::iter::once(benchmark.name.as_str()).chain(benchmark.arguments.iter().map(String::as_str));
    let title = words.collect::<Vec<_>>().join(" ");
    let (direction, favours_first) = match table.better {
        Better::Lower => ("lower is better", "above"),
        Better::Higher => ("higher is better", "below"),
    };
    let _ = writeln!(
        out,
        "\n# {title}: {} in {}, {direction}; median [min-max]",
        table.metric.name().to_lowercase(),
        table.unit
    );
    if let [first, _, ..] = names.as_slice() {
        let _ = writeln!(
            out,
            "# ratio to {first}: medians divided [min-max of the rounds]; {favours_first} 1, {first} is better"
        );
    }
    let mut lines = vec![titles(&names)];
    lines.extend(table.rows.iter().map(|row| {
        let mut fields = vec![row.size_bytes.to_string()];
        fields.extend(row.cells.iter().map(summary_text));
        fields.extend(row.cells.iter().skip(1).map(ratio_text));
        fields
    }));
    out.push_str(&aligned(&lines));
}

fn titles(names: &[&str]) -> Vec<String> {
    let mut titles = vec!["# Size".to_owned()];
    titles.extend(names.iter().map(|name| (*name).to_owned()));
    if let Some((first, others)) = names.split_first() {
        titles.extend(others.iter().map(|other| format!("{other}/{first}")));
    }
    titles
}

fn summary_text(cell: &Cell) -> String {
    cell.summary.map_or_else(
        || "-".to_owned(),
        |summary| {
            format!(
                "{} [{}-{}]",
                value_text(summary.median),
                value_text(summary.min),
                value_text(summary.max)
            )
        },
    )
}

fn ratio_text(cell: &Cell) -> String {
    cell.ratio_to_first.map_or_else(
        || "-".to_owned(),
        |ratio| {
            let [of_medians, min, max] =
                [ratio.of_medians, ratio.min_in_a_round, ratio.max_in_a_round].map(quotient_text);
            format!("{of_medians} [{min}-{max}]")
        },
    )
}

/// The first column to the left, the others to the right, two spaces between.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        for (column, field) in line.iter().enumerate() {
            let width = widths[column];
            let _ =
                if column == 0 { write!(out, "{field:<width$}") } else { write!(out, "  {field:>width$}") };
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::comparison::tests::benchmark;

    #[test]
    fn a_table_says_what_it_divides_and_which_way_is_better() {
        let want = "
# osu_latency -m 8:16: latency in us, lower is better; median [min-max]
# ratio to ours: medians divided [min-max of the rounds]; above 1, ours is better
# Size                 ours                  tcp          tcp/ours
8       2.000 [1.000-3.000]  4.000 [4.000-4.000]  2.00 [4.00-4.00]
16      2.000 [2.000-2.000]                    -                 -
";
        assert_eq!(text(&benchmark()), want);
    }

    #[test]
    fn where_more_is_better_the_label_turns_round() {
        let mut benchmark = benchmark();
        benchmark.tables[0].better = Better::Higher;
        assert!(text(&benchmark).contains("below 1, ours is better"));
    }
}
