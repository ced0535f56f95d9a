//! Does this machine compute what it should, and how fast: every operation of a backend beside its portable twin.
//!
//! ```text
//!   cases ─ inputs ─┬─▶ Portable on the CPU ────────┬─▶ compare ─▶ Report
//!                   └─▶ the backend on its device ──┘
//! ```
//!
//! Inputs are the same numbers on every machine. Neighbours: `fleetune selftest` prints what comes back; the tests of
//! `ops::cuda` run the same cases through the host shim.

mod case;
mod cases;
mod numbers;
mod report;
mod size;

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use self::case::Case;
pub use self::report::{Measured, Report, Unit};
pub use self::size::Size;
use crate::Result;
use crate::ops::{Backend, Portable};

/// Holds every operation of `ops` against [`Portable`], and times each for about `each`.
///
/// # Errors
/// When the twin itself or a transfer fails; an operation that fails is a [`Report`] that says so.
pub fn run(ops: &dyn Backend, size: &Size, each: Duration) -> Result<Vec<Report>> {
    cases::all(size)?.iter().map(|case| examine(case, ops, each)).collect()
}

/// Allowed where activations are bf16: ten roundings to it. Most operations need two; attention's backward pass
/// multiplies rounded probabilities, their rounded gradients and what was rounded before it.
const HALVED: f64 = 10.0 / 256.0;

fn examine(case: &Case, ops: &dyn Backend, each: Duration) -> Result<Report> {
    let mut inputs = fresh(case, &Device::Cpu)?;
    for input in case.activations {
        // The twin is given what the backend will be given.
        inputs[*input] = inputs[*input].to_dtype(ops.activations())?.to_dtype(DType::F32)?;
    }
    let expected = numbers(&(case.run)(&Portable, &inputs)?)?;
    let halved = ops.activations() == DType::BF16;
    let outcome = || -> Result<Measured> {
        let found = numbers(&(case.run)(ops, &prepared(case, ops)?)?)?;
        let difference = difference(&found, &expected);
        let seconds = seconds(case, ops, each)?;
        Ok(Measured { difference, per_second: case.work.amount() / seconds })
    };
    Ok(Report {
        op: case.op,
        tolerance: if halved { case.tolerance.max(HALVED) } else { case.tolerance },
        unit: case.work.unit(),
        outcome: outcome().map_err(|error| error.to_string()),
    })
}

/// The inputs on `device`, nobody else's: operations write into them.
fn fresh(case: &Case, device: &Device) -> Result<Vec<Tensor>> {
    case.inputs.iter().map(|input| Ok(input.copy()?.to_device(device)?)).collect()
}

/// As [`fresh`], activations as `ops` wants them.
fn prepared(case: &Case, ops: &dyn Backend) -> Result<Vec<Tensor>> {
    let mut inputs = fresh(case, &ops.place())?;
    for input in case.activations {
        inputs[*input] = ops.as_activation(&inputs[*input])?;
    }
    Ok(inputs)
}

fn numbers(tensors: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let one = |tensor: &Tensor| Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?);
    tensors.iter().map(one).collect()
}

/// The largest |found − expected| / (|expected| + root mean square of its tensor); infinite where shapes differ or
/// something is not a number.
fn difference(found: &[Vec<f64>], expected: &[Vec<f64>]) -> f64 {
    if !found.iter().map(Vec::len).eq(expected.iter().map(Vec::len)) {
        return f64::INFINITY;
    }
    let of_tensor = |(found, expected): (&Vec<f64>, &Vec<f64>)| {
        let squares: f64 = expected.iter().map(|x| x * x).sum();
        let typical = (squares / expected.len() as f64).sqrt();
        let of_number = |(found, expected): (&f64, &f64)| {
            let difference = (found - expected).abs();
            let relative =
                if difference == 0.0 { 0.0 } else { difference / (expected.abs() + typical) };
            if relative.is_nan() { f64::INFINITY } else { relative }
        };
        found.iter().zip(expected).map(of_number).fold(0.0, f64::max)
    };
    found.iter().zip(expected).map(of_tensor).fold(0.0, f64::max)
}

/// The median time of one run; inputs are renewed before each, which is not counted.
fn seconds(case: &Case, ops: &dyn Backend, each: Duration) -> Result<f64> {
    let device = ops.place();
    let (mut spent, mut times) = (Duration::ZERO, Vec::new());
    while spent < each || times.is_empty() {
        let inputs = prepared(case, ops)?;
        device.synchronize()?;
        let began = Instant::now();
        let results = (case.run)(ops, &inputs)?;
        device.synchronize()?;
        let time = began.elapsed();
        drop(results);
        spent += time;
        times.push(time);
    }
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Mixed;

    #[test]
    fn the_twin_is_equal_to_itself() {
        let reports = run(&Portable, &Size::odd(), Duration::ZERO).unwrap();
        assert!(reports.len() > 25);
        for report in reports {
            let measured = report.outcome.as_ref().unwrap();
            assert_eq!(measured.difference, 0.0, "{}", report.op);
            assert!(report.passed() && measured.per_second > 0.0);
        }
    }

    #[test]
    fn activations_in_bf16_stay_near_their_twins() {
        // Even numbers of tokens, where products are not handed to the twin.
        let size = Size { tokens: 38, hidden: 78, inner: 132, rank: 4, ..Size::odd() };
        let mixed = Mixed::default();
        let reports = run(&mixed, &size, Duration::ZERO).unwrap();
        let off = |report: &Report| report.outcome.as_ref().is_ok_and(|m| m.difference > 0.0);
        let failed: Vec<&Report> = reports.iter().filter(|report| !report.passed()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        assert!(reports.iter().filter(|report| off(report)).count() > 10);
    }

    #[test]
    fn what_is_not_a_number_or_not_there_differs_without_bound() {
        let of = |found: &[f64]| difference(&[found.to_vec()], &[vec![1.0, -1.0]]);
        assert_eq!(of(&[1.0, -1.0]), 0.0);
        assert!((of(&[1.0, -1.2]) - 0.1).abs() < 1e-12);
        assert_eq!(of(&[1.0, f64::NAN]), f64::INFINITY);
        assert_eq!(of(&[1.0]), f64::INFINITY);
        assert_eq!(difference(&[vec![0.0]], &[vec![0.0]]), 0.0);
    }
}
