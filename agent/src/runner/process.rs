//! A trainer's process: started, heard, asked to stop, ended. The other side is `crate::trainer`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, mpsc as std_mpsc};
use std::{io, thread};

use fleetune_shared::{ByteSize, TrainerEvent};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, gettid};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::lines::Lines;
use crate::oom_kills::OomKills;
use crate::order::STOP;

/// How many threads a trainer computes with.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Numbers of the trainers that run now, for the probe to tell ours from strangers, and the most that each was seen to
/// hold on the card.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrainerPids(Arc<Mutex<BTreeMap<u32, Option<ByteSize>>>>);

impl TrainerPids {
    pub(crate) fn now(&self) -> BTreeSet<u32> {
        self.all().keys().copied().collect()
    }

    /// A trainer holds so much on the card.
    pub(crate) fn saw(&self, pid: u32, bytes: ByteSize) {
        if let Some(peak) = self.all().get_mut(&pid) {
            *peak = (*peak).max(Some(bytes));
        }
    }

    fn peak(&self, pid: u32) -> Option<ByteSize> {
        self.all().get(&pid).copied().flatten()
    }

    fn insert(&self, pid: u32) {
        self.all().insert(pid, None);
    }

    fn remove(&self, pid: u32) {
        self.all().remove(&pid);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u32, Option<ByteSize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a trainer says.
#[derive(Debug)]
pub(crate) enum News {
    /// On stdout, in our words.
    Event(Box<TrainerEvent>),
    /// Anything else on stdout or stderr.
    Line(String),
}

/// How to start a trainer.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) order: &'a Path,
    pub(crate) folder: &'a Path,
    /// The GPU it may see.
    pub(crate) gpu_uuid: Option<&'a str>,
}

/// A running trainer. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: u32,
    stdin: Option<ChildStdin>,
    news: mpsc::Receiver<News>,
    pids: TrainerPids,
    /// The kernel's count of processes ended for lack of memory, when this one began.
    oom_kills_before: OomKills,
}

impl Process {
    pub(crate) async fn start(launch: &Launch<'_>, pids: &TrainerPids) -> io::Result<Self> {
        let mut command = Command::new(launch.program);
        command
            .arg("trainer")
            .arg(launch.order)
            .current_dir(launch.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is the agent's to answer.
            .process_group(0)
            .kill_on_drop(true);
        // Told nothing, the trainer's matrix products ask the kernel for the number of cores each time anew.
        static CORES: LazyLock<usize> =
            LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
        if std::env::var_os(THREADS).is_none() {
            command.env(THREADS, CORES.to_string());
        }
        if let Some(uuid) = launch.gpu_uuid {
            command.env("CUDA_VISIBLE_DEVICES", uuid);
        }
        let oom_kills_before = OomKills::lately();
        let mut child = spawn(command).await?;
        let pid = child.id().ok_or_else(|| io::Error::other("ended before it began"))?;
        pids.insert(pid);
        let (sender, news) = mpsc::channel(256);
        if let Some(stdout) = child.stdout.take() {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut lines = Lines::new(stdout);
                while let Some(line) = lines.next().await {
                    let event =
                        serde_json::from_str(&line).map(|event| News::Event(Box::new(event)));
                    if sender.send(event.unwrap_or(News::Line(line))).await.is_err() {
                        break;
                    }
                }
            });
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(async move {
                let mut lines = Lines::new(stderr);
                while let Some(line) = lines.next().await {
                    if sender.send(News::Line(line)).await.is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Self { child, pid, stdin, news, pids: pids.clone(), oom_kills_before })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The most that the card's driver said it held there, where it said anything.
    pub(crate) fn vram_bytes_peak(&self) -> Option<ByteSize> {
        self.pids.peak(self.pid)
    }

    /// What it says next; `None` once both its pipes are closed.
    pub(crate) async fn news(&mut self) -> Option<News> {
        self.news.recv().await
    }

    /// What it says next, or how it ended: whichever comes first.
    pub(crate) async fn next(&mut self) -> Result<News, io::Result<ExitStatus>> {
        tokio::select! {
            biased;
            Some(news) = self.news.recv() => Ok(news),
            status = self.child.wait() => Err(status),
        }
    }

    /// Asks it to write a checkpoint and end.
    pub(crate) async fn ask_to_stop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            // It may have ended by itself a moment ago.
            let _ = stdin.write_all(format!("{STOP}\n").as_bytes()).await;
            self.stdin = Some(stdin);
        }
    }

    /// Ends it and whatever it started at once, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.kill_group();
        let _ = self.child.kill().await;
    }

    /// As long as nobody has waited for its end, its number is its own.
    fn kill_group(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Whether the kernel has ended processes for lack of memory since this one began.
    pub(crate) fn memory_ran_out(&self) -> bool {
        self.oom_kills_before.more_by_now()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
        self.pids.remove(self.pid);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Spawns from a thread that lives as long as this process: a trainer asks the kernel to end it with its parent, and
/// to the kernel the parent is the *thread* that spawned it. A runtime's threads may come and go; the first one does not.
async fn spawn(mut command: Command) -> io::Result<Child> {
    if gettid() == Pid::this() {
        return command.spawn();
    }
    static SPAWNER: OnceLock<Option<std_mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = std_mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("spawner".into());
        thread.spawn(move || inbox.iter().for_each(|job| job())).ok()?;
        Some(jobs)
    });
    let runtime = Handle::current();
    let (answer, spawned) = oneshot::channel();
    let job = Box::new(move || {
        let _within = runtime.enter();
        let _ = answer.send(command.spawn());
    });
    let handed_over = spawner.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
    if !handed_over {
        return Err(io::Error::other("no thread to start trainers from"));
    }
    spawned.await.map_err(io::Error::other)?
}
