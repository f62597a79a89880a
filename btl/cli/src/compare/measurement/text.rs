//! The table that OSU micro-benchmarks print:
//!
//! ```text
//! # OSU MPI Latency Test v7.0
//! # Size          Latency (us)
//! 0                       0.11
//! 8                       0.12
//! ```
//!
//! The last comment before the first row titles its columns, two or more spaces apart. Benchmarks without a message
//! (a barrier) have no `Size` column; their one row counts as size 0. Everything else that MPI or a batch system
//! writes between is passed over, as long as it does not look like a row.

use super::{Column, Measurement, ParseError};
use crate::compare::metric::Metric;
use std::collections::BTreeMap;

/// Reads the standard output of one run.
pub(in crate::compare) fn parse(output: &str) -> Result<Measurement, ParseError> {
    let mut titles: Option<Vec<&str>> = None;
    let mut columns: Vec<(usize, Column)> = Vec::new();
    for line in output.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            if columns.is_empty() {
                titles = Some(split_titles(comment));
            }
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Words such as `nan` and `infinity` parse as numbers, and no row begins with them.
        if !fields.first().is_some_and(|field| {
            field.starts_with(|c: char| c.is_ascii_digit()) && field.parse::<f64>().is_ok()
        }) {
            continue;
        }
        let Some(titles) = &titles else { return Err(ParseError::NoTitles { row: line.to_owned() }) };
        if columns.is_empty() {
            columns = comparable(titles)?;
        }
        read_row(line, &fields, titles, &mut columns)?;
    }
    if columns.is_empty() {
        return Err(ParseError::NoRows);
    }
    Ok(Measurement { columns: columns.into_iter().map(|(_, column)| column).collect() })
}

fn split_titles(comment: &str) -> Vec<&str> {
    comment.split("  ").map(str::trim).filter(|title| !title.is_empty()).collect()
}

/// The columns worth comparing. Where details of a quantity have columns too, its first one stands for it.
fn comparable(titles: &[&str]) -> Result<Vec<(usize, Column)>, ParseError> {
    let mut found: Vec<(usize, Column)> = Vec::new();
    for (index, title) in titles.iter().enumerate() {
        if let Some(metric) = Metric::of_title(title)
            && !found.iter().any(|(_, column)| column.metric == metric)
        {
            found.push((index, Column { metric, values: BTreeMap::new() }));
        }
    }
    if found.is_empty() {
        Err(ParseError::NothingComparable { titles: titles.join("  ") })
    } else {
        Ok(found)
    }
}

