//! A process of the binary under test that is killed with its handle, its output kept in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running process.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with its output appended to `log`.
    ///
    /// # Panics
    /// If it cannot be started: a test cannot go on without it.
    #[must_use]
    pub fn start(program: &Path, args: &[&str], log: PathBuf) -> Self {
        Self::start_with(program, args, &[], log)
    }

    /// The same with these variables in its environment.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_with(
        program: &Path,
        args: &[&str],
        variables: &[(&str, &str)],
        log: PathBuf,
    ) -> Self {
        let output = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(program)
            .args(args)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("the program starts");
        Self { child, log }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would.
    pub fn kill_9(&mut self) {
        // It may have ended by itself; both are what the caller wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// All it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            eprintln!("── {}\n{}", self.log.display(), self.output());
        }
    }
}
