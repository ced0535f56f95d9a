//! How long an absent coordinator is waited for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tonic::{Response, Status};

use super::error::is_transient;
use super::{Client, ClientError};

/// For a coordinator that has never answered: long enough for one that is starting right now.
const FIRST: Duration = Duration::from_millis(800);
/// For one that has answered before: it is being restarted.
const AGAIN: Duration = Duration::from_secs(60);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Counts down while requests fail.
pub(super) struct Patience {
    since: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { since: None, pause: Duration::from_millis(50) }
    }

    /// Progress was made: the next failure is the first again.
    pub(super) fn renew(&mut self) {
        *self = Self::new();
    }

    /// Sleeps before another try, or says that it is enough.
    pub(super) async fn another(
        &mut self,
        client: &Client,
        status: &Status,
    ) -> Result<(), ClientError> {
        let limit = if client.answered.load(Ordering::Relaxed) { AGAIN } else { FIRST };
        let since = *self.since.get_or_insert_with(Instant::now);
        if !is_transient(status) || since.elapsed() + self.pause > limit {
            return Err(ClientError::of_status(status, client.address()));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(2));
        Ok(())
    }
}

impl Client {
    /// Sends a request that may be repeated until it is answered, or patience ends.
    pub(super) async fn ask<T, F>(&self, send: impl Fn() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut patience = Patience::new();
        loop {
            let answer = tokio::time::timeout(ANSWER, send()).await.unwrap_or_else(|_| {
                let seconds = ANSWER.as_secs();
                Err(Status::deadline_exceeded(format!("no answer within {seconds} s")))
            });
            match answer {
                Ok(response) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(response.into_inner());
                }
                Err(status) => patience.another(self, &status).await?,
            }
        }
    }
}
