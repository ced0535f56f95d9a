//! The `fleetune` binary. Everything is in the library, so that tests can be the same program.

use std::process::ExitCode;

/// Counts the heap: on the CPU it stands for a card's memory.
#[global_allocator]
static METER: fleetune_engine::memory::Meter = fleetune_engine::memory::Meter;

fn main() -> ExitCode {
    fleetune::run()
}
