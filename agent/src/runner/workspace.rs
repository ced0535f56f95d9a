//! One attempt's folder.
//!
//! ```text
//!   order.json              for the trainer
//!   trainer.pid             who it is, until it has ended
//!   model/ data/ adapter/   inputs, links into the cache
//!   checkpoint/             what to continue from
//!   out/                    the trainer's: checkpoints, metrics, result
//!   outgoing/               checkpoints on their way to the coordinator, links into out/
//!   result.json             the trainer is done and `out` holds a result
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fleetune_shared::{ArtifactKind, FileName, TrainSummary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::cache;

/// What a finished trainer left: with the files in `out`, everything needed to deliver it, even after a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkResult {
    pub(crate) kind: ArtifactKind,
    pub(crate) summary: TrainSummary,
}

/// One attempt's folder.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// An empty folder with an empty `out`.
    pub(crate) fn create(&self) -> io::Result<()> {
        self.remove()?;
        fs::create_dir_all(self.out())
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match fs::remove_dir_all(&self.root) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // A process that was killed a moment ago may have made one more file.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < 5 => {
                    tries += 1;
                    thread::sleep(Duration::from_millis(5));
                }
                removed => return removed,
            }
        }
    }

    /// Sets a checkpoint in `out` aside, so that the trainer may rotate its own.
    pub(crate) fn set_aside(&self, checkpoint: &str) -> io::Result<PathBuf> {
        if checkpoint.contains('/') || FileName::try_from(checkpoint.to_owned()).is_err() {
            let name = checkpoint.escape_default();
            return Err(io::Error::other(format!("checkpoint `{name}`: not a folder's name")));
        }
        let from = self.out().join(checkpoint);
        let to = self.path("outgoing").join(checkpoint);
        let _ = fs::remove_dir_all(&to);
        for name in files_of(&from, Depth::All)? {
            cache::link(&from.join(name.as_str()), &to.join(name.as_str()))?;
        }
        Ok(to)
    }

    /// The files of the result, names relative to `out`.
    pub(crate) fn result_files(&self) -> io::Result<Vec<FileName>> {
        let mut files = files_of(&self.out(), Depth::One)?;
        // Their content travels as metrics and summary.
        files.retain(|name| !["metrics.jsonl", "report.json"].contains(&name.as_str()));
        Ok(files)
    }

    pub(crate) fn read_result(&self) -> Option<WorkResult> {
        serde_json::from_slice(&fs::read(self.path("result.json")).ok()?).ok()
    }

    /// Marks `out` as holding a result. A mark that cannot be written costs the result only if the agent restarts
    /// before it is delivered.
    pub(crate) fn write_result(&self, result: &WorkResult) -> io::Result<()> {
        let new = self.path("result.json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(result)?)?;
        file.sync_all()?;
        fs::rename(&new, self.path("result.json"))
    }

    /// Notes who the trainer is. Its start time tells it from a later process with the same number.
    pub(crate) fn note_trainer(&self, pid: u32) -> io::Result<()> {
        let started = start_time(pid).unwrap_or_default();
        fs::write(self.path("trainer.pid"), format!("{pid} {started}"))
    }

    /// Ends a trainer that outlived its agent, should there be one: the kernel ends it with its agent, but a second
    /// trainer is never worth a risk.
    pub(crate) fn end_leftover_trainer(&self) {
        let Ok(note) = fs::read_to_string(self.path("trainer.pid")) else { return };
        let mut words = note.split(' ');
        let pid = words.next().and_then(|word| word.parse::<u32>().ok());
        let started = words.next().and_then(|word| word.parse::<u64>().ok());
        let Some((pid, started)) = pid.zip(started) else { return };
        let lives = || start_time(pid) == Some(started);
        let Ok(number) = i32::try_from(pid) else { return };
        if lives() && number > 1 {
            warn!("trainer {pid} outlived its agent: ended");
            let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
        }
        for _ in 0..50 {
            if !lives() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How deep a folder is read.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Depth {
    /// Its own files.
    One,
    /// Those of its folders too, as deep as a file name goes.
    All,
}

/// The plain files of a folder, sorted. Links, devices and the like are no part of an artifact; neither is what is
/// still being written (`.name`, `name.tmp`).
pub(crate) fn files_of(folder: &Path, depth: Depth) -> io::Result<Vec<FileName>> {
    let mut files = Vec::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        for entry in fs::read_dir(folder.join(&prefix))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || name.ends_with(".tmp") {
                continue;
            }
            let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_file() {
                files.push(FileName::try_from(name).map_err(io::Error::other)?);
            } else if kind.is_dir() && depth == Depth::All {
                open.push(name);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// When a process started, in clock ticks since boot; `None` once it has ended.
fn start_time(pid: u32) -> Option<u64> {
    // One line, read at once: such a file has no length to go by.
    let mut line = [0; 1024];
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line));
    let stat = String::from_utf8_lossy(&line[..read.ok()?]);
    // The second field is the program's name in parentheses, and may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (state != "Z").then_some(started)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_trainer_that_outlived_its_agent_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path().to_owned());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        workspace.note_trainer(child.id()).unwrap();
        workspace.end_leftover_trainer();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn another_process_with_its_number_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path().to_owned());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(workspace.path("trainer.pid"), format!("{} 1", child.id())).unwrap();
        workspace.end_leftover_trainer();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_checkpoint_set_aside_outlives_rotation_and_holds_no_links() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path().join("7-1"));
        workspace.create().unwrap();
        let checkpoint = workspace.out().join("checkpoint-5");
        fs::create_dir_all(checkpoint.join("adapter")).unwrap();
        fs::write(checkpoint.join("state.json"), "5").unwrap();
        fs::write(checkpoint.join("adapter/a.safetensors"), "a").unwrap();
        fs::write(checkpoint.join("half.tmp"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", checkpoint.join("secrets")).unwrap();
        let aside = workspace.set_aside("checkpoint-5").unwrap();
        fs::remove_dir_all(&checkpoint).unwrap();
        let names: Vec<String> =
            files_of(&aside, Depth::All).unwrap().into_iter().map(String::from).collect();
        assert_eq!(names, ["adapter/a.safetensors", "state.json"]);
        assert!(workspace.set_aside("../../x").is_err());
        assert!(workspace.set_aside("..").is_err());
    }
}
