//! Plays workloads through the very code that decides in a real fleet, and through two plain schedulers beside it.
//!
//! ```text
//! cargo bench -p fleetune-scheduler --bench simulate                      # all parts, with made-up workloads
//! cargo bench -p fleetune-scheduler --bench simulate -- scale             # how long a plan takes
//! cargo bench -p fleetune-scheduler --bench simulate -- policies [TRACE]  # who waits how long
//! cargo bench -p fleetune-scheduler --bench simulate -- draw FOLDER       # the same as charts
//! cargo bench -p fleetune-scheduler --bench simulate -- forecast          # how well starts are foreseen
//! ```
//!
//! `TRACE` is a CSV file with a header and the columns `timestamp,duration,num_gpus,gpu_time,cluster`, such as the
//! Philly trace as published with the SC'21 Helios paper.
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod forecast;
mod plain;
mod plot;
mod policies;
mod real;
mod replay;
mod scale;
mod workload;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            policies::run(None);
            scale::run();
            forecast::run();
        }
        ["forecast"] => forecast::run(),
        ["scale"] => scale::run(),
        ["policies"] => policies::run(None),
        ["policies", trace] => policies::run(Some(trace)),
        ["draw", folder] => {
            if let Err(error) = policies::draw(folder) {
                println!("{folder}: {error}");
            }
        }
        _ => println!(
            "expected nothing, `scale`, `forecast`, `policies [TRACE]` or `draw FOLDER`, found {words:?}"
        ),
    }
}
