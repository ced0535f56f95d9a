//! Optimizers, schedules, clipping.
