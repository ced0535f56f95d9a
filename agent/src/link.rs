//! The connection to the coordinator, made again whenever it breaks.
//!
//! Knows nothing of attempts: `crate::session` gives it what to send, and hears from it what arrives.

use std::time::Duration;

use fleetune_proto::client::Client;
use fleetune_proto::v1::agents_client::AgentsClient;
use fleetune_proto::v1::coordinator_message::Message;
use fleetune_proto::v1::{AgentMessage, CoordinatorMessage};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use uuid::Uuid;

/// What happens on the connection.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A try begins: the first message to send is a Hello, and nothing else until Welcome.
    Opened(mpsc::Sender<AgentMessage>),
    /// A message arrived.
    Received(Box<Message>),
    /// The connection is gone; another is being made.
    Lost(String),
    /// The coordinator will not have this agent.
    Refused(String),
}

/// A specification with its inputs is larger than what tonic lets through unasked.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

const ANSWER: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Keeps a connection as long as somebody listens.
pub(crate) async fn keep(client: Client, events: mpsc::Sender<LinkEvent>) {
    let mut pause = PAUSE_FIRST;
    loop {
        let mut welcomed = false;
        let Err(status) = talk(&client, &events, &mut welcomed).await else { return };
        if welcomed {
            pause = PAUSE_FIRST;
        }
        let event = if !welcomed && is_final(&status) {
            LinkEvent::Refused(status.message().to_owned())
        } else {
            LinkEvent::Lost(in_words(&status))
        };
        if events.send(event).await.is_err() {
            return;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection from beginning to end; `Ok` when nobody listens any more.
async fn talk(
    client: &Client,
    events: &mpsc::Sender<LinkEvent>,
    welcomed: &mut bool,
) -> Result<(), Status> {
    let (sender, outbound) = mpsc::channel(64);
    if events.send(LinkEvent::Opened(sender)).await.is_err() {
        return Ok(());
    }
    let mut agents =
        AgentsClient::new(client.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let late = |_| Status::deadline_exceeded("the coordinator does not answer");
    let call = agents.session(ReceiverStream::new(outbound));
    let mut inbound = timeout(ANSWER, call).await.map_err(late)??.into_inner();
    let mut next = timeout(ANSWER, inbound.message()).await.map_err(late)??;
    loop {
        let Some(CoordinatorMessage { message }) = next else {
            return Err(Status::unavailable("the coordinator closed the session"));
        };
        // A kind of message that this version does not know is passed over.
        if let Some(message) = message {
            *welcomed |= matches!(message, Message::Welcome(_));
            if events.send(LinkEvent::Received(Box::new(message))).await.is_err() {
                return Ok(());
            }
        }
        next = inbound.message().await?;
    }
}

/// Whether the coordinator said this, rather than the transport under it.
fn is_answer(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

fn in_words(status: &Status) -> String {
    if is_answer(status) { status.message() } else { "the coordinator is gone" }.to_owned()
}

/// Whether trying again is no use: the coordinator answered, and means it.
fn is_final(status: &Status) -> bool {
    let refusal = matches!(
        status.code(),
        Code::AlreadyExists
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    );
    is_answer(status) && refusal
}

/// Half to all of it, so that a fleet does not come back in step.
fn jittered(pause: Duration) -> Duration {
    let share = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}
