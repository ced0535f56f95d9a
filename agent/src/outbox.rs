//! What waits to be sent, and what was sent and waits to be acknowledged.
//!
//! A report stays until it is acknowledged or its attempt is fenced, and is sent again over every new connection,
//! under the same sequence number. Metrics and log lines are not acknowledged; while there is no connection the newest
//! of them are kept, and metrics sent just before it broke are sent again, so that a coordinator's restart leaves no
//! hole in a curve. Steps have numbers, so a step told twice is still one step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use fleetune_proto::v1::{self, agent_message::Message, report::What};
use tokio::sync::oneshot;

use crate::attempt::AttemptId;

/// Metrics and log lines kept while there is no connection.
const CHATTER_MAX: usize = 20_000;

/// A connection that breaks may have swallowed what was sent so long before.
const SWALLOWED_MAX: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Unacknowledged {
    id: AttemptId,
    what: What,
    acked: oneshot::Sender<()>,
}

#[derive(Debug)]
enum Item {
    /// By its sequence number.
    Report(u64),
    Chatter(AttemptId, Box<Message>),
}

/// What waits.
#[derive(Debug)]
pub(crate) struct Outbox {
    reports: BTreeMap<u64, Unacknowledged>,
    queue: VecDeque<Item>,
    chatter: usize,
    /// Metrics sent within [`SWALLOWED_MAX`].
    recent: VecDeque<(Instant, AttemptId, Box<Message>)>,
    sequence: u64,
}

impl Outbox {
    /// Sequence numbers start at `sequence`: larger than any of a former life, such as the time.
    pub(crate) fn new(sequence: u64) -> Self {
        Self {
            reports: BTreeMap::new(),
            queue: VecDeque::new(),
            chatter: 0,
            recent: VecDeque::new(),
            sequence,
        }
    }

    pub(crate) fn report(&mut self, id: AttemptId, what: What, acked: oneshot::Sender<()>) {
        self.sequence += 1;
        self.reports.insert(self.sequence, Unacknowledged { id, what, acked });
        self.queue.push_back(Item::Report(self.sequence));
    }

    pub(crate) fn chatter(&mut self, id: AttemptId, message: Message) {
        if self.chatter == CHATTER_MAX
            && let Some(oldest) = self.queue.iter().position(|i| matches!(i, Item::Chatter(..)))
        {
            self.queue.remove(oldest);
            self.chatter -= 1;
        }
        self.chatter += 1;
        self.queue.push_back(Item::Chatter(id, Box::new(message)));
    }

