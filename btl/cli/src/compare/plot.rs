//! The plot: a panel for every metric of every benchmark, both axes logarithmic, medians as lines with markers and the
//! spread of the rounds as whiskers.
//!
//! Sizes are laid out by their binary logarithm. Zero has none, and the smallest message matters most, so it gets the
//! place to the left of 1 byte.

use super::comparison::{Benchmark, Comparison, Table};
use super::metric::{Better, Metric};
use super::statistics::Summary;
use crate::quantity::size_label;
use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;
use std::path::Path;

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 520;
const ZERO_PLACE: f64 = -1.0;

/// Colours that remain apart for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Marker<'a> = DynElement<'static, SVGBackend<'a>, (i32, i32)>;
type Points = Vec<(f64, Summary)>;

/// Draws every table of a comparison into one SVG file. Fails when there is nothing to draw.
pub(super) fn draw(comparison: &Comparison, path: &Path) -> anyhow::Result<()> {
    let panels: Vec<(&Benchmark, &Table)> = comparison
        .benchmarks
        .iter()
        .flat_map(|benchmark| benchmark.tables.iter().map(move |table| (benchmark, table)))
        // A share is often 0, which a logarithmic axis cannot show.
        .filter(|(_, table)| table.metric != Metric::Overlap)
        .collect();
    anyhow::ensure!(!panels.is_empty(), "there is nothing to draw: no run gave a measurement");
    let height = PANEL_HEIGHT * u32::try_from(panels.len())?;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("{} could not be drawn: {error}", path.display());
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    for (area, (benchmark, table)) in root.split_evenly((panels.len(), 1)).into_iter().zip(panels) {
        draw_panel(&area, comparison, benchmark, table).map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

fn draw_panel(
    area: &Panel<'_>,
    comparison: &Comparison,
    benchmark: &Benchmark,
    table: &Table,
) -> anyhow::Result<()> {
    let series: Vec<(&str, Points)> = comparison
        .transports
        .iter()
        .enumerate()
        .map(|(index, transport)| (transport.name.as_str(), points(table, index)))
        .collect();
    let (x_range, y_range) = ranges(&series);
    let (title_area, body) = area.split_vertically(62);
    draw_titles(&title_area, comparison, benchmark, table)?;
    let mut chart = ChartBuilder::on(&body)
        .margin_left(12)
        .margin_right(24)
        .margin_bottom(8)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(x_range.clone(), y_range.log_scale())?;
    let places = x_range.end - x_range.start;
    chart
        .configure_mesh()
        .x_max_light_lines(1)
        .x_labels(places.ceil() as usize + 1)
        .x_label_formatter(&|place| place_label(*place))
        .y_label_formatter(&|value| axis_label(*value))
        .x_desc("Message size (bytes)")
        .y_desc(format!("{} ({})", table.metric.name(), table.unit))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .light_line_style(RGBColor(244, 244, 244))
        .bold_line_style(RGBColor(220, 220, 220))
        .draw()?;
    for (index, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        chart.draw_series(points.iter().map(|(x, summary)| {
            PathElement::new(vec![(*x, summary.min), (*x, summary.max)], colour.mix(0.6).stroke_width(2))
        }))?;
        chart
            .draw_series(LineSeries::new(
                points.iter().map(|(x, summary)| (*x, summary.median)),
                colour.stroke_width(2),
            ))?
            .label(*name)
            .legend(move |(x, y)| {
                EmptyElement::at((x, y))
                    + PathElement::new(vec![(0, 0), (24, 0)], colour.stroke_width(2))
                    + marker(index, (12, 0), colour)
            });
        chart.draw_series(
            points
                .iter()
                .map(|(x, summary)| EmptyElement::at((*x, summary.median)) + marker(index, (0, 0), colour)),
        )?;
    }
    // The corner that curves of this kind leave free.
    let position = match table.metric {
        Metric::Latency | Metric::Overall | Metric::PureCommunication | Metric::Overlap => {
            SeriesLabelPosition::UpperLeft
        }
        Metric::Bandwidth => SeriesLabelPosition::LowerRight,
        Metric::MessageRate => SeriesLabelPosition::LowerLeft,
    };
    chart
        .configure_series_labels()
        .position(position)
        .legend_area_size(32)
        .margin(12)
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}

fn draw_titles(
    area: &Panel<'_>,
    comparison: &Comparison,
    benchmark: &Benchmark,
    table: &Table,
) -> anyhow::Result<()> {
    let direction = match table.better {
        Better::Lower => "lower is better",
        Better::Higher => "higher is better",
    };
    let title = format!("{}: {}, {direction}", benchmark.name, table.metric.name().to_lowercase());
    let machine = &comparison.machine;
    let detail = format!(
        "{}, Open MPI {}; {}; median and min-max of {} interleaved rounds",
        machine.processor,
        comparison.open_mpi_version,
        comparison.ranks_text(),
        comparison.rounds
    );
    let centred =
        |size: i32| ("sans-serif", size).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Top));
    let middle = i32::try_from(WIDTH / 2)?;
    area.draw_text(&title, &centred(20), (middle, 12))?;
    area.draw_text(&detail, &centred(13).color(&RGBColor(90, 90, 90)), (middle, 40))?;
    Ok(())
}

