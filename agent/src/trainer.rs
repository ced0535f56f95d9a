//! The trainer's side of a child process: an order in, JSON lines out, `stop` on stdin.
//!
//! Runs in a process of its own, so that whatever happens to it (out of memory, a crash in a driver) happens to one
//! attempt only; the kernel ends it with its agent. The agent's side is `crate::runner`.

use std::io::{self, BufRead, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use fleetune_engine::train::{Observer, train};
use fleetune_engine::{EngineError, memory, merge, threads};
use fleetune_shared::{FailureKind, TrainSummary, TrainerEvent};

use crate::bounds::{bound, end_with};
use crate::order::{Order, OrderedWork, STOP, STOPPED};

/// Carries out the order in `order_file`: what `fleetune trainer ORDER` does.
#[must_use]
pub fn run_child(order_file: &Path) -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    let mut voice = Voice { stop: Arc::clone(&stop), ended: false };
    let order = match read(order_file) {
        Ok(order) => order,
        Err(message) => return voice.fail(FailureKind::Machine, message),
    };
    if let Err(message) = end_with(order.agent_pid) {
        return voice.fail(FailureKind::Machine, message);
    }
    if let Err(message) = bound(order.memory_bytes_limit) {
        return voice.fail(FailureKind::Machine, message);
    }
    // Where memory runs out, the kernel should pick the trainer and not its agent.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    thread::spawn(move || listen(&stop));
    threads::lead();
    // The hook's words go to stderr and so into the job's log.
    match panic::catch_unwind(AssertUnwindSafe(|| carry_out(&order, &mut voice))) {
        Ok(Ok(summary)) => voice.finish(summary),
        Ok(Err(EngineError::Stopped { .. })) => {
            voice.tell_peak();
            ExitCode::from(STOPPED)
        }
        Ok(Err(error)) => {
            voice.tell_peak();
            voice.fail(error.kind(), error.to_string())
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no words");
            voice.fail(FailureKind::Machine, format!("a defect in the trainer: {text}"))
        }
    }
}

fn read(order_file: &Path) -> Result<Order, String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", order_file.display());
    let text = fs::read_to_string(order_file).map_err(|error| at(&error))?;
    serde_json::from_str(&text).map_err(|error| at(&error))
}

/// Waits for the word to stop, or for the agent to go.
fn listen(stop: &AtomicBool) {
    let asked = io::stdin().lock().lines().map_while(Result::ok).any(|line| line.trim() == STOP);
    if !asked {
        tracing::warn!("the agent is gone, stopping");
    }
    stop.store(true, Ordering::Relaxed);
}

fn carry_out(order: &Order, voice: &mut Voice) -> fleetune_engine::Result<TrainSummary> {
    match &order.work {
        OrderedWork::Train(order) => train(order, voice),
        OrderedWork::Merge(merge_order) => {
            memory::limit(Some(order.memory_bytes_limit));
            // Its one step is the whole of it.
            voice.event(TrainerEvent::Started { step: 0, steps_total: 1 });
            merge::merge(merge_order, voice)
        }
    }
}

/// Says what happens, one JSON line each.
struct Voice {
    stop: Arc<AtomicBool>,
    /// The last word was said.
    ended: bool,
}

impl Voice {
    fn finish(&mut self, summary: TrainSummary) -> ExitCode {
        if !self.ended {
            self.event(TrainerEvent::Finished { summary });
        }
        ExitCode::SUCCESS
    }

    /// What memory it took, for an end that has no summary to say so.
    fn tell_peak(&mut self) {
        let memory_bytes = memory::peak();
        if memory_bytes.0 > 0 {
            self.event(TrainerEvent::Peak { memory_bytes });
        }
    }

    fn fail(&mut self, kind: FailureKind, message: String) -> ExitCode {
        if !self.ended {
            self.event(TrainerEvent::Failed { kind, message });
        }
        ExitCode::FAILURE
    }
}

impl Observer for Voice {
    fn event(&mut self, event: TrainerEvent) {
        self.ended |= matches!(event, TrainerEvent::Finished { .. } | TrainerEvent::Failed { .. });
        let said = serde_json::to_string(&event).map_err(io::Error::other).and_then(|line| {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{line}")?;
            stdout.flush()
        });
        if said.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
