//! A stand-in for NVIDIA's libraries: the C interfaces that candle, cudarc and the engine call for a card, on a CPU.
//!
//! ```text
//!   engine ── cudarc ──┬── libcuda     device, streams, transfers ── memory
//!      │               │               modules ──┬── kernels: ours, compiled by a C++ compiler
//!      └──── candle ───┤                         └── candle: its own, written anew
//!                      ├── libcublas   blas ── gemm
//!                      └── libnvrtc, libcurand, libcudart: nvrtc, rand, runtime
//! ```
//!
//! The card's memory is the host's, and a call has done its work when it returns. What a card would leave to chance is
//! told here: numbers nobody wrote are NaN, and a copy beyond an allocation is an error. `scripts/test-cuda` makes one
//! shared object of it, under all the names a program asks for.

mod absent;
mod blas;
mod candle;
mod device;
mod gemm;
mod kernels;
mod memory;
mod modules;
mod nvrtc;
mod rand;
mod runtime;
mod status;
mod streams;
mod transfers;
