//! The binary under test: `fleetune` itself, built by this package so that its tests find it.
//!
//! One fault can be put into it: a card that has less than it says. `FLEETUNE_TEST_CARD_BYTES` in an agent's environment
//! reaches its trainers, whose orders are then held to that.

use std::process::ExitCode;
use std::{env, fs};

use serde_json::Value;

#[global_allocator]
static METER: fleetune_engine::memory::Meter = fleetune_engine::memory::Meter;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let (Ok(bytes), [_, verb, order]) = (env::var("FLEETUNE_TEST_CARD_BYTES"), &args[..])
        && verb == "trainer"
    {
        shrink(order, bytes.parse().expect("a number of bytes"));
    }
    fleetune::run()
}

/// Has the trainer's allocations refused beyond so many bytes, whatever it was promised.
fn shrink(order: &str, bytes: u64) {
    let text = fs::read(order).expect("the order");
    let mut value: Value = serde_json::from_slice(&text).expect("JSON");
    let limit = &mut value["work"]["memory_bytes_limit"];
    *limit = limit.as_u64().map_or(bytes, |limit| limit.min(bytes)).into();
    fs::write(order, value.to_string()).expect("the order is written");
}
