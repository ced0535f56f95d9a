//! Why a job waits, or why it was refused: every card with its numbers, and the nearest change that would help.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use fleetune_shared::view::{CardVerdict, Explanation, Verdict};
use fleetune_shared::{
    Availability, ByteSize, CardFamily, Change, Device, Estimate, JobId, JobSpec, Recipe,
    RequestId, Sizer, Work, changed, changes_to_fit,
};

use crate::Liveness;
use crate::learning::Traits;
use crate::placement::{Forecast, Start};
use crate::state::{
    Agent, Command, Job, Lease, Phase, Reply, Shape, State, Submitted, anti_affinity, level,
};

/// The fleet at one moment, with what explanations of waiting jobs need found once.
pub struct Picture<'a> {
    state: &'a State,
    /// Absent where it does not matter who is connected.
    liveness: Option<&'a Liveness>,
    /// Waiting jobs in the order they are to be placed.
    queue: OnceCell<Vec<JobId>>,
    /// How many of them go before each.
    ranks: OnceCell<HashMap<JobId, usize>>,
    /// How it is expected to go on; nothing where it does not matter who is connected.
    forecast: OnceCell<Option<RefCell<Forecast<'a>>>>,
}

/// Waiting jobs whose reasons a view of the whole fleet tells.
const FAR: usize = 256;

/// What the fleet would say to a job that is about to be submitted. Whether agents are connected does not matter:
/// they come back; their cards do not grow.
#[must_use]
pub fn submission(state: &State, spec: &JobSpec) -> Explanation {
    let picture = Picture::new(state, None);
    let cards = picture.verdicts(spec, &Shape::of(spec), None);
    let never = !cards.is_empty() && cards.iter().all(is_hopeless);
    let summary = if never { refusal(spec, &cards) } else { "fits".into() };
    let hint = if never { picture.hint(spec, &cards) } else { None };
    let estimate = spec.estimates.get(&picture.likely_device()).copied().unwrap_or_default();
    Explanation {
        summary,
        estimate,
        ahead: Vec::new(),
        cards,
        hint,
        expected_start_ms: None,
        start_note: None,
        rung: None,
    }
}

