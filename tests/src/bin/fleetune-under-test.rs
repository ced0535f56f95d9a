//! The binary under test: `fleetune` itself, built by this package so that its tests find it.

#[global_allocator]
static METER: fleetune_engine::memory::Meter = fleetune_engine::memory::Meter;

fn main() -> std::process::ExitCode {
    fleetune::run()
}
