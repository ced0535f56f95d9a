//! The demo's fleet: a coordinator and two agents in this process, their trainers as children.

use std::path::Path;
use std::time::Duration;

use fleetune_agent::{CardSettings, DeviceChoice};
use fleetune_coordinator::Settings;
use fleetune_proto::Client;
use fleetune_shared::view::AgentView;
use fleetune_shared::{AgentName, ByteSize};

use crate::Failure;
use crate::fleet::{LocalAgent, LocalCoordinator};

/// Name, card and size of each agent: of three jobs, one fits only the larger card.
const CARDS: [(&str, &str, u64); 2] =
    [("small", "small card", 26 << 20), ("large", "large card", 96 << 20)];

pub(super) struct House {
    coordinator: LocalCoordinator,
    agents: Vec<LocalAgent>,
    pub(super) client: Client,
}

impl House {
    /// Starts everything below `folder` and waits until both agents have joined.
    pub(super) async fn start(folder: &Path) -> Result<Self, Failure> {
        let settings = Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            ..Settings::new(folder.join("coordinator"))
        };
        let coordinator = LocalCoordinator::start(settings).await?;
        let address = coordinator.address();
        let client = Client::connect(&address)?;
        let mut house = Self { coordinator, agents: Vec::new(), client };
        for (name, card, bytes) in CARDS {
            house.agents.push(LocalAgent::start(agent(name, card, bytes, &address, folder)?));
        }
        match house.joined().await {
            Ok(()) => Ok(house),
            Err(failure) => {
                house.stop().await?;
                Err(failure)
            }
        }
    }

    async fn joined(&self) -> Result<(), Failure> {
        for _ in 0..200 {
            let agents = self.client.overview().await?.agents;
            if agents.iter().filter(|agent| agent.connected).count() == CARDS.len() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Failure::new("unavailable", "the demo's agents did not join within 10 s"))
    }

    /// The agents, smallest card first.
    pub(super) async fn agents(&self) -> Result<Vec<AgentView>, Failure> {
        let mut agents = self.client.overview().await?.agents;
        agents.sort_by_key(|agent| agent.offer.card.vram_bytes_total);
        Ok(agents)
    }

    /// Ends everything: agents first, whose trainers end with them.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        let mut ended = Ok(());
        let stops = self.agents.into_iter().map(|agent| tokio::spawn(agent.stop()));
        for stop in stops.collect::<Vec<_>>() {
            let stopped = stop.await.unwrap_or(Ok(()));
            ended = ended.and(stopped);
        }
        ended.and(self.coordinator.stop().await)
    }
}

fn agent(
    name: &str,
    card: &str,
    bytes: u64,
    address: &str,
    folder: &Path,
) -> Result<fleetune_agent::Settings, Failure> {
    let io = |error| Failure::new("io", format!("this program's own path: {error}"));
    let name = AgentName::try_from(name.to_owned())
        .map_err(|error| Failure::new("internal", error.to_string()))?;
    let folder = folder.join(name.as_str());
    let settings = fleetune_agent::Settings::new(name, address.to_owned(), folder).map_err(io)?;
    Ok(fleetune_agent::Settings {
        card: CardSettings {
            device: DeviceChoice::Cpu,
            vram: Some(ByteSize(bytes)),
            name: Some(card.to_owned()),
            ..CardSettings::default()
        },
        stop_grace: Duration::from_secs(2),
        ..settings
    })
}
