//! An agent that speaks the protocol and trains nothing.

use std::time::Duration;

use fleetune_proto::v1::{
    self, agent_message, agents_client::AgentsClient, coordinator_message::Message, report::What,
};
use fleetune_shared::{Artifact, ByteSize, Card, Device, Offer, StepMetrics, TrainSummary};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::rig::Rig;

pub(crate) struct FakeAgent {
    sender: mpsc::Sender<v1::AgentMessage>,
    stream: Streaming<v1::CoordinatorMessage>,
    sequence: u64,
}

pub(crate) fn offer(vram: ByteSize) -> Offer {
    let card = Card {
        name: "Declared".into(),
        vram_bytes_total: vram,
        compute_capability: None,
        device: Device::Cpu,
    };
    Offer::of(card)
}

impl FakeAgent {
    pub(crate) async fn join(rig: &Rig, name: &str, vram: ByteSize) -> Self {
        Self::join_with(rig, name, "secret", vram, &[]).await.unwrap()
    }

    pub(crate) async fn join_with(
        rig: &Rig,
        name: &str,
        key: &str,
        vram: ByteSize,
        held: &[(u64, u32)],
    ) -> Result<Self, Status> {
        let (sender, receiver) = mpsc::channel(64);
        let hello = v1::Hello {
            name: name.into(),
            key: key.into(),
            version: "test".into(),
            offer: Some(offer(vram).into()),
            held: held.iter().map(|&(job, attempt)| v1::Held { job, attempt }).collect(),
        };
        let message = Some(agent_message::Message::Hello(hello));
        sender.send(v1::AgentMessage { message }).await.unwrap();
        let mut client = AgentsClient::new(rig.client().channel());
        let stream = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        let mut agent = Self { sender, stream, sequence: 0 };
        match agent.next().await {
            Some(Message::Welcome(_)) => Ok(agent),
            other => panic!("not welcomed but {other:?}"),
        }
    }

    /// The next message; `None` when the session has ended.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let message = tokio::time::timeout(Duration::from_secs(5), self.stream.message());
        match message.await.expect("the coordinator says something") {
            Ok(Some(message)) => message.message,
            Ok(None) | Err(_) => None,
        }
    }

    /// Nothing comes for a while.
    pub(crate) async fn hears_nothing(&mut self) {
        let message = tokio::time::timeout(Duration::from_millis(300), self.stream.message()).await;
        assert!(message.is_err(), "{message:?}");
    }

    pub(crate) async fn started(&mut self) -> v1::Start {
        match self.next().await {
            Some(Message::Start(start)) => start,
            other => panic!("not started but {other:?}"),
        }
    }

    pub(crate) async fn stopped(&mut self) -> v1::Stop {
        match self.next().await {
            Some(Message::Stop(stop)) => stop,
            other => panic!("not stopped but {other:?}"),
        }
    }

    pub(crate) async fn say(&self, message: agent_message::Message) {
        self.sender.send(v1::AgentMessage { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn beat(&self, vram: ByteSize) {
        let heartbeat = v1::Heartbeat { offer: Some(offer(vram).into()), telemetry: None };
        self.say(agent_message::Message::Heartbeat(heartbeat)).await;
    }

    /// Beats for a while.
    pub(crate) async fn live(&self, vram: ByteSize, span: Duration) {
        let end = tokio::time::Instant::now() + span;
        while tokio::time::Instant::now() < end {
            self.beat(vram).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reports and waits for the answer.
    pub(crate) async fn report(&mut self, job: u64, attempt: u32, what: What) -> v1::Ack {
        self.sequence += 1;
        let report = v1::Report { sequence: self.sequence, job, attempt, what: Some(what) };
        self.say(agent_message::Message::Report(report)).await;
        match self.next().await {
            Some(Message::Ack(ack)) => {
                assert_eq!(ack.sequence, self.sequence);
                ack
            }
            other => panic!("not answered but {other:?}"),
        }
    }

    pub(crate) async fn step(&self, job: u64, attempt: u32, step: u64, loss: f64) {
        let metrics = StepMetrics {
            step,
            loss,
            grad_norm: 1.0,
            learning_rate: 1e-4,
            supervised_tokens: 7,
            tokens_per_second: 100.0,
            epoch: 0.1,
            more: Default::default(),
        };
        let metrics = v1::Metrics { job, attempt, metrics: Some(metrics.into()) };
        self.say(agent_message::Message::Metrics(metrics)).await;
    }

    pub(crate) async fn log(&self, job: u64, attempt: u32, text: &str) {
        let log = v1::Log { job, attempt, at_ms: 1, text: text.into() };
        self.say(agent_message::Message::Log(log)).await;
    }
}

pub(crate) fn started(steps_total: u64) -> What {
    What::Started(v1::Started { step: 0, steps_total })
}

pub(crate) fn checkpoint(artifact: Artifact) -> What {
    What::Checkpoint(artifact.into())
}

pub(crate) fn finished(artifact: Artifact) -> What {
    let summary = TrainSummary { steps: artifact.step, ..TrainSummary::default() };
    What::Finished(v1::Finished { artifact: Some(artifact.into()), summary: Some(summary.into()) })
}

pub(crate) fn released(message: &str) -> What {
    What::Released(v1::Released {
        message: message.into(),
        memory_bytes_peak: None,
        peak_source: 0,
    })
}
