//! The run: rows in, steps, checkpoints, a result out.

mod observer;

pub use observer::Observer;
