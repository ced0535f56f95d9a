//! A stand-in for `libnvidia-ml.so`: the C interface that `nvml-wrapper` calls, answered from a JSON file.
//!
//! The file is read at every call, so that a test moves a stranger onto the card, or lets the card fall off the bus,
//! by writing the file anew, or by writing scenes that follow each other by themselves. [`Stub`] is the test's side; [`interface`] is the library's.

mod answers;
pub mod events;
pub mod interface;

pub use answers::{Answers, CardAnswer, ProcessAnswer, Scene, Script};

use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

/// Names the file with the answers.
pub const ANSWERS: &str = "FLEETUNE_STUB_NVML";

/// A stub and the file it reads.
#[derive(Debug)]
pub struct Stub {
    answers: PathBuf,
}

impl Stub {
    /// Answers in `folder`, for a process that is told of them by [`ANSWERS`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(folder: &Path, answers: &Answers) -> io::Result<Self> {
        let stub = Self { answers: folder.join("nvml.json") };
        stub.answer(answers)?;
        Ok(stub)
    }

    /// Points this process, and the processes it starts, at answers in `folder`. One per process: the variable is
    /// the process's.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn install(folder: &Path, answers: &Answers) -> io::Result<Self> {
        let stub = Self::write(folder, answers)?;
        // SAFETY: only Rust code reads the environment here, and std serialises that.
        unsafe { env::set_var(ANSWERS, &stub.answers) };
        Ok(stub)
    }

    /// What the library says from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn answer(&self, answers: &Answers) -> io::Result<()> {
        self.play(&Script::Always(answers.clone()))
    }

    /// What the library says from now on, scene by scene.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn play(&self, script: &Script) -> io::Result<()> {
        let new = self.answers.with_extension(process::id().to_string());
        fs::write(&new, serde_json::to_vec_pretty(script)?)?;
        fs::rename(new, &self.answers)
    }

    /// The file it reads.
    pub fn answers(&self) -> &Path {
        &self.answers
    }
}

/// The library, which cargo puts beside (or one folder above) the test that depends on this package.
///
/// # Errors
/// It was not built.
pub fn library() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let name = format!("{}fleetune_stub_nvml{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    program
        .ancestors()
        .skip(1)
        .take(2)
        .flat_map(|folder| [folder.join(&name), folder.join("deps").join(&name)])
        .find(|path| path.is_file())
        .ok_or_else(|| io::Error::other(format!("{name} is not beside {}", program.display())))
}
