//! Adafactor, arXiv 1804.04235, without a first moment and with the rate of the schedule: what transformers'
//! `Adafactor` does with `scale_parameter` and `relative_step` off, as its `Trainer` has it.
//!
//! Of a matrix's second moment only the means of its rows and columns are kept; their outer product stands for it.

use rayon::prelude::*;

use super::step::Step;

/// Added to squares (ε₁).
const EPSILON: f64 = 1e-30;
/// Largest root mean square of an update.
const CLIP: f64 = 1.0;
/// How fast the second moment's decay nears 1.
const DECAY_RATE: f64 = -0.8;
/// Rows summed in one go. Fixed, so that sums do not depend on the number of threads.
const ROWS: usize = 64;

/// The second moment of one tensor.
#[derive(Debug)]
pub(super) enum Adafactor {
    /// Of a matrix: `[rows]` and `[columns]`.
    Matrix { rows: Vec<f32>, columns: Vec<f32> },
    /// Of anything else, number by number.
    Whole(Vec<f32>),
}

impl Adafactor {
    /// Zeros for a tensor of shape `dims`.
    pub(super) fn zeros(dims: &[usize]) -> Self {
        match *dims {
            [rows, columns] => Self::Matrix { rows: vec![0.0; rows], columns: vec![0.0; columns] },
            _ => Self::Whole(vec![0.0; dims.iter().product()]),
        }
    }

    /// Its arrays by transformers' names.
    pub(super) fn arrays(&self) -> Vec<(&'static str, &Vec<f32>)> {
        match self {
            Self::Matrix { rows, columns } => {
                vec![("exp_avg_sq_row", rows), ("exp_avg_sq_col", columns)]
            }
            Self::Whole(all) => vec![("exp_avg_sq", all)],
        }
    }

    /// As [`Self::arrays`].
    pub(super) fn arrays_mut(&mut self) -> Vec<(&'static str, &mut Vec<f32>)> {
        match self {
            Self::Matrix { rows, columns } => {
                vec![("exp_avg_sq_row", rows), ("exp_avg_sq_col", columns)]
            }
            Self::Whole(all) => vec![("exp_avg_sq", all)],
        }
    }

    /// One step.
    pub(super) fn update(&mut self, step: &Step, values: &mut [f32], grads: &[f32]) {
        let beta = 1.0 - (step.number as f64).powf(DECAY_RATE);
        let factor = step.grad_factor as f32;
        let blend = |old: f32, new: f64| (f64::from(old) * beta + new * (1.0 - beta)) as f32;
        match self {
            Self::Matrix { rows, columns } => {
                let (row_means, column_means) = means_of_squares(grads, columns.len(), factor);
                rows.iter_mut().zip(row_means).for_each(|(row, new)| *row = blend(*row, new));
                columns.iter_mut().zip(column_means).for_each(|(c, new)| *c = blend(*c, new));
                let mean = rows.iter().map(|row| f64::from(*row)).sum::<f64>() / rows.len() as f64;
                let row_factors: Vec<f32> =
                    rows.iter().map(|row| (f64::from(*row) / mean).sqrt().recip() as f32).collect();
                let column_factors: Vec<f32> = columns.iter().map(|c| c.sqrt().recip()).collect();
                let width = column_factors.len();
                apply(step, values, grads, width, |row, grads, into| {
                    let row = row_factors[row] * factor;
                    for ((into, grad), column) in into.iter_mut().zip(grads).zip(&column_factors) {
                        *into = row * column * grad;
                    }
                });
            }
            Self::Whole(all) => {
                for (average, grad) in all.iter_mut().zip(grads) {
                    let grad = f64::from(grad * factor);
                    *average = blend(*average, grad * grad + EPSILON);
                }
                apply(step, values, grads, grads.len().max(1), |_, grads, into| {
                    for ((into, grad), average) in into.iter_mut().zip(grads).zip(all.iter()) {
                        *into = average.sqrt().recip() * grad * factor;
                    }
                });
            }
        }
    }
}

/// Of `(grad · factor)² + ε₁`: the mean of each row, and of each column.
fn means_of_squares(grads: &[f32], width: usize, factor: f32) -> (Vec<f64>, Vec<f64>) {
    let height = grads.len() / width.max(1);
    let parts: Vec<(Vec<f64>, Vec<f64>)> = grads
        .par_chunks(ROWS * width.max(1))
        .map(|grads| {
            let mut columns = vec![0.0; width];
            let row = |row: &[f32]| {
                let squares = row.iter().zip(&mut columns).map(|(grad, column)| {
                    let grad = f64::from(grad * factor);
                    let square = grad * grad + EPSILON;
                    *column += square;
                    square
                });
                squares.sum::<f64>() / width as f64
            };
            (grads.chunks(width).map(row).collect(), columns)
        })
        .collect();
    let mut columns = vec![0.0; width];
    for (_, part) in &parts {
        columns.iter_mut().zip(part).for_each(|(sum, part)| *sum += part / height as f64);
    }
    (parts.into_iter().flat_map(|(rows, _)| rows).collect(), columns)
}

/// Moves `values` by what `update` makes of each row's gradients, shortened to [`CLIP`]. The updates are made twice,
/// once for their length, rather than kept.
fn apply(
    step: &Step,
    values: &mut [f32],
    grads: &[f32],
    width: usize,
    update: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    let squares: Vec<f64> = grads
        .par_chunks(ROWS * width)
        .enumerate()
        .map(|(chunk, grads)| {
            let mut updates = vec![0.0; width];
            let row = |(row, grads): (usize, &[f32])| {
                update(chunk * ROWS + row, grads, &mut updates);
                updates.iter().map(|u| f64::from(*u) * f64::from(*u)).sum::<f64>()
            };
            grads.chunks(width).enumerate().map(row).sum()
        })
        .collect();
    let rms = (squares.iter().sum::<f64>() / grads.len().max(1) as f64).sqrt();
    let size = (step.learning_rate / (rms / CLIP).max(1.0)) as f32;
    let decay = (1.0 - step.weight_decay * step.learning_rate) as f32;
    values.par_chunks_mut(ROWS * width).zip(grads.par_chunks(ROWS * width)).enumerate().for_each(
        |(chunk, (values, grads))| {
            let mut updates = vec![0.0; width];
            for (row, (values, grads)) in
                values.chunks_mut(width).zip(grads.chunks(width)).enumerate()
            {
                update(chunk * ROWS + row, grads, &mut updates);
                for (value, update) in values.iter_mut().zip(&updates) {
                    *value = *value * decay - size * update;
                }
            }
        },
    );
}
