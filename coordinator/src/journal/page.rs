//! One job's two files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fleetune_shared::StepMetrics;
use serde::Serialize;
use tokio::sync::watch;

use super::{Limits, LogLine, Tail};

pub(super) const LOG: &str = "log.jsonl";
pub(super) const METRICS: &str = "metrics.jsonl";

#[derive(Debug)]
pub(super) struct Page {
    folder: PathBuf,
    limits: Limits,
    log: Option<Lines>,
    metrics: Option<Lines>,
    /// Known once a step came or the file was read.
    latest: Option<Option<StepMetrics>>,
    changes: watch::Sender<u64>,
}

/// A file that only grows.
#[derive(Debug)]
struct Lines {
    file: File,
    bytes: u64,
}

impl Page {
    pub(super) fn new(folder: PathBuf, limits: Limits) -> Self {
        let (changes, _) = watch::channel(0);
        Self { folder, limits, log: None, metrics: None, latest: None, changes }
    }

    pub(super) fn log(&mut self, line: &LogLine) -> io::Result<()> {
        let limits = self.limits;
        let lines = open(&mut self.log, &self.folder, LOG)?;
        if lines.bytes >= limits.log_bytes {
            return Ok(());
        }
        let mut line = line.clone();
        if line.text.len() > limits.line_bytes {
            let end = (0..=limits.line_bytes).rev().find(|at| line.text.is_char_boundary(*at));
            line.text.truncate(end.unwrap_or(0));
            line.text.push_str(" … (cut)");
        }
        lines.push(&line)?;
        if lines.bytes >= limits.log_bytes {
            let text = format!("the log is full at {} bytes, later lines are dropped", lines.bytes);
            lines.push(&LogLine { text, ..line })?;
        }
        self.changed();
        Ok(())
    }

    pub(super) fn metrics(&mut self, metrics: &StepMetrics) -> io::Result<()> {
        self.latest = Some(Some(metrics.clone()));
        let limit = self.limits.metrics_bytes;
        let lines = open(&mut self.metrics, &self.folder, METRICS)?;
        if lines.bytes < limit {
            lines.push(metrics)?;
        }
        self.changed();
        Ok(())
    }

    pub(super) fn latest(&mut self) -> Option<&StepMetrics> {
        let Self { latest, folder, .. } = self;
        latest
            .get_or_insert_with(|| {
                let mut tail = Tail::new(folder.join(METRICS));
                let mut latest = None;
                loop {
                    match tail.next().pop() {
                        None => return latest,
                        some => latest = some,
                    }
                }
            })
            .as_ref()
    }

    pub(super) fn is_open(&self) -> bool {
        self.log.is_some() || self.metrics.is_some()
    }

    /// Its files are opened again when something is written.
    pub(super) fn close(&mut self) {
        self.log = None;
        self.metrics = None;
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

fn open<'a>(lines: &'a mut Option<Lines>, folder: &Path, name: &str) -> io::Result<&'a mut Lines> {
    match lines {
        Some(lines) => Ok(lines),
        None => {
            fs::create_dir_all(folder)?;
            let path = folder.join(name);
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
            let mut bytes = file.metadata()?.len();
            // A line torn by a crash must not spoil the next.
            if bytes > 0 {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    file.write_all(b"\n")?;
                    bytes += 1;
                }
            }
            Ok(lines.insert(Lines { file, bytes }))
        }
    }
}

impl Lines {
    fn push(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}
