//! A small fleet in which everything happens at once.

use std::collections::BTreeMap;

use fleetune_shared::recipe::CheckpointingLevel;
use fleetune_shared::view::{
    AgentHistory, AgentView, CardVerdict, CorrectionView, Explanation, FailureView, HistoryView,
    JobPhase, JobView, RungKind, RungView, Verdict,
};
use fleetune_shared::{
    Accuracy, Artifact, ArtifactFile, ArtifactKind, Attempt, AttemptEnd, AttemptRecord,
    Availability, BatchChange, BlobHash, ByteSize, Card, CardFamily, Device, Estimate, FailureKind,
    FileName, JobId, Lineage, ModelSpec, Offer, OwnerSign, PeakSource, Ratio, StepMetrics,
    Telemetry, Throttle, TrainSummary,
};

/// The moment the snapshots show, 2026-03-01T10:30:00Z.
pub(crate) const NOW: u64 = 1_772_361_000_000;

pub(crate) fn card(gib: u64) -> Card {
    Card {
        name: format!("Card {gib}"),
        vram_bytes_total: ByteSize(gib << 30),
        compute_capability: Some((8, 6)),
        device: Device::Cuda,
    }
}

pub(crate) fn estimate() -> Estimate {
    Estimate {
        weights: ByteSize(5 << 30),
        adapter: ByteSize(40 << 20),
        gradients: ByteSize(40 << 20),
        optimizer: ByteSize(80 << 20),
        activations: ByteSize(3 << 30),
        logits: ByteSize(200 << 20),
        workspace: ByteSize(512 << 20),
        runtime: ByteSize(640 << 20),
    }
}

pub(crate) fn lineage() -> Lineage {
    Lineage {
        job: JobId(3),
        recipe: BlobHash([0xab; 32]),
        base: vec![BlobHash([1; 32]), BlobHash([2; 32])],
        data: vec![BlobHash([3; 32])],
        parents: Vec::new(),
    }
}

fn metrics(step: u64, loss: f64) -> StepMetrics {
    StepMetrics {
        step,
        loss,
        grad_norm: 0.8,
        learning_rate: 2e-4,
        supervised_tokens: 400,
        tokens_per_second: 1234.5,
        epoch: 0.5,
        more: Default::default(),
    }
}

fn job(id: u64, phase: JobPhase) -> JobView {
    let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,
        "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":512,
        "max_position_embeddings":512,"rms_norm_eps":1e-5}"#;
    JobView {
        id: JobId(id),
        name: format!("tone-{id}"),
        kind: "train".into(),
        priority: 0,
        sweep: Some("tone".into()),
        sweep_keys: BTreeMap::from([("r".into(), (4 << id).to_string())]),
        phase,
        attempt: Attempt(1),
        agent: Some("bench-3".parse().unwrap()),
        estimate: estimate(),
        submitted_ms: NOW - 600_000,
        started_ms: Some(NOW - 500_000),
        ended_ms: None,
        steps_total: Some(120),
        latest: None,
        checkpoint_step: None,
        summary: None,
        artifact: None,
        lineage: None,
        failure: None,
        attempts: Vec::new(),
        rung: None,
        waiting: None,
        expected_start_ms: None,
        recipe_json: r#"{"name":"tone","r":8}"#.into(),
        inputs: Vec::new(),
        model: ModelSpec::from_hf_config(config).unwrap(),
    }
}

fn record(attempt: u32, end: AttemptEnd, peak_gib: u64) -> AttemptRecord {
    AttemptRecord {
        attempt: Attempt(attempt),
        agent: "bench-3".parse().unwrap(),
        family: CardFamily::of(&card(10)),
        began_ms: NOW - 500_000,
        ended_ms: NOW - 100_000,
        end,
        vram_bytes_estimated: estimate().total(),
        correction: Ratio(10_200),
        vram_bytes_promised: Ratio(10_200).times(estimate().total()),
        vram_bytes_as_run: Some(estimate().total()),
        vram_bytes_peak: Some(ByteSize(peak_gib << 30)),
        peak_source: PeakSource::Driver,
    }
}