/// Where a marker differs by its index: a circle, a triangle, a cross or a square, in pixels around `centre`.
fn marker<'a>(index: usize, centre: (i32, i32), colour: RGBColor) -> Marker<'a> {
    let (x, y) = centre;
    match index % 4 {
        0 => Circle::new(centre, 4, colour.filled()).into_dyn(),
        1 => TriangleMarker::new(centre, 6, colour.filled()).into_dyn(),
        2 => Cross::new(centre, 4, colour.stroke_width(2)).into_dyn(),
        _ => Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], colour.filled()).into_dyn(),
    }
}

/// The medians of one transport that a logarithmic axis can show: zero, which OSU prints for what is below its
/// resolution, it cannot.
fn points(table: &Table, transport: usize) -> Points {
    let summaries =
        table.rows.iter().filter_map(|row| Some((place(row.size_bytes), row.cells[transport].summary?)));
    summaries.filter(|(_, summary)| summary.min > 0.0).collect()
}

fn place(size_bytes: u64) -> f64 {
    if size_bytes == 0 { ZERO_PLACE } else { (size_bytes as f64).log2() }
}

fn place_label(place: f64) -> String {
    // Labels stand at whole places alone; between them there is no size to name.
    if place == ZERO_PLACE {
        "0".to_owned()
    } else if place >= 0.0 && place.fract() == 0.0 && place < 64.0 {
        size_label(1 << place as u32)
    } else {
        String::new()
    }
}

fn axis_label(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1.0 => format!("{}", value.round()),
        value => format!("{:.*}", decimals(value), value),
    }
}

/// Enough decimals to show the first two digits of a value below one.
fn decimals(value: f64) -> usize {
    if value > 0.0 { (1.0 - value.log10().floor()) as usize } else { 0 }
}

fn ranges(series: &[(&str, Points)]) -> (Range<f64>, Range<f64>) {
    let all = || series.iter().flat_map(|(_, points)| points.iter());
    let fold =
        |values: &mut dyn Iterator<Item = f64>, start, pick: fn(f64, f64) -> f64| values.fold(start, pick);
    let left = fold(&mut all().map(|(x, _)| *x), f64::INFINITY, f64::min);
    let right = fold(&mut all().map(|(x, _)| *x), f64::NEG_INFINITY, f64::max);
    let low = fold(&mut all().map(|(_, summary)| summary.min), f64::INFINITY, f64::min);
    let high = fold(&mut all().map(|(_, summary)| summary.max), f64::NEG_INFINITY, f64::max);
    if left > right {
        // Nothing that can be shown: an empty panel still has axes.
        return (0.0..1.0, 1.0..10.0);
    }
    // A single size would make an axis without length.
    (left - 0.5..right + 0.5, low / 1.5..high * 1.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_at_whole_places() {
        assert_eq!(place_label(place(0)), "0");
        assert_eq!(place_label(place(1)), "1");
        assert_eq!(place_label(place(4096)), "4K");
        assert_eq!(place_label(place(4 << 30)), "4G");
        assert_eq!(place_label(2.5), "");
        assert_eq!(place_label(-2.0), "");
    }

    #[test]
    fn axis_labels_are_short() {
        assert_eq!(axis_label(0.1), "0.10");
        assert_eq!(axis_label(0.05), "0.050");
        assert_eq!(axis_label(20.0), "20");
        assert_eq!(axis_label(2e7), "20M");
    }

    #[test]
    fn one_point_and_none_still_make_axes() {
        let one = Summary { median: 2.0, min: 2.0, max: 2.0, rounds: 1 };
        let (x, y) = ranges(&[("a", vec![(3.0, one)])]);
        assert!(x.start < 3.0 && x.end > 3.0 && y.start < 2.0 && y.end > 2.0);
        let (x, y) = ranges(&[("a", vec![])]);
        assert!(x.start < x.end && y.start < y.end);
    }
}
