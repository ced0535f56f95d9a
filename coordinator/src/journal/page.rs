//! One job's two files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fleetune_shared::StepMetrics;
use serde::Serialize;
use tokio::sync::watch;

use super::{Limits, LogLine, Tail};

#[derive(Debug)]
pub(super) struct Page {
    limits: Limits,
    log: Lines,
    metrics: Lines,
    /// Known once a step came or the file was read.
    latest: Option<Option<StepMetrics>>,
    changes: watch::Sender<u64>,
}

/// A file that only grows.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl Page {
    pub(super) fn new(log: PathBuf, metrics: PathBuf, limits: Limits) -> Self {
        let (changes, _) = watch::channel(0);
        let [log, metrics] = [log, metrics].map(|path| Lines { path, open: None });
        Self { limits, log, metrics, latest: None, changes }
    }

    pub(super) fn log(&mut self, line: &LogLine) -> io::Result<()> {
        let limits = self.limits;
        let lines = self.log.open()?;
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
        let lines = self.metrics.open()?;
        if lines.bytes < limit {
            lines.push(metrics)?;
        }
        self.changed();
        Ok(())
    }

    pub(super) fn latest(&mut self) -> Option<&StepMetrics> {
        let Self { latest, metrics, .. } = self;
        latest
            .get_or_insert_with(|| {
                let mut tail = Tail::new(metrics.path.clone());
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
        self.log.open.is_some() || self.metrics.open.is_some()
    }

    /// Its files are opened again when something is written.
    pub(super) fn close(&mut self) {
        self.log.open = None;
        self.metrics.open = None;
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Lines {
    fn open(&mut self) -> io::Result<&mut Open> {
        match &mut self.open {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(Open::at(&self.path)?)),
        }
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = match (options.open(path), path.parent()) {
            (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                options.open(path)?
            }
            (opened, _) => opened?,
        };
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
        Ok(Self { file, bytes })
    }

    fn push(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}