fn rung() -> RungView {
    let checkpointing = CheckpointingLevel::Block;
    RungView {
        kind: RungKind::SmallerMicroBatch,
        change: Some(BatchChange { micro_batch: 4, accumulation: 2, checkpointing }),
        vram_bytes_least: estimate().total(),
    }
}

fn accuracy(out_of_memory: u64) -> Accuracy {
    Accuracy {
        attempts: 40,
        out_of_memory,
        compared: 38,
        error_median: Some(Ratio(180)),
        error_p90: Some(Ratio(620)),
        wasted_mib_s: 5 * 1024 * 3600,
    }
}

/// Two kinds of jobs, one of which takes more than it was estimated at.
pub(crate) fn history() -> HistoryView {
    let correction = |method: &str, ratio_median, ratio_most, correction| CorrectionView {
        family: CardFamily::of(&card(10)),
        method: method.into(),
        dtype: "bfloat16".into(),
        attention: "full".into(),
        tokens_max: 1024,
        peak_source: PeakSource::Trainer,
        samples: 24,
        ratio_median: Ratio(ratio_median),
        ratio_most: Ratio(ratio_most),
        correction: Ratio(correction),
    };
    HistoryView {
        fleet: accuracy(1),
        agents: vec![AgentHistory { agent: "bench-3".parse().unwrap(), accuracy: accuracy(1) }],
        corrections: vec![
            correction("full", 10_400, 10_900, 11_100),
            correction("lora", 9_400, 9_600, 9_800),
        ],
    }
}

/// One queued, one running, one succeeded, one failed.
pub(crate) fn jobs() -> Vec<JobView> {
    let queued = JobView {
        agent: None,
        attempt: Attempt(0),
        started_ms: None,
        steps_total: None,
        waiting: Some("needs 9.48 GiB; bench-3 has 1.10 GiB open".into()),
        expected_start_ms: Some(NOW + 12_000_000),
        ..job(1, JobPhase::Queued)
    };
    let running = JobView {
        latest: Some(metrics(40, 1.5)),
        checkpoint_step: Some(20),
        ..job(2, JobPhase::Running)
    };
    let file = |name: &str, bytes| ArtifactFile {
        name: FileName::try_from(name.to_owned()).unwrap(),
        blob: BlobHash([9; 32]),
        bytes: ByteSize(bytes),
    };
    let succeeded = JobView {
        ended_ms: Some(NOW - 100_000),
        latest: Some(metrics(120, 0.5)),
        summary: Some(TrainSummary {
            steps: 120,
            loss_first: 4.0,
            loss_last: 0.5,
            trainable_parameters: 1_843_200,
            tokens: 98_304,
            supervised_tokens: 48_000,
            rows: 200,
            rows_dropped: 1,
            rows_truncated: 2,
            seconds: 380.0,
            tokens_per_second: 258.7,
            seconds_to_first_step: 1.25,
            seconds_waited_for_data: 0.0,
            estimate: Some(estimate()),
            memory_bytes_peak: ByteSize(8 << 30),
            peak_source: PeakSource::Driver,
            as_run: None,
            eval_loss_last: None,
            best: None,
            merge_logit_difference: None,
        }),
        artifact: Some(Artifact {
            kind: ArtifactKind::Adapter,
            step: 120,
            files: vec![
                file("adapter_config.json", 700),
                file("adapter_model.safetensors", 5 << 20),
            ],
        }),
        lineage: Some(lineage()),
        attempt: Attempt(2),
        rung: Some(rung()),
        attempts: vec![record(1, AttemptEnd::OutOfMemory, 10), record(2, AttemptEnd::Finished, 8)],
        ..job(3, JobPhase::Succeeded)
    };
    let failed = JobView {
        ended_ms: Some(NOW - 490_000),
        failure: Some(FailureView {
            kind: Some(FailureKind::Input),
            message: "rows.jsonl: line 3: column 7: expected a value".into(),
            attempt: Attempt(1),
        }),
        ..job(4, JobPhase::Failed)
    };
    vec![queued, running, succeeded, failed]
}

