//! `fleetune agents`: every card and what is promised on it.

use fleetune_shared::view::AgentView;
use serde_json::Value;

use super::bar::bar;
use super::table::Field;
use super::{Colour, Show, Style, Table, history, plain_line, shortened};

/// Agents, as they are listed.
pub(crate) struct AgentList<'a>(pub(crate) &'a [AgentView]);

/// The word for how an agent is.
pub(crate) fn state(agent: &AgentView) -> (&'static str, Colour) {
    match (agent.connected, agent.draining) {
        (false, _) => ("away", Colour::Bad),
        (true, true) => ("draining", Colour::Waiting),
        (true, false) if agent.jobs.is_empty() => ("idle", Colour::Good),
        (true, false) => ("busy", Colour::Active),
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
            "jobs",
        ];
        let mut table = Table::new(style, &columns);
        for agent in self.0 {
            let (word, colour) = state(agent);
            let jobs: Vec<String> = agent.jobs.iter().map(ToString::to_string).collect();
            table.row([
                agent.name.as_str().into(),
                Field::new(word, colour),
                shortened(&plain_line(&agent.offer.card.name), 28).into(),
                agent.offer.card.vram_bytes_total.to_string().into(),
                agent.vram_bytes_reserved.to_string().into(),
                agent.offer.vram_bytes_foreign.to_string().into(),
                agent.vram_bytes_open.to_string().into(),
                Field::new(bar(used(agent), 12), Colour::Active),
                history::percent(agent.accuracy.error_median).into(),
                if jobs.is_empty() { "–".into() } else { jobs.join(" ").into() },
            ]);
        }
        table.text("no agents; `fleetune agent --join ADDRESS` brings one")
    }

    fn json(&self) -> Value {
        let one = |agent: &AgentView| {
            let mut value = serde_json::to_value(agent).unwrap_or_default();
            value["accuracy"] = history::accuracy(&agent.accuracy);
            value
        };
        self.0.iter().map(one).collect()
    }

    fn quiet(&self) -> String {
        self.0.iter().map(|agent| agent.name.to_string()).collect::<Vec<_>>().join("\n")
    }
}
