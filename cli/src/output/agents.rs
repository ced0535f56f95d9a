//! `fleetune agents`: every card and what is promised on it.

use fleetune_shared::Availability;
use fleetune_shared::view::AgentView;
use serde_json::Value;

use super::bar::bar;
use super::table::Field;
use super::{Colour, Show, Style, Table, history, plain_line, shortened, time};

/// Agents, as they are listed.
pub(crate) struct AgentList<'a> {
    pub(crate) agents: &'a [AgentView],
    /// What times are told from.
    pub(crate) now_ms: u64,
}

impl<'a> AgentList<'a> {
    pub(crate) fn new(agents: &'a [AgentView]) -> Self {
        Self { agents, now_ms: time::now_ms() }
    }
}

/// The word for how an agent is.
pub(crate) fn state(agent: &AgentView) -> (&'static str, Colour) {
    let availability = &agent.offer.availability;
    match availability {
        _ if !agent.connected => ("away", Colour::Bad),
        Availability::DriverError { .. } | Availability::Gone { .. } => {
            (availability.word(), Colour::Bad)
        }
        Availability::Open if agent.draining => ("draining", Colour::Waiting),
        Availability::Open if agent.jobs.is_empty() => ("idle", Colour::Good),
        Availability::Open => ("busy", Colour::Active),
        _ => (availability.word(), Colour::Waiting),
    }
}

/// What of a card is promised or used by strangers, from 0 to 1; nothing is known of one that is away.
pub(crate) fn used(agent: &AgentView) -> f64 {
    if !agent.connected {
        return 0.0;
    }
    let total = agent.offer.card.vram_bytes_total.0.max(1) as f64;
    (agent.vram_bytes_reserved.0 + agent.offer.vram_bytes_foreign.0) as f64 / total
}

/// What an agent's card is doing, as far as its driver tells: `97 %, 61 °C, 220 W, slowed by heat`.
fn doing(agent: &AgentView) -> String {
    let Some(now) = agent.telemetry.as_ref().filter(|_| agent.connected) else {
        return "–".into();
    };
    let load = now.utilization_percent.map(|percent| format!("{percent} %"));
    let heat = now.celsius.map(|celsius| format!("{celsius} °C"));
    let power = now.milliwatts.map(|milliwatts| format!("{} W", milliwatts.div_ceil(1000)));
    let words: Vec<_> = now.throttled.iter().map(|why| why.as_str()).collect();
    let slowed = (!words.is_empty()).then(|| format!("slowed by {}", words.join(", ")));
    let all: Vec<String> = [load, heat, power, slowed].into_iter().flatten().collect();
    if all.is_empty() { "–".into() } else { all.join(", ") }
}

/// Why a card that could be talked to takes no jobs.
pub(crate) fn closed(agent: &AgentView, now_ms: u64) -> Option<String> {
    let why = agent.offer.availability.reason(now_ms).filter(|_| agent.connected)?;
    Some(plain_line(&why))
}

/// What a new job could be promised, where any may come.
fn open(agent: &AgentView) -> String {
    let is_open = agent.offer.availability.is_open();
    if is_open { agent.vram_bytes_open.to_string() } else { "–".into() }
}

impl Show for AgentList<'_> {
    fn table(&self, style: Style) -> String {
        let columns = [
            "agent",
            "state",
            "?card",
            ">memory",
            "?>reserved",
            "?>foreign",
            ">open",
            "?",
            "?>error",
            "?now",
            "jobs",
        ];
        let mut table = Table::new(style, &columns);
        for agent in self.agents {
            let (word, colour) = state(agent);
            let jobs: Vec<String> = agent.jobs.iter().map(ToString::to_string).collect();
            table.row([
                agent.name.as_str().into(),
                Field::new(word, colour),
                shortened(&plain_line(&agent.offer.card.name), 28).into(),
                agent.offer.card.vram_bytes_total.to_string().into(),
                agent.vram_bytes_reserved.to_string().into(),
                agent.offer.vram_bytes_foreign.to_string().into(),
                open(agent).into(),
                Field::new(bar(used(agent), 12), Colour::Active),
                history::percent(agent.accuracy.error_median).into(),
                doing(agent).into(),
                if jobs.is_empty() { "–".into() } else { jobs.join(" ").into() },
            ]);
        }
        let text = table.text("no agents; `fleetune agent --join ADDRESS` brings one");
        let closed =
            |agent: &AgentView| Some(format!("{}: {}", agent.name, closed(agent, self.now_ms)?));
        let closed: Vec<String> = self.agents.iter().filter_map(closed).collect();
        if closed.is_empty() { text } else { format!("{text}\n\n{}", closed.join("\n")) }
    }

    fn json(&self) -> Value {
        let one = |agent: &AgentView| {
            let mut value = serde_json::to_value(agent).unwrap_or_default();
            value["accuracy"] = history::accuracy(&agent.accuracy);
            value
        };
        self.agents.iter().map(one).collect()
    }

    fn quiet(&self) -> String {
        self.agents.iter().map(|agent| agent.name.to_string()).collect::<Vec<_>>().join("\n")
    }
}
