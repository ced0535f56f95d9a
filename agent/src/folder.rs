//! The agent's folder: who owns it, and what a former life left in it.
//!
//! ```text
//!   agent.lock          held while an agent runs
//!   agent.key           proves that a name is taken up again by its owner
//!   blobs/              inputs, by hash (`crate::cache`)
//!   attempts/7-2/       one attempt (`crate::runner::Workspace`)
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};
use uuid::Uuid;

use crate::AgentError;
use crate::attempt::AttemptId;
use crate::runner::Workspace;

/// An agent's folder, held by this process alone.
#[derive(Debug)]
pub(crate) struct DataFolder {
    root: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder if need be and takes its lock.
    pub(crate) fn open(root: &Path) -> Result<Self, AgentError> {
        for folder in ["", "blobs", "attempts"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(AgentError::io(&folder))?;
        }
        // A trainer runs in another folder, so its paths must be absolute.
        let root = root.canonicalize().map_err(AgentError::io(root))?;
        let path = root.join("agent.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(AgentError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(AgentError::Locked(root)),
            Err(TryLockError::Error(error)) => Err(AgentError::io(&path)(error)),
        }
    }

    /// The agent's key, made at its first start.
    pub(crate) fn key(&self) -> Result<String, AgentError> {
        let path = self.root.join("agent.key");
        match fs::read_to_string(&path) {
            Ok(key) if !key.trim().is_empty() => return Ok(key.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(AgentError::io(&path)(error)),
        }
        let key = Uuid::new_v4().to_string();
        let new = self.root.join("agent.key.new");
        let write = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(key.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(AgentError::io(&path))?;
        Ok(key)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn workspace(&self, id: AttemptId) -> Workspace {
        Workspace::at(self.attempts().join(id.to_string()))
    }

    fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }

    /// Ends what trainers a former life left, removes their folders, and returns the attempts whose results still
    /// wait to be delivered.
    pub(crate) fn sweep(&self) -> Result<Vec<AttemptId>, AgentError> {
        let attempts = self.attempts();
        let mut waiting = Vec::new();
        for entry in fs::read_dir(&attempts).map_err(AgentError::io(&attempts))? {
            let path = entry.map_err(AgentError::io(&attempts))?.path();
            let workspace = Workspace::at(path.clone());
            workspace.end_leftover_trainer();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.parse::<AttemptId>() {
                Ok(id) if workspace.read_result().is_some() => {
                    info!("attempt {id}: its result waits to be delivered");
                    waiting.push(id);
                }
                _ => {
                    info!("{name}: removed, its trainer ended with the agent");
                    if let Err(error) = fs::remove_dir_all(&path) {
                        warn!("{}: {error}", path.display());
                    }
                }
            }
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_has_one_agent_and_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataFolder::open(folder.path()).unwrap();
        let error = DataFolder::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("another agent runs on this folder"), "{error}");
        let key = first.key().unwrap();
        assert_eq!(key.len(), 36);
        let mode = fs::metadata(folder.path().join("agent.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        assert_eq!(DataFolder::open(folder.path()).unwrap().key().unwrap(), key);
    }

    #[test]
    fn only_results_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        for name in ["7-1", "8-2", "junk", "../x", "7-01"] {
            fs::create_dir_all(data.attempts().join(name)).unwrap();
        }
        let id = AttemptId::of_wire(8, 2);
        let result = crate::runner::WorkResult {
            kind: fleetune_shared::ArtifactKind::Adapter,
            summary: fleetune_shared::TrainSummary::default(),
        };
        data.workspace(id).write_result(&result).unwrap();
        assert_eq!(data.sweep().unwrap(), [id]);
        let left: Vec<_> = fs::read_dir(data.attempts()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
    }
}
