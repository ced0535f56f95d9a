//! Checkpoint folders: written whole or not at all, found newest first, dropped oldest first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::manifest::{seal, verify};
use super::state::State;
use crate::{EngineError, Result};

const PREFIX: &str = "checkpoint-";

/// The folder's name for `step`.
#[must_use]
pub fn name_of(step: u64) -> String {
    format!("{PREFIX}{step}")
}

/// Writes a checkpoint into `out`: `fill` puts weights and optimizer into a folder it is given, the rest is done
/// here. Returns the folder's name, which exists only once everything in it is on disk.
///
/// # Errors
/// [`EngineError::Io`], or what `fill` returns; older checkpoints are untouched then.
pub fn write(out: &Path, state: &State, fill: impl FnOnce(&Path) -> Result<()>) -> Result<String> {
    let name = name_of(state.step);
    let (unfinished, old) = (out.join(format!(".{name}.tmp")), out.join(format!(".{name}.old")));
    for left_over in [&unfinished, &old] {
        if left_over.exists() {
            fs::remove_dir_all(left_over).map_err(|e| EngineError::io(left_over, e))?;
        }
    }
    fs::create_dir_all(&unfinished).map_err(|e| EngineError::io(&unfinished, e))?;
    fill(&unfinished)?;
    state.write(&unfinished)?;
    seal(&unfinished, state.step)?;
    let folder = out.join(&name);
    let publish = || {
        // A run resumed from before this step writes the same step again.
        if folder.exists() {
            fs::rename(&folder, &old)?;
        }
        fs::rename(&unfinished, &folder)?;
        File::open(out)?.sync_all()?;
        if old.exists() { fs::remove_dir_all(&old) } else { Ok(()) }
    };
    publish().map_err(|e| EngineError::io(&folder, e))?;
    Ok(name)
}

/// All checkpoints in `out`, newest first, whole or not.
fn list(out: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(|e| EngineError::io(out, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| EngineError::io(out, e))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The newest whole checkpoint in `out`; torn ones are passed over, and `torn` is told why.
///
/// # Errors
/// [`EngineError::Io`] when `out` cannot be read.
pub fn latest(out: &Path, torn: &mut dyn FnMut(&EngineError)) -> Result<Option<PathBuf>> {
    for (_, folder) in list(out)? {
        match verify(&folder) {
            Ok(_) => return Ok(Some(folder)),
            Err(error) => torn(&error),
        }
    }
    Ok(None)
}

/// Deletes checkpoints of steps after `step`, torn or overtaken: a run that goes on from `step` makes its own.
pub(crate) fn forget_after(out: &Path, step: u64) -> Result<()> {
    for (_, folder) in list(out)?.into_iter().take_while(|(later, _)| *later > step) {
        fs::remove_dir_all(&folder).map_err(|e| EngineError::io(&folder, e))?;
    }
    Ok(())
}

/// Deletes all but `keep` checkpoints in `out`: that of step `best`, if there is one, and the newest, of which one
/// always stays.
///
/// # Errors
/// [`EngineError::Io`].
pub fn prune(out: &Path, keep: usize, best: Option<u64>) -> Result<()> {
    let (kept, others): (Vec<_>, Vec<_>) =
        list(out)?.into_iter().partition(|(step, _)| Some(*step) == best);
    for (_, folder) in others.into_iter().skip(keep.saturating_sub(kept.len()).max(1)) {
        fs::remove_dir_all(&folder).map_err(|e| EngineError::io(&folder, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::state::test_state;
    use super::*;

    fn newest(out: &Path) -> Result<Option<PathBuf>> {
        latest(out, &mut |_| ())
    }

    fn write_step(out: &Path, step: u64) -> PathBuf {
        let name = write(out, &test_state(step), |folder| {
            fs::write(folder.join("weights"), vec![step as u8; 1000]).unwrap();
            Ok(())
        });
        out.join(name.unwrap())
    }

    #[test]
    fn the_newest_whole_checkpoint_is_found() {
        let out = tempfile::tempdir().unwrap();
        assert_eq!(newest(out.path()).unwrap(), None);
        assert_eq!(newest(&out.path().join("nothing")).unwrap(), None);
        let nine = write_step(out.path(), 9);
        let ten = write_step(out.path(), 10);
        assert_eq!(newest(out.path()).unwrap(), Some(ten.clone()));

        let weights = ten.join("weights");
        let cut = fs::OpenOptions::new().write(true).open(&weights).unwrap();
        cut.set_len(999).unwrap();
        let refused = verify(&ten).unwrap_err().to_string();
        assert!(refused.contains("weights has 999 bytes, expected 1000"), "{refused}");
        assert_eq!(newest(out.path()).unwrap(), Some(nine.clone()));

        let mut bytes = fs::read(nine.join("weights")).unwrap();
        bytes[500] ^= 1;
        fs::write(nine.join("weights"), bytes).unwrap();
        assert!(verify(&nine).unwrap_err().to_string().contains("weights does not match its hash"));
        fs::remove_file(nine.join("state.json")).unwrap();
        assert_eq!(newest(out.path()).unwrap(), None);
    }

    #[test]
    fn a_checkpoint_that_failed_leaves_the_old_ones() {
        let out = tempfile::tempdir().unwrap();
        let one = write_step(out.path(), 1);
        let failed =
            write(out.path(), &test_state(2), |_| Err(EngineError::input("the disk is full")));
        assert!(failed.is_err());
        assert_eq!(newest(out.path()).unwrap(), Some(one));
        write_step(out.path(), 2);
        let again = write_step(out.path(), 2);
        assert_eq!(newest(out.path()).unwrap(), Some(again));
    }

    #[test]
    fn only_the_newest_are_kept() {
        let out = tempfile::tempdir().unwrap();
        for step in [8, 9, 10, 11] {
            write_step(out.path(), step);
        }
        let left =
            || list(out.path()).unwrap().into_iter().map(|(step, _)| step).collect::<Vec<_>>();
        prune(out.path(), 3, Some(8)).unwrap();
        assert_eq!(left(), [11, 10, 8], "the best one is one of three");
        prune(out.path(), 1, Some(8)).unwrap();
        assert_eq!(left(), [11, 8], "the newest always stays");
        prune(out.path(), 1, None).unwrap();
        assert_eq!(left(), [11]);
    }
}
