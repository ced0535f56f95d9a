//! What is on the screen, without any terminal.

use std::collections::HashMap;

use fleetune_shared::JobId;
use fleetune_shared::view::{FleetView, JobPhase, JobView};

use super::News;
use super::keys::Key;

/// The three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Cards,
    Running,
    Queue,
}

impl Pane {
    pub(super) const ALL: [Self; 3] = [Self::Cards, Self::Running, Self::Queue];
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    On,
    Quit,
}

pub(super) struct Screen {
    pub(super) address: String,
    pub(super) fleet: FleetView,
    pub(super) losses: HashMap<JobId, Vec<f64>>,
    pub(super) focus: Pane,
    /// The row chosen in each pane.
    chosen: [usize; 3],
    /// Why the last refresh failed.
    pub(super) trouble: Option<String>,
}

impl Screen {
    pub(super) fn new(address: String, fleet: FleetView) -> Self {
        Self {
            address,
            fleet,
            losses: HashMap::new(),
            focus: Pane::Running,
            chosen: [0; 3],
            trouble: None,
        }
    }

    pub(super) fn running(&self) -> Vec<&JobView> {
        let live = |j: &&JobView| matches!(j.phase, JobPhase::Assigned | JobPhase::Running);
        self.fleet.jobs.iter().filter(live).collect()
    }

    /// As the scheduler sees it: higher priorities first, then by number.
    pub(super) fn queue(&self) -> Vec<&JobView> {
        let queued = |j: &&JobView| j.phase == JobPhase::Queued;
        let mut jobs: Vec<&JobView> = self.fleet.jobs.iter().filter(queued).collect();
        jobs.sort_by_key(|job| (-i64::from(job.priority), job.id));
        jobs
    }

    pub(super) fn rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Cards => self.fleet.agents.len(),
            Pane::Running => self.running().len(),
            Pane::Queue => self.queue().len(),
        }
    }

    /// The chosen row of a pane, within what is there.
    pub(super) fn chosen(&self, pane: Pane) -> usize {
        self.chosen[pane as usize].min(self.rows(pane).saturating_sub(1))
    }

    pub(super) fn key(&mut self, key: Key) -> Step {
        let pane = self.focus;
        let at = self.chosen(pane);
        match key {
            Key::Quit => return Step::Quit,
            Key::Up => self.chosen[pane as usize] = at.saturating_sub(1),
            Key::Down => {
                self.chosen[pane as usize] = (at + 1).min(self.rows(pane).saturating_sub(1));
            }
            Key::NextPane => self.focus = Pane::ALL[(pane as usize + 1) % 3],
            Key::PreviousPane => self.focus = Pane::ALL[(pane as usize + 2) % 3],
            Key::Redraw => {}
        }
        Step::On
    }

    pub(super) fn news(&mut self, news: News) -> Step {
        match news {
            News::Fleet(fleet) => {
                self.fleet = *fleet;
                self.trouble = None;
            }
            News::Curve(id, metrics) => {
                self.losses.insert(id, metrics.iter().map(|m| m.loss).collect());
            }
            News::Trouble(text) => self.trouble = Some(text),
        }
        Step::On
    }
}