fn read_row(
    line: &str,
    fields: &[&str],
    titles: &[&str],
    columns: &mut [(usize, Column)],
) -> Result<(), ParseError> {
    if fields.iter().any(|field| field.eq_ignore_ascii_case("fail")) {
        return Err(ParseError::Validation { row: line.to_owned() });
    }
    if fields.len() != titles.len() {
        let titles_text = titles.join("  ");
        return Err(ParseError::Columns { row: line.to_owned(), columns: titles.len(), titles: titles_text });
    }
    let not_a_number = |field: &str| ParseError::NotANumber { row: line.to_owned(), field: field.to_owned() };
    let size_bytes = match titles[0].eq_ignore_ascii_case("size") {
        true => fields[0].parse().map_err(|_| not_a_number(fields[0]))?,
        false => 0,
    };
    for (index, column) in columns {
        let field = fields[*index];
        let value: f64 =
            field.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| not_a_number(field))?;
        if column.values.insert(size_bytes, value).is_some() {
            return Err(ParseError::Repeated { size_bytes });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(measurement: &Measurement, metric: Metric) -> Vec<(u64, f64)> {
        let column = measurement.columns.iter().find(|column| column.metric == metric).unwrap();
        column.values.iter().map(|(size, value)| (*size, *value)).collect()
    }

    #[test]
    fn a_latency_table_is_read_past_the_noise_around_it() {
        let output = "Warning: Permanently added something\n\
                      # OSU MPI Latency Test v7.0\n# Size          Latency (us)\n\
                      0                       0.11\n8                       0.12\n\n[vm:1] a message\n4194304   390.25\n";
        let measurement = parse(output).unwrap();
        assert_eq!(measurement.columns.len(), 1);
        assert_eq!(values(&measurement, Metric::Latency), [(0, 0.11), (8, 0.12), (4194304, 390.25)]);
    }

    #[test]
    fn two_metrics_of_one_benchmark_are_both_read() {
        let output = "# OSU MPI Multiple Bandwidth / Message Rate Test v5.9\n# [ pairs: 1 ] [ window size: 64 ]\n\
                      # Size                  MB/s        Messages/s\n1   21.80   21800000.12\n2  43.1 21550000\n";
        let measurement = parse(output).unwrap();
        assert_eq!(values(&measurement, Metric::Bandwidth), [(1, 21.8), (2, 43.1)]);
        assert_eq!(values(&measurement, Metric::MessageRate), [(1, 21800000.12), (2, 21550000.0)]);
    }

    #[test]
    fn full_statistics_are_reduced_to_the_average() {
        let output = "# Size       Avg Latency(us)   Min Latency(us)   Max Latency(us)  Iterations\n8  1.5  1.0  2.0  1000\n";
        assert_eq!(values(&parse(output).unwrap(), Metric::Latency), [(8, 1.5)]);
    }

    #[test]
    fn of_a_quantity_and_its_details_the_first_column_counts() {
        let output =
            "# Size        Latency (us)      Avg (us)      Min (us)      P50 (us)\n8  1.25  1.5  1.0  1.2\n";
        let measurement = parse(output).unwrap();
        assert_eq!(measurement.columns.len(), 1);
        assert_eq!(values(&measurement, Metric::Latency), [(8, 1.25)]);
    }

    #[test]
    fn a_barrier_counts_as_size_0() {
        let output = "# OSU MPI Barrier Latency Test v7.0\n# Avg Latency(us)\n             0.47\n";
        assert_eq!(values(&parse(output).unwrap(), Metric::Latency), [(0, 0.47)]);
    }

    #[test]
    fn a_non_blocking_collective_is_read_by_its_whole_its_communication_and_its_overlap() {
        let output = "# OSU MPI Non-blocking Allreduce Latency Test v7.5\n# Overall = Coll. Init + Compute + MPI_Test + MPI_Wait\n\n\
                      # Datatype: MPI_INT.\n\
                      # Size           Overall(us)       Compute(us)    Pure Comm.(us)        Overlap(%)\n\
                      4                     1.50              1.00              0.80             37.50\n";
        let measurement = parse(output).unwrap();
        assert_eq!(measurement.columns.len(), 3);
        assert_eq!(values(&measurement, Metric::Overall), [(4, 1.5)]);
        assert_eq!(values(&measurement, Metric::PureCommunication), [(4, 0.8)]);
        assert_eq!(values(&measurement, Metric::Overlap), [(4, 37.5)]);
    }

    #[test]
    fn failed_validation_is_an_error() {
        let output =
            |verdict| format!("# Size          Latency (us)        Validation\n8   0.12   {verdict}\n");
        assert_eq!(values(&parse(&output("Pass")).unwrap(), Metric::Latency), [(8, 0.12)]);
        assert_eq!(parse(&output("Fail")), Err(ParseError::Validation { row: "8   0.12   Fail".into() }));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        assert_eq!(parse(""), Err(ParseError::NoRows));
        assert_eq!(parse("# Size   Latency (us)\n"), Err(ParseError::NoRows));
        assert_eq!(parse("8 0.1\n"), Err(ParseError::NoTitles { row: "8 0.1".into() }));
        let titles = "# Size   Latency (us)\n";
        assert!(matches!(parse(&format!("{titles}8 0.1 7\n")), Err(ParseError::Columns { columns: 2, .. })));
        assert!(matches!(parse(&format!("{titles}8\n")), Err(ParseError::Columns { columns: 2, .. })));
        let wrong = ParseError::NotANumber { row: "8 nan".into(), field: "nan".into() };
        assert_eq!(parse(&format!("{titles}8 nan\n")), Err(wrong));
        assert!(matches!(parse(&format!("{titles}8.5 1\n")), Err(ParseError::NotANumber { .. })));
        assert_eq!(parse(&format!("{titles}8 1\n8 2\n")), Err(ParseError::Repeated { size_bytes: 8 }));
        assert!(matches!(parse("# Size   Weight (kg)\n8 1\n"), Err(ParseError::NothingComparable { .. })));
    }

    proptest! {
        #[test]
        fn every_table_that_is_printed_is_read_back(rows in prop::collection::btree_map(0u64..1 << 33, 1u32..1_000_000, 1..24)) {
            let mut output = String::from("# Size          Bandwidth (MB/s)\n");
            for (size, hundredths) in &rows {
                output += &format!("{size:<10}{:>18.2}\n", f64::from(*hundredths) / 100.0);
            }
            let read = parse(&output).unwrap();
            let want: Vec<_> = rows.iter().map(|(size, hundredths)| (*size, f64::from(*hundredths) / 100.0)).collect();
            prop_assert_eq!(values(&read, Metric::Bandwidth), want);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[#0-9a-z. \n]{0,200}") {
            let _ = parse(&text);
        }
    }
}
