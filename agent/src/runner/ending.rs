//! How a trainer ended, told from what it said and how its process went.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use fleetune_shared::{ByteSize, FailureKind, TrainSummary, TrainerEvent};
use nix::sys::signal::Signal;

use crate::order::STOPPED;

/// What decides how an end is read, gathered while the trainer ran.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    finished: Option<TrainSummary>,
    pub(crate) failed: Option<(FailureKind, String)>,
    /// The most memory it held, where it said so.
    pub(crate) memory_bytes_peak: Option<ByteSize>,
    /// Its last lines, for a crash that left no other word.
    lines: VecDeque<String>,
}

impl LastWords {
    const LINES: usize = 8;

    /// Keeps what ends a run, and gives back every other event.
    pub(crate) fn event(&mut self, event: TrainerEvent) -> Option<TrainerEvent> {
        match event {
            TrainerEvent::Finished { summary } => self.finished = Some(summary),
            TrainerEvent::Peak { memory_bytes } => self.memory_bytes_peak = Some(memory_bytes),
            TrainerEvent::Failed { kind, message } => {
                self.failed.get_or_insert((kind, message));
            }
            other => return Some(other),
        }
        None
    }

    pub(crate) fn line(&mut self, line: &str) {
        if self.lines.len() == Self::LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(400).collect());
    }
}

/// How a trainer ended.
#[derive(Debug, PartialEq)]
pub enum Ending {
    /// The result stands in `out`.
    Finished(Box<TrainSummary>),
    /// It was asked to, and wrote a checkpoint.
    Stopped,
    /// Anything else.
    Failed {
        /// Of what kind.
        kind: FailureKind,
        /// What, where, found, expected, what to do.
        message: String,
    },
}

/// Reads the end of a trainer. `memory_ran_out`: whether the kernel ended some process for lack of memory meanwhile, which
/// is asked only where it matters.
pub(crate) fn classify(
    status: ExitStatus,
    words: LastWords,
    memory_ran_out: impl FnOnce() -> bool,
) -> Ending {
    if let Some(summary) = words.finished {
        return Ending::Finished(Box::new(summary));
    }
    if let Some((kind, message)) = words.failed {
        return Ending::Failed { kind, message };
    }
    if status.code() == Some(i32::from(STOPPED)) {
        return Ending::Stopped;
    }
    let failed = |kind, message: String| {
        let last = Vec::from(words.lines.clone()).join("\n");
        let message =
            if last.is_empty() { message } else { format!("{message}; it said last:\n{last}") };
        Ending::Failed { kind, message }
    };
    let signal = status.signal();
    let name = signal.and_then(|number| Signal::try_from(number).ok());
    let refused = words.lines.iter().any(|line| line.contains("memory allocation of"));
    match name {
        Some(Signal::SIGKILL) if memory_ran_out() => failed(
            FailureKind::OutOfMemory,
            "the machine ran out of memory and its kernel killed the trainer; lower \
             per_device_train_batch_size or max_length, or set gradient_checkpointing: true"
                .into(),
        ),
        Some(Signal::SIGABRT) if refused => failed(
            FailureKind::OutOfMemory,
            "the machine refused the trainer memory; lower per_device_train_batch_size or \
             max_length, or set gradient_checkpointing: true"
                .into(),
        ),
        Some(name) => failed(FailureKind::Machine, format!("the trainer was ended by {name}")),
        None => {
            let how = signal.or_else(|| status.code()).unwrap_or_default();
            failed(
                FailureKind::Machine,
                format!("the trainer ended with status {how} and no result"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn kind(ending: Ending) -> FailureKind {
        match ending {
            Ending::Failed { kind, .. } => kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_word_counts_more_than_a_status() {
        let summary = TrainSummary { steps: 3, ..TrainSummary::default() };
        let words = LastWords { finished: Some(summary.clone()), ..LastWords::default() };
        assert_eq!(
            classify(ExitStatus::from_raw(9), words, || false),
            Ending::Finished(Box::new(summary))
        );
        let failed = Some((FailureKind::Diverged, "step 3: loss is NaN".to_owned()));
        let words = LastWords { failed, ..LastWords::default() };
        assert_eq!(kind(classify(exited(1), words, || false)), FailureKind::Diverged);
    }

    #[test]
    fn a_kill_is_lack_of_memory_only_if_the_kernel_says_so() {
        let killed = ExitStatus::from_raw(9);
        assert_eq!(kind(classify(killed, LastWords::default(), || true)), FailureKind::OutOfMemory);
        assert_eq!(kind(classify(killed, LastWords::default(), || false)), FailureKind::Machine);
        let mut words = LastWords::default();
        words.line("memory allocation of 17179869184 bytes failed");
        assert_eq!(
            kind(classify(ExitStatus::from_raw(6), words, || false)),
            FailureKind::OutOfMemory
        );
        assert_eq!(
            kind(classify(ExitStatus::from_raw(6), LastWords::default(), || false)),
            FailureKind::Machine
        );
    }

    #[test]
    fn an_end_without_a_word_is_a_failure_with_the_last_lines() {
        let mut words = LastWords::default();
        (0..20).for_each(|i| words.line(&format!("line {i}")));
        let Ending::Failed { kind, message } = classify(exited(0), words, || false) else {
            panic!()
        };
        assert_eq!(kind, FailureKind::Machine);
        assert!(message.contains("line 19") && !message.contains("line 11\n"), "{message}");
        assert_eq!(classify(exited(3), LastWords::default(), || false), Ending::Stopped);
    }
}
