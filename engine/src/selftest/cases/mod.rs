//! Every operation of a backend.
//!
//! Tolerances: nothing where the same numbers are only moved or multiplied once, a few units in the last place where
//! both round alike but for a library's function, 1e-5 where long sums are taken in another order.

mod attention;
mod elementwise;
mod logits;
mod norm;
mod product;
mod rows;

use super::case::Case;
use super::size::Size;
use crate::Result;

/// The same numbers to the bit.
const EXACT: f64 = 0.0;
/// A function of one number, by another library.
const FUNCTION: f64 = 2e-6;
/// A long sum in another order.
const SUM: f64 = 1e-5;

pub(super) fn all(size: &Size) -> Result<Vec<Case>> {
    let mut cases = product::cases(size)?;
    cases.extend(rows::cases(size)?);
    cases.extend(norm::cases(size)?);
    cases.extend(elementwise::cases(size)?);
    cases.extend(attention::cases(size)?);
    cases.extend(logits::cases(size)?);
    Ok(cases)
}