/// What would become of a job if it were submitted now: refused, or somewhere in the queue.
#[must_use]
pub fn plan(state: &State, liveness: &Liveness, spec: JobSpec, now_ms: u64) -> Explanation {
    let mut then = state.clone();
    // No request of a user's has no name, so no answer given before stands in for this one.
    let request = RequestId(String::new());
    let submit = Command::Submit { request, specs: vec![spec.clone()], now_ms };
    let accepted = match then.apply(submit).reply {
        Ok(Reply::Submitted(outcomes)) => match outcomes.into_iter().next() {
            Some(Submitted::Refused(why)) => return *why,
            Some(Submitted::Accepted(id)) => then.job(id),
            None => None,
        },
        _ => None,
    };
    accepted.map_or_else(|| submission(state, &spec), |accepted| job(&then, liveness, accepted))
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
        Self {
            state,
            liveness,
            queue: OnceCell::new(),
            ranks: OnceCell::new(),
            forecast: OnceCell::new(),
        }
    }

    fn queue(&self) -> &[JobId] {
        self.queue.get_or_init(|| self.state.queue().iter().map(|job| job.id).collect())
    }

    /// How many waiting jobs go before this one.
    fn rank(&self, id: JobId) -> usize {
        let ranks = self.ranks.get_or_init(|| {
            self.queue().iter().enumerate().map(|(rank, id)| (*id, rank)).collect()
        });
        ranks.get(&id).copied().unwrap_or_default()
    }

    fn forecast(&self) -> Option<&RefCell<Forecast<'a>>> {
        let (state, liveness) = (self.state, self.liveness);
        let forecast = || Some(RefCell::new(Forecast::new(state, liveness?, state.clock_ms())));
        self.forecast.get_or_init(forecast).as_ref()
    }

    /// When a waiting job is expected to start, where that can be told.
    pub(crate) fn expected_start_ms(&self, job: &Job) -> Option<u64> {
        let forecast = self.forecast().filter(|_| job.phase == Phase::Queued)?;
        forecast.borrow_mut().expected_ms(job.id)
    }

    /// The state that was looked at.
    pub(crate) fn state(&self) -> &'a State {
        self.state
    }

    /// Why a waiting job waits, in one line. Of a job far from its turn that is how far: to hold every job of a long
    /// queue against every card of a large fleet would take minutes.
    pub(crate) fn in_short(&self, job: &Job) -> String {
        match self.rank(job.id) {
            ..FAR => self.summary(job, &self.verdicts_of(job), self.ahead(job)),
            rank => format!("{rank} jobs go first"),
        }
    }

    /// Why a job is where it is.
    #[must_use]
    pub fn explain(&self, job: &Job) -> Explanation {
        let (cards, ahead) = (self.verdicts_of(job), self.ahead(job));
        let summary = self.summary(job, &cards, ahead);
        let hint = match job.phase {
            Phase::Queued => self.hint(&job.spec, &cards).or_else(|| self.sooner(&cards)),
            _ => None,
        };
        let (expected_start_ms, start_note) = self.expected(job);
        Explanation {
            summary,
            estimate: self.estimate_of(job),
            ahead: ahead.to_vec(),
            cards,
            hint,
            expected_start_ms,
            start_note,
            rung: job.rung.view(),
        }
    }

    /// Waiting jobs that go before this one.
    fn ahead(&self, job: &Job) -> &[JobId] {
        match job.phase {
            Phase::Queued => &self.queue()[..self.rank(job.id)],
            _ => &[],
        }
    }

    /// Why a job is where it is, in one line.
    fn summary(&self, job: &Job, cards: &[CardVerdict], ahead: &[JobId]) -> String {
        match &job.phase {
            Phase::Queued => self.waiting(job, cards, ahead),
            Phase::Assigned(lease) => {
                format!("assigned to `{}`, its trainer is starting", lease.agent)
            }
            Phase::Running(lease) => self.running(lease),
            Phase::Succeeded { agent, .. } => format!("succeeded on `{agent}`"),
            Phase::Failed => {
                format!("failed: {}", job.failure.as_ref().map_or("", |f| f.message.as_str()))
            }
            Phase::Cancelled => "cancelled by a user".into(),
        }
    }

    /// When a job is expected to start, and what there is to say of that: why it cannot be told, or what it leaves out.
    fn expected(&self, job: &Job) -> (Option<u64>, Option<String>) {
        let Some(forecast) = self.forecast().filter(|_| job.phase == Phase::Queued) else {
            return (None, None);
        };
        match forecast.borrow_mut().start_of(job) {
            Start::Expected { ms, endless: 0 } => (Some(ms), None),
            Start::Expected { ms, .. } if ms <= self.state.clock_ms() => (Some(ms), None),
            Start::Expected { ms, endless } => {
                let (jobs, end) =
                    if endless == 1 { ("job", "it ends") } else { ("jobs", "they end") };
                let note = format!(
                    "nobody can tell yet when {endless} {jobs} will end: sooner if {end} first"
                );
                (Some(ms), Some(note))
            }
            Start::Behind { job, agent } => {
                let placed = self.state.job(job).is_some_and(|job| job.lease().is_some());
                let why = if placed { "runs" } else { "goes first" };
                let note = format!(
                    "job {job} {why} on `{agent}` and nobody can tell yet when it ends: its recipe has no max_steps, or \
                     nothing was measured there"
                );
                (None, Some(note))
            }
            Start::TooFar { ms } => {
                let hours = ms.saturating_sub(self.state.clock_ms()) / 3_600_000;
                (None, Some(format!("not within the {hours} h that were looked at")))
            }
            Start::Nowhere => {
                (None, Some("no card that would hold it is open, or says when it will be".into()))
            }
        }
    }

    /// Why a job waits: what is in its way where it would start first.
    fn waiting(&self, job: &Job, cards: &[CardVerdict], ahead: &[JobId]) -> String {
        let some = |verdict| cards.iter().filter(move |c| c.verdict == verdict);
        if cards.is_empty() {
            return "no agent has joined yet".into();
        }
        if self.state.is_awaited(job.id) {
            let asked = self.state.jobs().filter(|other| {
                other.lease().is_some_and(|lease| lease.yielding_to == Some(job.id))
            });
            let asked: Vec<_> = asked.map(|other| format!("job {}", other.id)).collect();
            return format!(
                "{} was asked to write a checkpoint and make room for it",
                asked.join(", ")
            );
        }
        if some(Verdict::Fits).next().is_some() {
            let goes = || {
                let now_ms = self.state.clock_ms();
                self.forecast().is_some_and(|f| f.borrow().goes_now(job.id, now_ms))
            };
            return match ahead {
                [first, ..] if !goes() => self.held_back(job, *first),
                _ => "about to be placed".into(),
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
                card.vram_bytes_needed,
                card.agent,
                card.vram_bytes_open,
                card.card.vram_bytes_total
            );
        }
        if let Some(card) = some(Verdict::Full).max_by_key(|c| c.vram_bytes_open) {
            if let Some(company) = &card.lacks {
                return format!("`{}` {company}, and the two keep apart", card.agent);
            }
            let jobs = if card.jobs == 1 { "job" } else { "jobs" };
            return format!(
                "`{}` has {} {jobs} and takes no more at once (max_jobs_per_card {})",
                card.agent, card.jobs, card.jobs_max
            );
        }
        if let Some(card) = some(Verdict::Closed).next() {
            let why = card.lacks.as_deref().unwrap_or_default();
            return format!("`{}` would hold it but is closed ({why})", card.agent);
        }
        if let Some(card) = some(Verdict::Draining).next() {
            return format!("`{}` would hold it but takes no new jobs", card.agent);
        }
        if let Some(card) = some(Verdict::Disconnected).next() {
            return format!("`{}` would hold it but is not connected", card.agent);
        }
        refusal(&job.spec, cards)
    }

    /// Why an agent's card takes no jobs now, where it takes none.
    fn closed(&self, agent: &Agent) -> Option<String> {
        let heard_ms = self.liveness.map_or(0, |liveness| liveness.heard_ms(&agent.name));
        agent.availability().reason(heard_ms.max(self.state.clock_ms()))
    }

    /// How a job runs: whether it has to leave, and why.
    fn running(&self, lease: &Lease) -> String {
        let Lease { agent: name, vram_bytes, yielding_to, .. } = lease;
        let leaves = self.state.agent(name).filter(|agent| agent.availability().yields());
        if let Some(why) = leaves.and_then(|agent| self.closed(agent)) {
            return format!("writes a checkpoint on `{name}` and leaves ({why})");
        }
        match yielding_to {
            Some(urgent) => format!(
                "writes a checkpoint on `{name}` to make room for job {urgent}, which is more urgent"
            ),
            None => format!("running on `{name}` with {vram_bytes} promised"),
        }
    }

    /// A card fits, but another job's turn comes first.
    fn held_back(&self, job: &Job, first: JobId) -> String {
        let now_ms = self.state.clock_ms();
        let urgency = |job: &Job| level(job.spec.priority, job.submitted_ms, now_ms);
        match self.state.job(first) {
            Some(other)
                if urgency(other) == urgency(job)
                    && other.spec.user != job.spec.user
                    && other.id > job.id =>
            {
                format!(
                    "a card is held for job {first} of `{}`, who has had less of the fleet than `{}`",
                    other.spec.user, job.spec.user
                )
            }
            _ => format!("a card is held for job {first}, which waits longer or is more urgent"),
        }
    }

    /// What the job needs where it would most likely run.
    pub(crate) fn estimate_of(&self, job: &Job) -> Estimate {
        job.estimate(self.likely_device()).copied().unwrap_or_default()
    }

    fn likely_device(&self) -> Device {
        let first = self.state.agents().next();
        first.map(|agent| agent.offer.card.device).unwrap_or_default()
    }

    /// What to change in the recipe so that the card that comes closest holds it: what `fleetune estimate` says, by what
    /// the fleet has learned.
    fn hint(&self, spec: &JobSpec, cards: &[CardVerdict]) -> Option<String> {
        let Work::Train { recipe } = &spec.work else { return None };
        let near = closest(cards).filter(|c| c.verdict == Verdict::TooSmall)?;
        let (card, family) = (&near.card.name, CardFamily::of(&near.card));
        let model = Box::new(spec.model.clone());
        let sizer = Sizer::Fleetune { model, device: family.device };
        let need = |recipe: &Recipe| {
            let traits = Traits::of_training(recipe, &spec.model);
            self.state.corrections().of(family, traits).times(sizer.size(recipe).total())
        };
        let changes = changes_to_fit(&sizer, recipe, near.card.usable(), &need);
        let found = changes.and_then(|changes| {
            let needed = need(&changed(&sizer, recipe, &changes)?);
            let keys: Vec<_> = changes.into_iter().map(Change::keys).collect();
            Some((keys.join(", "), needed))
        });
        Some(match found {
            Some((keys, needed)) => {
                format!("set {keys}: it would need {needed} and fit {card} on `{}`", near.agent)
            }
            None => format!(
                "no change of its recipe makes it fit {card}: choose a smaller model or join a larger card"
            ),
        })
    }

    /// What would let a job start sooner that fits a card of the fleet, if somebody did it.
    fn sooner(&self, cards: &[CardVerdict]) -> Option<String> {
        let enough = |c: &&CardVerdict| c.vram_bytes_needed <= c.vram_bytes_open;
        let some = |verdict| cards.iter().filter(move |c| c.verdict == verdict).find(enough);
        if some(Verdict::Fits).is_some() {
            return None;
        }
        if let Some(card) = some(Verdict::Full).filter(|card| card.lacks.is_none()) {
            return Some(format!(
                "`{}` has {} open: with --max-jobs-per-card {} it would start there now",
                card.agent,
                card.vram_bytes_open,
                card.jobs + 1
            ));
        }
        let foreign = |c: &&CardVerdict| {
            let without = ByteSize(c.vram_bytes_open.0 + c.vram_bytes_foreign.0);
            c.verdict == Verdict::Busy && c.vram_bytes_needed <= without && c.jobs < c.jobs_max
        };
        if let Some(card) = cards.iter().find(foreign) {
            return Some(format!(
                "others use {} on `{}`: without them it would start there now",
                card.vram_bytes_foreign, card.agent
            ));
        }
        let is_paused = |card: &&CardVerdict| {
            let agent = self.state.agent(&card.agent);
            agent.is_some_and(|agent| *agent.availability() == Availability::Paused)
        };
        if let Some(card) = some(Verdict::Closed).filter(is_paused) {
            return Some(format!("`fleetune agent resume {}` lets it start there", card.agent));
        }
        if let Some(card) = some(Verdict::Draining) {
            return Some(format!(
                "`fleetune agent drain {} --undo` lets it start there",
                card.agent
            ));
        }
        if let Some(card) = some(Verdict::Disconnected) {
            return Some(format!("start the agent `{}` again: it has room for it", card.agent));
        }
        let card = some(Verdict::Unsuitable)?;
        let lacks = card.lacks.as_deref()?;
        Some(format!("`{}` has room for it but {lacks}", card.agent))
    }

    /// Each card's answer to a job of the fleet.
    fn verdicts_of(&self, job: &Job) -> Vec<CardVerdict> {
        self.verdicts(&job.spec, &Shape::of_job(job), job.lease())
    }

    /// Each card's answer to a job; what the job itself was promised stays open to it.
    fn verdicts(&self, spec: &JobSpec, shape: &Shape, own: Option<&Lease>) -> Vec<CardVerdict> {
        self.state.agents().map(|agent| self.verdict(agent, spec, shape, own)).collect()
    }

    fn verdict(
        &self,
        agent: &Agent,
        spec: &JobSpec,
        shape: &Shape,
        own: Option<&Lease>,
    ) -> CardVerdict {
        let own = own.filter(|lease| lease.agent == agent.name);
        let jobs = agent.load.jobs() - u32::from(own.is_some());
        let own = own.map_or(0, |lease| lease.vram_bytes.0);
        let open = ByteSize(agent.vram_bytes_open().0 + own);
        let card = &agent.offer.card;
        let needed = self.state.need(shape, agent.family).unwrap_or(ByteSize(u64::MAX));
        let here = |l: &Liveness| agent.present && l.is_connected(&agent.name);
        let lacks = spec.requirements().and_then(|ask| ask.unmet(&agent.offer));
        let unsuitable = lacks.is_some();
        let closed = self.closed(agent).filter(|_| self.liveness.is_some());
        let company = anti_affinity(spec).filter(|word| own == 0 && agent.load.has_word(word));
        let verdict = if unsuitable {
            Verdict::Unsuitable
        } else if needed > card.usable() {
            Verdict::TooSmall
        } else if !self.liveness.is_none_or(here) {
            Verdict::Disconnected
        } else if agent.draining {
            Verdict::Draining
        } else if closed.is_some() {
            Verdict::Closed
        } else if needed > open {
            Verdict::Busy
        } else if jobs >= agent.offer.jobs_max() || company.is_some() {
            Verdict::Full
        } else {
            Verdict::Fits
        };
        CardVerdict {
            agent: agent.name.clone(),
            card: card.clone(),
            vram_bytes_needed: needed,
            vram_bytes_reserved: ByteSize(agent.load.vram_bytes - own),
            vram_bytes_foreign: agent.offer.vram_bytes_foreign,
            vram_bytes_margin: card.margin(),
            vram_bytes_open: open,
            jobs,
            jobs_max: agent.offer.jobs_max(),
            verdict,
            lacks: lacks
                .or_else(|| closed.filter(|_| verdict == Verdict::Closed))
                .or_else(|| company.map(|word| format!("holds another job of `{word}`"))),
        }
    }
}

/// Whether a card would never take the job.
fn is_hopeless(card: &CardVerdict) -> bool {
    matches!(card.verdict, Verdict::TooSmall | Verdict::Unsuitable)
}

/// The suitable card that comes closest to holding the job.
fn closest(cards: &[CardVerdict]) -> Option<&CardVerdict> {
    let suitable = cards.iter().filter(|c| c.verdict != Verdict::Unsuitable);
    suitable.min_by_key(|c| c.vram_bytes_needed.0.saturating_sub(c.card.usable().0))
}

fn refusal(spec: &JobSpec, cards: &[CardVerdict]) -> String {
    let Some(near) = closest(cards) else {
        let lacks = cards.iter().find_map(|c| Some((&c.agent, c.lacks.as_deref()?)));
        return match lacks {
            Some((agent, lacks)) => {
                format!("no card of the fleet is what `{}` asks for: `{agent}` {lacks}", spec.name)
            }
            None => "there are no cards".into(),
        };
    };
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
