//! A fleet of processes under many short jobs: `just bench-fleet`.
//!
//! ```text
//! cargo bench --workspace --bench fleet -- [--agents 200] [--jobs 10000] [--submitters 32] [--sweep 50] [--idle 20]
//!                                          [--agents-in DIR] [--json]
//! ```
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
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
        trainer: trainer(),
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

/// The stub that costs least to start, or the usual one where that cannot be built.
fn trainer() -> PathBuf {
    const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/fleet/lean_trainer.rs");
    let usual = PathBuf::from(env!("CARGO_BIN_EXE_stub-trainer"));
    let lean = usual.with_file_name("lean-trainer");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition", "2024", "-C", "opt-level=3", "-C", "panic=abort"]);
    rustc.args(["-C", "relocation-model=static"]);
    rustc.args(["-C", "link-args=-nostartfiles -nodefaultlibs -static"]);
    let fits = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    if fits && rustc.arg(SOURCE).arg("-o").arg(&lean).status().is_ok_and(|ended| ended.success()) {
        return lean;
    }
    eprintln!("the trainers are {}: the lean ones could not be built", usual.display());
    usual
}
