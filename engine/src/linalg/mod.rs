//! Factorisations of matrices, in f64: what PiSSA, OLoRA and LoftQ begin from and what combined adapters are cut by.
//!
//! ```text
//!   svd ──▶ the smaller Gram matrix ──▶ eigen (tridiagonal, implicit QL) ──▶ the first `rank` triples
//!   svd_of_product ──▶ qr of both factors ──▶ svd of the small core
//! ```
//!
//! Inputs and results are f32 tensors; every number between them is f64, so that squaring a condition number costs
//! nothing an f32 could show. The same input gives the same bits on every machine with the same number of threads or
//! another. Neighbours: `adapter` (initialisation), `merge` (combining).

mod eigen;
mod qr;
mod svd;

pub use qr::{Qr, qr};
pub use svd::{Svd, svd, svd_of_product};
