//! Why a job waits, or why it was refused: every card with its numbers, and the nearest change that would help.

use fleetune_shared::recipe::{CheckpointingChoice, CheckpointingLevel};
use fleetune_shared::view::{CardVerdict, Explanation, Verdict};
use fleetune_shared::{ByteSize, Estimate, JobId, JobSpec, Recipe, Work};

use crate::Liveness;
use crate::state::{Agent, Job, Lease, Phase, State};

/// The fleet at one moment, with what every explanation needs counted once.
pub struct Picture<'a> {
    state: &'a State,
    /// Absent where it does not matter who is connected.
    liveness: Option<&'a Liveness>,
    /// Waiting jobs in the order they are to be placed.
    queue: Vec<JobId>,
    cards: Vec<Counted<'a>>,
}

/// A card and what is promised of it.
struct Counted<'a> {
    agent: &'a Agent,
    reserved: ByteSize,
    open: ByteSize,
}

/// What the fleet would say to a job that is about to be submitted. Whether agents are connected does not matter:
/// they come back; their cards do not grow.
#[must_use]
pub fn submission(state: &State, spec: &JobSpec) -> Explanation {
    let picture = Picture::new(state, None);
    let cards = picture.verdicts(spec, None);
    let too_small = !cards.is_empty() && cards.iter().all(|c| c.verdict == Verdict::TooSmall);
    let summary = if too_small { refusal(spec, &cards) } else { "fits".into() };
    let hint = if too_small { hint(spec, &cards) } else { None };
    Explanation { summary, estimate: picture.estimate(spec), ahead: Vec::new(), cards, hint }
}

/// Why a job is where it is.
#[must_use]
pub fn job(state: &State, liveness: &Liveness, job: &Job) -> Explanation {
    Picture::of(state, liveness).explain(job)
}

impl<'a> Picture<'a> {
    /// Looks at the fleet.
    #[must_use]
    pub fn of(state: &'a State, liveness: &'a Liveness) -> Self {
        Self::new(state, Some(liveness))
    }

    fn new(state: &'a State, liveness: Option<&'a Liveness>) -> Self {
        let cards = state.agents().map(|agent| Counted {
            agent,
            reserved: ByteSize(state.vram_bytes_reserved(&agent.name)),
            open: state.vram_bytes_open(agent),
        });
        let queue = state.queue().iter().map(|job| job.id).collect();
        Self { state, liveness, queue, cards: cards.collect() }
    }

    /// The state that was looked at.
    pub(crate) fn state(&self) -> &'a State {
        self.state
    }

    /// Why a job is where it is.
    #[must_use]
    pub fn explain(&self, job: &Job) -> Explanation {
        let spec = &job.spec;
        let cards = self.verdicts(spec, job.lease());
        let ahead: Vec<JobId> = match job.phase {
            Phase::Queued => self.queue.iter().copied().take_while(|id| *id != job.id).collect(),
            _ => Vec::new(),
        };
        let summary = match &job.phase {
            Phase::Queued => waiting(spec, &cards, &ahead),
            Phase::Assigned(lease) => {
                format!("assigned to `{}`, its trainer is starting", lease.agent)
            }
            Phase::Running(lease) => {
                format!("running on `{}` with {} promised", lease.agent, lease.vram_bytes)
            }
            Phase::Succeeded { agent, .. } => format!("succeeded on `{agent}`"),
            Phase::Failed => {
                format!("failed: {}", job.failure.as_ref().map_or("", |f| f.message.as_str()))
            }
            Phase::Cancelled => "cancelled by a user".into(),
        };
        let hint = if job.phase == Phase::Queued { hint(spec, &cards) } else { None };
        Explanation { summary, estimate: self.estimate(spec), ahead, cards, hint }
    }

    /// What the job needs where it would most likely run.
    fn estimate(&self, spec: &JobSpec) -> Estimate {
        let device = self.cards.first().map(|c| c.agent.offer.card.device).unwrap_or_default();
        spec.estimates.get(&device).copied().unwrap_or_default()
    }

    /// Each card's answer to a job; what the job itself was promised stays open to it.
    fn verdicts(&self, spec: &JobSpec, own: Option<&Lease>) -> Vec<CardVerdict> {
        self.cards.iter().map(|counted| self.verdict(counted, spec, own)).collect()
    }

    fn verdict(&self, counted: &Counted<'_>, spec: &JobSpec, own: Option<&Lease>) -> CardVerdict {
        let agent = counted.agent;
        let own = own.filter(|l| l.agent == agent.name).map_or(0, |lease| lease.vram_bytes.0);
        let open = ByteSize(counted.open.0 + own);
        let card = &agent.offer.card;
        let needed = spec.vram_bytes_needed(card.device).unwrap_or(ByteSize(u64::MAX));
        let here = |l: &Liveness| agent.present && l.is_connected(&agent.name);
        let verdict = if needed > card.usable() {
            Verdict::TooSmall
        } else if !self.liveness.is_none_or(here) {
            Verdict::Disconnected
        } else if agent.draining {
            Verdict::Draining
        } else if needed > open {
            Verdict::Busy
        } else {
            Verdict::Fits
        };
        CardVerdict {
            agent: agent.name.clone(),
            card: card.clone(),
            vram_bytes_needed: needed,
            vram_bytes_reserved: ByteSize(counted.reserved.0 - own),
            vram_bytes_foreign: agent.offer.vram_bytes_foreign,
            vram_bytes_margin: card.margin(),
            vram_bytes_open: open,
            verdict,
        }
    }
}

