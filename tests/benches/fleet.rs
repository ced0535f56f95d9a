//! A fleet of processes under many short jobs: `just bench-fleet`.
//!
//! ```text
//! cargo bench --workspace --bench fleet -- [--agents 200] [--jobs 10000] [--submitters 32] [--sweep 50] [--idle 20]
//!                                          [--agents-in DIR] [--json]
//! ```
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::process::ExitCode;
use std::time::Duration;

use fleetune_tests::rate::{Setup, measure};

#[tokio::main]
async fn main() -> ExitCode {
    let (setup, json) = match read() {
        Ok(read) => read,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let rate = measure(&setup).await;
    if json {
        println!("{:#}", rate.json());
    } else {
        println!("{rate}");
    }
    ExitCode::SUCCESS
}

fn read() -> Result<(Setup, bool), String> {
    let mut setup = Setup {
        program: env!("CARGO_BIN_EXE_fleetune-under-test").into(),
        trainer: env!("CARGO_BIN_EXE_stub-trainer").into(),
        agents: 200,
        jobs: 10_000,
        submitters: 32,
        sweep: 50,
        agents_in: None,
        idle: Duration::from_secs(20),
    };
    let mut json = false;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--agents-in" {
            setup.agents_in = args.next().map(Into::into);
            continue;
        }
        let mut number = || {
            let found = args.next().ok_or_else(|| format!("{flag} lacks its number"))?;
            let number = found.parse::<usize>().ok().filter(|number| *number > 0);
            number.ok_or_else(|| format!("{flag}: expected a number above 0, found `{found}`"))
        };
        match flag.as_str() {
            "--agents" => setup.agents = number()?,
            "--jobs" => setup.jobs = number()?,
            "--submitters" => setup.submitters = number()?,
            "--sweep" => setup.sweep = number()?,
            "--idle" => setup.idle = Duration::from_secs(number()? as u64),
            "--json" => json = true,
            // What cargo says to every bench.
            "--bench" => {}
            _ => return Err(format!("unknown `{flag}`; see the top of tests/benches/fleet.rs")),
        }
    }
    Ok((setup, json))
}
