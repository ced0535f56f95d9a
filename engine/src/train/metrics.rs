//! `metrics.jsonl`: one line for each optimizer step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fleetune_shared::StepMetrics;

use crate::{EngineError, Result};

const NAME: &str = "metrics.jsonl";

/// The file, open at its end.
pub(super) struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the file in `out` and keeps the lines of the first `steps` steps: what an interrupted run did beyond its
    /// last checkpoint is done again.
    pub(super) fn open(out: &Path, steps: u64) -> Result<Self> {
        let path = out.join(NAME);
        let io = |e| EngineError::io(&path, e);
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(io)?;
        let mut end = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(io)?;
            let kept = line.ends_with(b"\n")
                && serde_json::from_slice::<StepMetrics>(&line).is_ok_and(|m| m.step <= steps);
            if !kept {
                break;
            }
            end += bytes as u64;
        }
        file.set_len(end).and_then(|()| file.seek(SeekFrom::End(0))).map_err(io)?;
        Ok(Self { path, file })
    }

    /// Adds a line.
    pub(super) fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        let line = serde_json::to_vec(metrics).map_err(std::io::Error::other);
        line.and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)
        })
        .map_err(|e| EngineError::io(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_keeps_the_lines_before_its_checkpoint() {
        let out = tempfile::tempdir().unwrap();
        let metrics = |step| StepMetrics {
            step,
            loss: 1.5,
            grad_norm: 1.0,
            learning_rate: 1e-3,
            supervised_tokens: 4,
            tokens_per_second: 1e3,
            epoch: 0.5,
            more: Default::default(),
        };
        let mut log = MetricsLog::open(out.path(), 0).unwrap();
        for step in 1..=5 {
            log.append(&metrics(step)).unwrap();
        }
        // A crash in the middle of a line.
        log.file.write_all(b"{\"step\":6,\"lo").unwrap();
        let mut log = MetricsLog::open(out.path(), 3).unwrap();
        log.append(&StepMetrics { loss: 2.0, ..metrics(4) }).unwrap();
        let text = std::fs::read_to_string(out.path().join(NAME)).unwrap();
        let read: Vec<StepMetrics> =
            text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(read.iter().map(|m| m.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(read[3].loss, 2.0);

        drop(MetricsLog::open(out.path(), 0).unwrap());
        assert_eq!(std::fs::read(out.path().join(NAME)).unwrap(), b"");
    }
}
