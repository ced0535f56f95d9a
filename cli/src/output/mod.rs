//! The only place that prints: data to stdout as a table, JSON or bare ids; the rest to stderr.

mod adapter;
mod agents;
mod answers;
mod bar;
mod bench;
mod estimate;
mod explanation;
mod history;
mod job;
mod jobs;
mod rung;
mod selftest;
mod sparkline;
mod style;
mod sweep;
mod table;
mod text;
mod time;

#[cfg(test)]
pub(crate) mod tests;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::Value;

use crate::failure::Failure;

pub(crate) use adapter::AdapterCard;
pub(crate) use adapter::AdapterList;
pub(crate) use agents::{AgentList, closed, state, used};
pub(crate) use answers::{Answer, Answers};
pub(crate) use bar::{Bars, Progress, bar};
pub(crate) use bench::Benched;
pub(crate) use estimate::Sizing;
pub(crate) use explanation::{Explained, Refusals};
pub(crate) use history::Learned;
pub(crate) use job::JobCard;
pub(crate) use jobs::{JobList, loss, steps};
pub(crate) use selftest::Tested;
pub(crate) use sparkline::sparkline;
pub(crate) use style::{Colour, Style};
pub(crate) use sweep::SweepTable;
pub(crate) use table::{Field, Table};
pub(crate) use text::{plain, plain_line, shortened};
pub(crate) use time::{iso, now_ms, seconds, since};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// For people
    Table,
    /// For scripts: one JSON value, or one per line where results keep coming
    Json,
    /// Only ids or paths, one per line
    Quiet,
}

impl Mode {
    /// What was asked for, where the command line itself could not be read.
    pub(crate) fn guess(args: impl Iterator<Item = String>) -> Self {
        let args: Vec<String> = args.collect();
        let flag =
            args.iter().enumerate().find_map(|(i, arg)| match arg.strip_prefix("--output=") {
                Some(mode) => Some(mode.to_owned()),
                None => (arg == "--output").then(|| args.get(i + 1).cloned()).flatten(),
            });
        let word = flag.or_else(|| std::env::var("FLEETUNE_OUTPUT").ok()).unwrap_or_default();
        Self::from_str(&word, true).unwrap_or(Self::Table)
    }
}

/// Something that can be shown in every mode.
pub(crate) trait Show {
    /// For people, without a newline at the end.
    fn table(&self, style: Style) -> String;
    /// For scripts.
    fn json(&self) -> Value;
    /// Ids or paths, one per line.
    fn quiet(&self) -> String;
}

/// Stdout, stderr and how they are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) mode: Mode,
    /// Of stdout.
    style: Style,
    /// Of stderr.
    style_notes: Style,
}

impl Output {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            mode,
            style: Style::of(&std::io::stdout()),
            style_notes: Style::of(&std::io::stderr()),
        }
    }

    /// The same, but without a word beside the result.
    pub(crate) fn silent(self) -> Self {
        Self { mode: Mode::Quiet, ..self }
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Of what is written to stderr.
    pub(crate) fn style_notes(&self) -> Style {
        self.style_notes
    }

    /// Whether someone watches the progress of things.
    pub(crate) fn is_watched(&self) -> bool {
        self.mode != Mode::Quiet && std::io::stderr().is_terminal()
    }

    /// Prints a result.
    pub(crate) fn show(&self, what: &impl Show) -> Result<(), Failure> {
        match self.mode {
            Mode::Table => self.line(&what.table(self.style)),
            Mode::Json => {
                let text = serde_json::to_string_pretty(&what.json()).unwrap_or_default();
                self.line(&text)
            }
            Mode::Quiet => match what.quiet() {
                text if text.is_empty() => Ok(()),
                text => self.line(&text),
            },
        }
    }

    /// Prints one of many results that keep coming; JSON takes one line each, quiet takes none.
    pub(crate) fn event(&self, table: &str, json: &Value) -> Result<(), Failure> {
        match self.mode {
            Mode::Table => self.line(table),
            Mode::Json => self.line(&json.to_string()),
            Mode::Quiet => Ok(()),
        }
    }

    /// Prints data as it is, with a newline.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.raw(text)?;
        self.raw("\n")
    }

    /// Prints data as it is.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                Failure::PipeClosed
            } else {
                Failure::new("io", format!("stdout: {error}"))
            }
        })
    }

    /// Says something beside the result, on stderr.
    pub(crate) fn note(&self, text: &str) {
        if self.mode != Mode::Quiet {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Says why the program failed and makes its exit status.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        match failure {
            Failure::PipeClosed => ExitCode::SUCCESS,
            Failure::Status(status) => *status,
            Failure::Interrupted(what) => {
                if let Some(what) = what {
                    self.note(&plain_line(what));
                }
                ExitCode::from(130)
            }
            Failure::Error(report) => {
                if self.mode == Mode::Json {
                    let _ = self
                        .line(&serde_json::to_string_pretty(&report.json()).unwrap_or_default());
                } else {
                    let _ =
                        writeln!(std::io::stderr(), "{}", text::error(report, self.style_notes));
                }
                ExitCode::from(report.status)
            }
        }
    }
}