pub(crate) fn agents() -> Vec<AgentView> {
    let agent = |name: &str, gib: u64, reserved: u64, jobs: Vec<JobId>| AgentView {
        name: name.parse().unwrap(),
        connected: true,
        draining: false,
        offer: Offer { vram_bytes_foreign: ByteSize(1 << 30), ..Offer::of(card(gib)) },
        telemetry: None,
        vram_bytes_reserved: ByteSize(reserved << 30),
        vram_bytes_open: ByteSize((gib - reserved - 1) << 30),
        jobs,
        accuracy: if reserved > 0 { accuracy(0) } else { Accuracy::default() },
    };
    let away = AgentView { connected: false, ..agent("attic", 12, 0, Vec::new()) };
    vec![agent("bench-3", 10, 8, vec![JobId(2)]), agent("bench-4", 24, 0, Vec::new()), away]
}

/// One for each reason to be closed.
pub(crate) fn closed_agents() -> Vec<AgentView> {
    let programs = |opens_ms| {
        let (name, vram_bytes) = (Some("blender".into()), ByteSize(6_549_825_126));
        let sign = OwnerSign::Programs { name, count: 1, vram_bytes };
        Availability::Owner { sign, opens_ms }
    };
    let reasons = [
        programs(None),
        programs(Some(NOW + 420_000)),
        Availability::Owner { sign: OwnerSign::Input, opens_ms: None },
        Availability::OffHours {
            hours: "Mon-Fri 19:00-08:00, Sat-Sun".into(),
            opens_ms: Some(NOW + 12_000_000),
        },
        Availability::TooHot { celsius: 87, celsius_max: 85 },
        Availability::DriverError { xid: 79 },
        Availability::Gone { error: "device fell off the bus".into() },
        Availability::Paused,
    ];
    let agent = |(number, availability): (u32, _)| {
        let mut agent = agents().remove(1);
        agent.name = format!("desk-{number}").parse().unwrap();
        agent.offer.availability = availability;
        agent.telemetry = Some(Telemetry {
            utilization_percent: Some(97),
            celsius: Some(80 + number),
            milliwatts: Some(219_500),
            throttled: if number == 5 { vec![Throttle::Heat] } else { Vec::new() },
        });
        agent
    };
    (1..).zip(reasons).map(agent).collect()
}

pub(crate) fn explanation() -> Explanation {
    let verdict = |agent: &str, gib: u64, open: u64, verdict| CardVerdict {
        agent: agent.parse().unwrap(),
        card: card(gib),
        vram_bytes_needed: estimate().total(),
        vram_bytes_reserved: ByteSize((gib - open) << 30),
        vram_bytes_foreign: ByteSize(0),
        vram_bytes_margin: card(gib).margin(),
        vram_bytes_open: ByteSize(open << 30),
        jobs: 1,
        jobs_max: 4,
        verdict,
        lacks: None,
    };
    Explanation {
        summary: "needs 9.48 GiB; bench-4 will have it once job 2 ends".into(),
        estimate: estimate(),
        ahead: vec![JobId(5)],
        cards: vec![
            verdict("bench-3", 8, 7, Verdict::TooSmall),
            verdict("bench-4", 24, 4, Verdict::Busy),
        ],
        hint: Some("set per_device_train_batch_size: 2 to fit bench-3".into()),
        expected_start_ms: Some(NOW + 3_600_000),
        start_note: Some("nobody can tell yet when 1 job will end: sooner if it ends first".into()),
        rung: Some(rung()),
    }
}
