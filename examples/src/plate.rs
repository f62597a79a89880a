//! Heat on a plate that is cut into blocks: what the two halo exchanges compute, without any communication.

use std::ops::Range;

use anyhow::{Result, ensure};

/// How much of the difference to its neighbours a cell takes over in a step; above 0.25 it would not settle.
const DIFFUSION: f64 = 0.1;

/// A rectangle of the plate with one row and column of neighbours' cells around it, row by row.
#[derive(Clone)]
pub struct Block {
    rows: usize,
    columns: usize,
    /// Row by row, the halo included.
    pub cells: Vec<f64>,
}

impl Block {
    /// The part of the initial plate in these rows and columns; what lies around it is cold (0).
    pub fn new(rows: Range<usize>, columns: Range<usize>) -> Self {
        let mut block = Self {
            rows: rows.len(),
            columns: columns.len(),
            cells: vec![0.0; (rows.len() + 2) * (columns.len() + 2)],
        };
        for (i, row) in rows.enumerate() {
            for (j, column) in columns.clone().enumerate() {
                let at = block.at(i + 1, j + 1);
                block.cells[at] = initial(row, column);
            }
        }
        block
    }

    /// The index of a cell; rows and columns count from the halo, so the block's own begin at 1.
    fn at(&self, row: usize, column: usize) -> usize {
        row * (self.columns + 2) + column
    }

    /// One step: each cell moves towards the mean of its four neighbours.
    pub fn step(&mut self) {
        let old = self.cells.clone();
        for row in 1..=self.rows {
            for column in 1..=self.columns {
                let here = self.at(row, column);
                let (north, south) = (old[self.at(row - 1, column)], old[self.at(row + 1, column)]);
                let (west, east) = (old[here - 1], old[here + 1]);
                self.cells[here] = old[here] + DIFFUSION * (north + south + west + east - 4.0 * old[here]);
            }
        }
    }

    /// The indices of a side's cells: `depth` 0 is the halo, 1 the block's own edge.
    pub fn side(&self, side: Side, depth: usize) -> Vec<usize> {
        match side {
            Side::North => (1..=self.columns).map(|column| self.at(depth, column)).collect(),
            Side::South => (1..=self.columns).map(|column| self.at(self.rows + 1 - depth, column)).collect(),
            Side::West => (1..=self.rows).map(|row| self.at(row, depth)).collect(),
            Side::East => (1..=self.rows).map(|row| self.at(row, self.columns + 1 - depth)).collect(),
        }
    }

    /// The block without its halo, row by row.
    pub fn interior(&self) -> Vec<f64> {
        (1..=self.rows)
            .flat_map(|row| &self.cells[self.at(row, 1)..self.at(row, self.columns + 1)])
            .copied()
            .collect()
    }
}

/// Where a neighbour is; also the tag of what is sent to that side.
#[derive(Clone, Copy)]
pub enum Side {
    /// Towards row 0.
    North,
    /// Towards the last row.
    South,
    /// Towards column 0.
    West,
    /// Towards the last column.
    East,
}

impl Side {
    /// All four.
    pub const ALL: [Self; 4] = [Self::North, Self::South, Self::West, Self::East];

    /// Where the neighbour on this side sees this block.
    pub fn opposite(self) -> Self {
        match self {
            Self::North => Self::South,
            Self::South => Self::North,
            Self::West => Self::East,
            Self::East => Self::West,
        }
    }
}

/// The plate at the start: a hot ring, and unlike everywhere, so that a block in the wrong place is noticed. Columns and rows are
/// those of the whole plate, in cells.
fn initial(row: usize, column: usize) -> f64 {
    let (from_middle_x, from_middle_y) = (column as f64 - 128.0, row as f64 - 128.0);
    let is_hot = (60.0..90.0).contains(&from_middle_x.hypot(from_middle_y));
    let uneven = ((row * 7919 + column * 104_729) % 1000) as f64 / 50.0;
    if is_hot { 80.0 + uneven } else { uneven }
}

/// The part of `cells` that belongs to coordinate `index` of `count`, as even as can be.
pub fn share(cells: usize, count: usize, index: usize) -> Range<usize> {
    cells * index / count..cells * (index + 1) / count
}

/// The two factors of `ranks` that are closest to each other: a square has the shortest edges.
pub fn nearly_square(ranks: usize) -> (usize, usize) {
    let rows =
        (1..=ranks).take_while(|rows| rows * rows <= ranks).filter(|rows| ranks.is_multiple_of(*rows)).last();
    let rows = rows.unwrap_or(1);
    (rows, ranks / rows)
}

/// Puts the cells of a block (row by row, as many as it has, or more) where they belong in a plate of so many columns.
pub fn place(
    plate: &mut [f64],
    plate_columns: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    cells: &[f64],
) {
    for (row, cells) in rows.zip(cells.chunks_exact(columns.len().max(1))) {
        plate[row * plate_columns..][columns.clone()].copy_from_slice(cells);
    }
}

/// Compares with a serial run, bit by bit: blocks are computed by the same operations in the same order.
///
/// # Errors
/// The first cell that differs.
pub fn compare(plate: &[f64], rows: usize, columns: usize, steps: usize) -> Result<()> {
    let mut serial = Block::new(0..rows, 0..columns);
    (0..steps).for_each(|_| serial.step());
    for (index, (got, expected)) in plate.iter().zip(serial.interior()).enumerate() {
        let (row, column) = (index / columns, index % columns);
        ensure!(
            got.to_bits() == expected.to_bits(),
            "row {row}, column {column}: the serial run has {expected}, got {got}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for (cells, count) in [(10, 3), (7, 7), (100, 1), (53, 6)] {
            let all: Vec<usize> = (0..count).flat_map(|index| share(cells, count, index)).collect();
            assert_eq!(all, (0..cells).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ranks_are_arranged_nearly_square() {
        assert_eq!([1, 2, 4, 6, 7, 12].map(nearly_square), [(1, 1), (1, 2), (2, 2), (2, 3), (1, 7), (3, 4)]);
    }

    #[test]
    fn heat_is_kept_while_it_is_far_from_the_edge() {
        let mut block = Block::new(0..9, 0..9);
        block.cells.fill(0.0);
        let middle = block.at(5, 5);
        block.cells[middle] = 1.0;
        (0..3).for_each(|_| block.step());
        assert!((block.interior().iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
