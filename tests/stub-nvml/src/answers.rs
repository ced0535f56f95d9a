//! What the stub says, as the JSON file holds it.

use serde::{Deserialize, Serialize};

/// What the file holds: answers, or scenes that follow each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Script {
    /// In the order of their times.
    Scenes(Vec<Scene>),
    /// The same all the time.
    Always(Answers),
}

/// Answers from a moment on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Scene {
    /// So long after the file was written.
    pub after_ms: u64,
    /// What is said from then on.
    #[serde(flatten)]
    pub answers: Answers,
}

impl Script {
    /// The answers so long after the file was written: none before the first scene.
    #[must_use]
    pub fn at(self, elapsed_ms: u64) -> Answers {
        match self {
            Self::Always(answers) => answers,
            Self::Scenes(scenes) => {
                let mut begun = scenes.into_iter().filter(|scene| scene.after_ms <= elapsed_ms);
                begun.next_back().map(|scene| scene.answers).unwrap_or_default()
            }
        }
    }
}

/// The whole machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Answers {
    /// Returned by every call instead of an answer: 9 is a driver that is not loaded.
    pub error: u32,
    /// The cards.
    pub cards: Vec<CardAnswer>,
}

/// One card.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CardAnswer {
    /// Such as `NVIDIA GeForce RTX 3080`.
    pub name: String,
    /// Such as `GPU-1`.
    pub uuid: String,
    /// All its memory, in bytes.
    pub total: u64,
    /// Memory the driver keeps for itself, in bytes.
    pub reserved: u64,
    /// Memory in use, in bytes.
    pub used: u64,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Who computes on it.
    pub processes: Vec<ProcessAnswer>,
    /// Who draws on it.
    pub graphics: Vec<ProcessAnswer>,
    /// Returned instead of the two lists: 4 is no permission.
    pub processes_error: u32,
    /// Part of its time it computes, in percent; each process has a part of its own.
    pub utilization: u32,
    /// How hot it is, in °C.
    pub celsius: Option<u32>,
    /// What it draws, in milliwatts.
    pub milliwatts: Option<u32>,
    /// Why it is slowed down, as NVIDIA's bits: 32 is heat.
    pub throttle: u64,
    /// Where it is throttled, in °C.
    pub celsius_slowdown: Option<u32>,
    /// An error to be told of, by NVIDIA's number.
    pub xid: Option<u64>,
    /// The MIG instances it is divided into: each answers for its name, UUID, memory and processes, the card for the
    /// rest. One with the error 6 is a number that is vacant.
    pub instances: Option<Vec<Self>>,
    /// Returned by every call for this card instead of an answer: 15 is a card that fell off the bus.
    pub error: u32,
}

const GIB: u64 = 1 << 30;

impl CardAnswer {
    /// A gamer's card of 10 GiB.
    #[must_use]
    pub fn rtx_3080() -> Self {
        Self::of("NVIDIA GeForce RTX 3080", 10 * GIB, (8, 6))
    }

    /// A workstation's card of 20 GiB.
    #[must_use]
    pub fn rtx_4000_ada() -> Self {
        Self::of("NVIDIA RTX 4000 Ada Generation", 20 * GIB, (8, 9))
    }

    /// A gamer's card of 24 GiB.
    #[must_use]
    pub fn rtx_3090() -> Self {
        Self::of("NVIDIA GeForce RTX 3090", 24 * GIB, (8, 6))
    }

    /// A server's card of 40 GiB, divided into instances of 19.5 and of 4.75 GiB.
    #[must_use]
    pub fn a100_divided() -> Self {
        let whole = Self::of("NVIDIA A100-PCIE-40GB", 40 * GIB, (8, 0));
        let instance = |number: u32, profile: &str, total| Self {
            name: format!("{} MIG {profile}", whole.name),
            uuid: format!("MIG-{number}"),
            total,
            reserved: 16 << 20,
            ..Self::default()
        };
        let instances =
            vec![instance(0, "3g.20gb", 39 * (GIB / 2)), instance(1, "1g.5gb", 19 * (GIB / 4))];
        Self { instances: Some(instances), ..whole }
    }

    fn of(name: &str, total: u64, compute: (i32, i32)) -> Self {
        Self {
            name: name.into(),
            uuid: "GPU-1".into(),
            total,
            reserved: 1 << 28,
            compute,
            celsius: Some(45),
            milliwatts: Some(30_000),
            celsius_slowdown: Some(98),
            ..Self::default()
        }
    }

    /// The same with a program that computes on it.
    #[must_use]
    pub fn with(mut self, name: &str, pid: u32, used: u64) -> Self {
        self.used += used;
        self.processes.push(ProcessAnswer {
            pid,
            used: Some(used),
            name: name.into(),
            ..ProcessAnswer::default()
        });
        self
    }

    /// The same with whatever trainers the asking agent has, each of which holds so much.
    #[must_use]
    pub fn with_trainers(mut self, used: u64) -> Self {
        self.used += used;
        self.processes.push(ProcessAnswer {
            trainer: true,
            used: Some(used),
            ..ProcessAnswer::default()
        });
        self
    }
}

/// One process on a card.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessAnswer {
    /// Its number.
    pub pid: u32,
    /// Whether it is each child of the process that asks, an agent's trainers, instead of the one with that number.
    pub trainer: bool,
    /// What it holds, in bytes, where the driver can tell.
    pub used: Option<u64>,
    /// Its program, such as `/usr/bin/blender`.
    pub name: String,
    /// Part of the card's time it computes, in percent.
    pub utilization: u32,
}
