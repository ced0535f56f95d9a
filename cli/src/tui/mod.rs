//! The live screen: cards, running jobs, the queue.
//!
//! ```text
//!   client, once a second ─▶ Screen ─▶ draw ─▶ terminal
//!   keys ──────────────────▶ Screen
//! ```

mod draw;
mod keys;
mod screen;

#[cfg(test)]
mod tests;

use std::time::Duration;

use fleetune_proto::Client;
use fleetune_shared::view::{FleetView, JobPhase};
use fleetune_shared::{JobId, StepMetrics};
use tokio::sync::mpsc;

use crate::Failure;
use screen::{Screen, Step};

const REFRESH: Duration = Duration::from_secs(1);
/// Loss curves are fetched for so many running jobs.
const CURVES_MAX: usize = 16;

/// What the fleet says, or why it does not.
enum News {
    Fleet(Box<FleetView>),
    Curve(JobId, Vec<StepMetrics>),
    Trouble(String),
}

/// Takes the terminal until the user quits.
pub(crate) async fn run(client: Client, fleet: FleetView) -> Result<(), Failure> {
    let mut screen = Screen::new(client.address().to_owned(), fleet);
    let io = |error: std::io::Error| Failure::new("io", format!("terminal: {error}"));
    let mut terminal = ratatui::try_init().map_err(io)?;
    let (sender, mut news) = mpsc::channel(4);
    let polling = tokio::spawn(poll(client, sender));
    let mut keys = keys::listen();
    let result = loop {
        if let Err(error) = terminal.draw(|frame| draw::draw(frame, &screen)) {
            break Err(io(error));
        }
        let step = tokio::select! {
            event = keys.recv() => match event {
                Some(event) => screen.key(event),
                None => Step::Quit,
            },
            Some(news) = news.recv() => screen.news(news),
            _ = tokio::signal::ctrl_c() => Step::Quit,
        };
        if step == Step::Quit {
            break Ok(());
        }
    };
    polling.abort();
    ratatui::restore();
    result
}

async fn poll(client: Client, sender: mpsc::Sender<News>) {
    let mut ticks = tokio::time::interval(REFRESH);
    loop {
        ticks.tick().await;
        let fleet = match client.overview().await {
            Ok(fleet) => fleet,
            Err(error) => {
                if sender.send(News::Trouble(error.message)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let running: Vec<JobId> = fleet
            .jobs
            .iter()
            .filter(|job| job.phase == JobPhase::Running)
            .map(|job| job.id)
            .take(CURVES_MAX)
            .collect();
        if sender.send(News::Fleet(Box::new(fleet))).await.is_err() {
            return;
        }
        for id in running {
            if let Ok(metrics) = client.metrics(id).await
                && sender.send(News::Curve(id, metrics)).await.is_err()
            {
                return;
            }
        }
    }
}