/// The card that comes closest to holding the job.
fn closest(cards: &[CardVerdict]) -> Option<&CardVerdict> {
    cards.iter().min_by_key(|c| c.vram_bytes_needed.0.saturating_sub(c.card.usable().0))
}

fn refusal(spec: &JobSpec, cards: &[CardVerdict]) -> String {
    let Some(near) = closest(cards) else { return "there are no cards".into() };
    let usable = near.card.usable();
    format!(
        "`{}` fits no card of the fleet: it needs {}, and the card that comes closest, {} on `{}`, can give {} \
         ({} less a margin of {}): {} too little",
        spec.name,
        near.vram_bytes_needed,
        near.card.name,
        near.agent,
        usable,
        near.card.vram_bytes_total,
        near.vram_bytes_margin,
        ByteSize(near.vram_bytes_needed.0.saturating_sub(usable.0)),
    )
}

fn waiting(spec: &JobSpec, cards: &[CardVerdict], ahead: &[JobId]) -> String {
    let some = |verdict| cards.iter().filter(move |c| c.verdict == verdict);
    if cards.is_empty() {
        return "no agent has joined yet".into();
    }
    if some(Verdict::Fits).next().is_some() {
        return match ahead {
            [] => "about to be placed".into(),
            [first, ..] => {
                format!("a card is held for job {first}, which waits longer or is more urgent")
            }
        };
    }
    if let Some(card) = some(Verdict::Busy).max_by_key(|c| c.vram_bytes_open) {
        let taken = match (card.vram_bytes_reserved.0, card.vram_bytes_foreign.0) {
            (_, 0) => format!("{} promised to jobs", card.vram_bytes_reserved),
            (0, _) => format!("{} used by others", card.vram_bytes_foreign),
            _ => format!(
                "{} promised to jobs, {} used by others",
                card.vram_bytes_reserved, card.vram_bytes_foreign
            ),
        };
        return format!(
            "needs {}, `{}` has {} open of {} ({taken})",
            card.vram_bytes_needed, card.agent, card.vram_bytes_open, card.card.vram_bytes_total
        );
    }
    if let Some(card) = some(Verdict::Draining).next() {
        return format!("`{}` would hold it but takes no new jobs", card.agent);
    }
    if let Some(card) = some(Verdict::Disconnected).next() {
        return format!("`{}` would hold it but is not connected", card.agent);
    }
    refusal(spec, cards)
}

/// The nearest change to the recipe that would fit some card: what costs nothing in quality first.
fn hint(spec: &JobSpec, cards: &[CardVerdict]) -> Option<String> {
    let Work::Train { recipe } = &spec.work else { return None };
    let roomiest = closest(cards).filter(|c| c.verdict == Verdict::TooSmall)?;
    let usable = roomiest.card.usable();
    let changes = [(false, false), (true, false), (true, true)];
    let candidate = changes.into_iter().find_map(|(checkpointing, shorter)| {
        let mut rows = recipe.batching.micro_batch as u64;
        loop {
            let (text, changed) = change(recipe, rows, checkpointing, shorter)?;
            let needed = Estimate::of_training(&spec.model, &changed, roomiest.card.device).total();
            if needed <= usable {
                return Some((text, needed));
            }
            if rows == 1 {
                return None;
            }
            rows /= 2;
        }
    });
    Some(match candidate {
        Some((text, needed)) => format!(
            "set {text}: it would need {needed} and fit {} on `{}`",
            roomiest.card.name, roomiest.agent
        ),
        None => format!(
            "no smaller batch or length makes it fit {}: choose a smaller model or join a larger card",
            roomiest.card.name
        ),
    })
}

/// The recipe with smaller micro-batches at the same global batch, checkpointing, and half the length.
fn change(
    recipe: &Recipe,
    rows: u64,
    checkpointing: bool,
    shorter: bool,
) -> Option<(String, Recipe)> {
    let mut file = recipe.file().clone();
    let mut words = Vec::new();
    let before = recipe.batching;
    if rows < before.micro_batch as u64 {
        let accumulation = (before.micro_batch * before.accumulation) as u64 / rows;
        file.per_device_train_batch_size = Some(rows);
        file.gradient_accumulation_steps = Some(accumulation);
        words.push(format!("per_device_train_batch_size: {rows}"));
        words.push(format!("gradient_accumulation_steps: {accumulation}"));
    }
    if checkpointing && recipe.gradient_checkpointing == CheckpointingLevel::None {
        file.gradient_checkpointing = Some(CheckpointingChoice::Switch(true));
        words.push("gradient_checkpointing: true".into());
    }
    if shorter {
        let length = (recipe.data.max_length / 2).max(2) as u64;
        file.max_length = Some(length);
        words.push(format!("max_length: {length}"));
    }
    Some((words.join(", "), Recipe::try_from(file).ok()?))
}