    /// Whether anything waits to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next message; a report stays known until it is acknowledged.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Message> {
        loop {
            match self.queue.pop_front()? {
                Item::Chatter(id, message) => {
                    self.chatter -= 1;
                    self.keep_recent(now);
                    if matches!(*message, Message::Metrics(_)) {
                        self.recent.push_back((now, id, message.clone()));
                    }
                    return Some(*message);
                }
                Item::Report(sequence) => {
                    if let Some(report) = self.reports.get(&sequence) {
                        return Some(Message::Report(v1::Report {
                            sequence,
                            job: report.id.job.0,
                            attempt: report.id.attempt.0,
                            what: Some(report.what.clone()),
                        }));
                    }
                }
            }
        }
    }

    fn keep_recent(&mut self, now: Instant) {
        let old = |sent: &Instant| now.duration_since(*sent) > SWALLOWED_MAX;
        while self.recent.front().is_some_and(|(sent, ..)| old(sent)) {
            self.recent.pop_front();
        }
    }

    /// The connection broke.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.keep_recent(now);
        for (_, id, message) in self.recent.drain(..).rev() {
            self.queue.push_front(Item::Chatter(id, message));
            self.chatter += 1;
        }
    }

    /// A new connection: everything unacknowledged goes out again, oldest first, before what was never sent.
    pub(crate) fn resend(&mut self) {
        let unsent: BTreeSet<u64> = self
            .queue
            .iter()
            .filter_map(|item| match item {
                Item::Report(sequence) => Some(*sequence),
                Item::Chatter(..) => None,
            })
            .collect();
        for sequence in self.reports.keys().rev().filter(|sequence| !unsent.contains(sequence)) {
            self.queue.push_front(Item::Report(*sequence));
        }
    }

    /// A report was accepted.
    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        if let Some(report) = self.reports.remove(&sequence) {
            // Not every report is waited for.
            let _ = report.acked.send(());
        }
    }

    /// Whose report this is.
    pub(crate) fn attempt_of(&self, sequence: u64) -> Option<AttemptId> {
        self.reports.get(&sequence).map(|report| report.id)
    }

    /// Nothing more is said about an attempt.
    pub(crate) fn forget(&mut self, id: AttemptId) {
        self.reports.retain(|_, report| report.id != id);
        self.queue.retain(|item| !matches!(item, Item::Chatter(of, _) if *of == id));
        self.recent.retain(|(_, of, _)| *of != id);
        self.chatter = self.queue.iter().filter(|i| matches!(i, Item::Chatter(..))).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(job: u64) -> AttemptId {
        AttemptId::of_wire(job, 1)
    }

    fn started(step: u64) -> What {
        What::Started(v1::Started { step, steps_total: 9 })
    }

    fn line(text: &str) -> Message {
        Message::Log(v1::Log { text: text.into(), ..v1::Log::default() })
    }

    fn drain(outbox: &mut Outbox) -> Vec<String> {
        drain_at(outbox, Instant::now())
    }

    fn drain_at(outbox: &mut Outbox, now: Instant) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(message) = outbox.next(now) {
            said.push(match message {
                Message::Report(report) => format!("{}:{}", report.sequence, report.job),
                Message::Log(log) => log.text,
                Message::Metrics(metrics) => format!("step {}", metrics.metrics.unwrap().step),
                other => panic!("{other:?}"),
            });
        }
        said
    }

    #[test]
    fn a_report_is_sent_until_it_is_acknowledged() {
        let mut outbox = Outbox::new(10);
        let (acked, mut ack) = oneshot::channel();
        outbox.report(id(1), started(0), acked);
        outbox.chatter(id(1), line("hello"));
        outbox.report(id(2), started(0), oneshot::channel().0);
        assert_eq!(drain(&mut outbox), ["11:1", "hello", "12:2"]);
        assert!(outbox.is_empty());
        outbox.chatter(id(1), line("still here"));
        outbox.report(id(1), started(9), oneshot::channel().0);
        outbox.resend();
        assert_eq!(drain(&mut outbox), ["11:1", "12:2", "still here", "13:1"]);
        outbox.acknowledge(13);
        outbox.acknowledge(11);
        assert!(ack.try_recv().is_ok());
        outbox.resend();
        assert_eq!(drain(&mut outbox), ["12:2"]);
    }

    #[test]
    fn a_fenced_attempt_says_nothing_more() {
        let mut outbox = Outbox::new(0);
        let (acked, mut ack) = oneshot::channel();
        outbox.report(id(1), started(0), acked);
        outbox.chatter(id(1), line("late"));
        outbox.chatter(id(2), line("mine"));
        outbox.forget(id(1));
        assert!(ack.try_recv().is_err());
        assert_eq!(drain(&mut outbox), ["mine"]);
        outbox.resend();
        assert!(outbox.is_empty());
    }

    #[test]
    fn steps_told_just_before_a_connection_broke_are_told_again() {
        let step = |step| {
            let metrics = Some(v1::StepMetrics { step, ..v1::StepMetrics::default() });
            Message::Metrics(v1::Metrics { metrics, ..v1::Metrics::default() })
        };
        let start = Instant::now();
        let mut outbox = Outbox::new(0);
        outbox.chatter(id(1), step(1));
        drain_at(&mut outbox, start);
        outbox.chatter(id(1), step(2));
        outbox.chatter(id(1), line("told once"));
        drain_at(&mut outbox, start + SWALLOWED_MAX);
        outbox.chatter(id(1), step(3));
        outbox.lost(start + SWALLOWED_MAX + Duration::from_secs(1));
        outbox.resend();
        assert_eq!(drain(&mut outbox), ["step 2", "step 3"]);
    }

    #[test]
    fn a_long_absence_keeps_the_newest_lines_and_every_report() {
        let mut outbox = Outbox::new(0);
        outbox.report(id(1), started(0), oneshot::channel().0);
        for i in 0..CHATTER_MAX + 5 {
            outbox.chatter(id(1), line(&i.to_string()));
        }
        let said = drain(&mut outbox);
        assert_eq!(said.len(), CHATTER_MAX + 1);
        assert_eq!(said[..2], ["1:1", "5"]);
    }
}
