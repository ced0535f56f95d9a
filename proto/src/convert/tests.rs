//! Every value survives the wire, and what says nothing sensible is refused by field.

use std::collections::BTreeMap;

use fleetune_shared::recipe::CheckpointingLevel;
use fleetune_shared::view::{
    AgentHistory, AgentView, CardVerdict, CorrectionView, Explanation, FailureView, FleetView,
    HistoryView, JobPhase, JobView, RungKind, RungView, Verdict,
};
use fleetune_shared::{
    Accuracy, Artifact, ArtifactFile, ArtifactKind, AsRun, Attempt, AttemptEnd, AttemptRecord,
    Availability, BatchChange, BestEvaluation, BlobHash, ByteSize, Card, CardFamily, Device,
    Estimate, FailureKind, FileName, Input, InputRole, JobId, JobSpec, Lineage, MergeSpec,
    ModelSpec, Offer, OwnerSign, PeakSource, Ratio, Recipe, StepMetrics, Telemetry, Throttle,
    TrainSummary, Work,
};
use prost::Message;

use super::ConvertError;
use crate::v1;

/// Through bytes, as a peer would get it.
fn travelled<W, T>(value: T) -> T
where
    W: Message + Default + From<T>,
    T: TryFrom<W, Error = ConvertError>,
{
    let bytes = W::from(value).encode_to_vec();
    T::try_from(W::decode(&bytes[..]).unwrap()).unwrap()
}

fn hash(seed: u8) -> BlobHash {
    BlobHash([seed; 32])
}

fn file(name: &str, seed: u8) -> ArtifactFile {
    let name = FileName::try_from(name.to_owned()).unwrap();
    ArtifactFile { name, blob: hash(seed), bytes: ByteSize(u64::from(seed)) }
}

fn card() -> Card {
    Card {
        name: "RTX 3080".into(),
        vram_bytes_total: ByteSize(10 << 30),
        compute_capability: Some((8, 6)),
        device: Device::Cuda,
    }
}

fn estimate() -> Estimate {
    let [weights, adapter, gradients, optimizer, activations, logits, workspace, runtime] =
        [1, 2, 3, 4, 5, 6, 7, 8].map(ByteSize);
    Estimate { weights, adapter, gradients, optimizer, activations, logits, workspace, runtime }
}

fn metrics() -> StepMetrics {
    StepMetrics {
        step: 3,
        loss: 1.25,
        grad_norm: 0.5,
        learning_rate: 2e-4,
        supervised_tokens: 99,
        tokens_per_second: 1234.5,
        epoch: 0.75,
        more: BTreeMap::from([("eval_loss".into(), 1.5)]),
    }
}

fn spec() -> JobSpec {
    let recipe = "model_name_or_path: base\ndataset_name: [a.jsonl, b.jsonl]\nr: 16";
    JobSpec {
        name: "trial".into(),
        priority: -3,
        user: "ann".into(),
        sweep: Some("ranks".into()),
        sweep_keys: BTreeMap::from([("r".into(), "16".into())]),
        work: Work::Train { recipe: Box::new(Recipe::read(recipe).unwrap()) },
        inputs: vec![
            Input { role: InputRole::Model, file: file("config.json", 1) },
            Input { role: InputRole::Data, file: file("a.jsonl", 2) },
        ],
        model: ModelSpec::from_hf_config(
            r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,
            "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":512,
            "max_position_embeddings":512,"rms_norm_eps":1e-5}"#,
        )
        .unwrap(),
        estimates: BTreeMap::from([(Device::Cpu, estimate()), (Device::Cuda, estimate())]),
    }
}

fn job() -> JobView {
    JobView {
        id: JobId(7),
        name: "trial".into(),
        kind: "train".into(),
        priority: 2,
        sweep: Some("ranks".into()),
        sweep_keys: BTreeMap::from([("r".into(), "16".into())]),
        phase: JobPhase::Running,
        attempt: Attempt(2),
        agent: Some("bench-3".parse().unwrap()),
        estimate: estimate(),
        submitted_ms: 1,
        started_ms: Some(2),
        ended_ms: Some(3),
        steps_total: Some(20),
        latest: Some(metrics()),
        checkpoint_step: Some(2),
        summary: Some(TrainSummary {
            steps: 20,
            estimate: Some(estimate()),
            eval_loss_last: Some(1.5),
            best: Some(BestEvaluation { step: 9, metric: "eval_loss".into(), value: 1.25 }),
            merge_logit_difference: Some(1e-6),
            as_run: Some(AsRun { rows: 4, tokens: 400, estimate: estimate() }),
            ..TrainSummary::default()
        }),
        artifact: Some(Artifact {
            kind: ArtifactKind::Adapter,
            step: 20,
            files: vec![file("adapter_config.json", 3)],
        }),
        lineage: Some(Lineage {
            job: JobId(7),
            recipe: hash(4),
            base: vec![hash(5), hash(6)],
            data: vec![hash(7)],
            parents: vec![JobId(1)],
        }),
        failure: Some(FailureView {
            kind: Some(FailureKind::Diverged),
            message: "loss is NaN".into(),
            attempt: Attempt(1),
        }),
        attempts: vec![AttemptRecord {
            attempt: Attempt(1),
            agent: "bench-3".parse().unwrap(),
            family: CardFamily::of(&card()),
            began_ms: 4,
            ended_ms: 5,
            end: AttemptEnd::OutOfMemory,
            vram_bytes_estimated: ByteSize(6),
            correction: Ratio(10_100),
            vram_bytes_promised: ByteSize(7),
            vram_bytes_as_run: Some(ByteSize(8)),
            vram_bytes_peak: None,
            peak_source: PeakSource::Driver,
        }],
        rung: Some(rung()),
        waiting: Some("behind job 3".into()),
        expected_start_ms: Some(9),
        recipe_json: "{}".into(),
        inputs: spec().inputs,
        model: spec().model,
    }
}

fn agent() -> AgentView {
    AgentView {
        name: "bench-3".parse().unwrap(),
        connected: true,
        draining: false,
        offer: Offer {
            vram_bytes_foreign: ByteSize(5),
            max_jobs_per_card: Some(2),
            labels: ["night".to_owned()].into(),
            blobs_cached: [hash(8)].into(),
            share: Some("desk-3:7071".into()),
            availability: Availability::Paused,
            ..Offer::of(card())
        },
        telemetry: Some(Telemetry {
            utilization_percent: Some(97),
            celsius: Some(61),
            milliwatts: None,
            throttled: vec![Throttle::Power, Throttle::PowerBrake],
        }),
        vram_bytes_reserved: ByteSize(6),
        vram_bytes_open: ByteSize(7),
        jobs: vec![JobId(7)],
        accuracy: accuracy(),
    }
}

fn rung() -> RungView {
    let checkpointing = CheckpointingLevel::Block;
    RungView {
        kind: RungKind::MoreCheckpointing,
        change: Some(BatchChange { micro_batch: 2, accumulation: 8, checkpointing }),
        vram_bytes_least: ByteSize(9),
    }
}

fn accuracy() -> Accuracy {
    Accuracy {
        attempts: 1,
        out_of_memory: 2,
        compared: 3,
        error_median: Some(Ratio(4)),
        error_p90: Some(Ratio(5)),
        wasted_mib_s: 6,
    }
}

#[test]
fn a_spec_survives_the_wire() {
    assert_eq!(travelled::<v1::JobSpec, _>(spec()), spec());
    let merge = JobSpec { work: Work::Merge(MergeSpec { adapter_of: Some(JobId(4)) }), ..spec() };
    assert_eq!(travelled::<v1::JobSpec, _>(merge.clone()), merge);
}

#[test]
fn views_survive_the_wire() {
    let fleet = FleetView { agents: vec![agent()], jobs: vec![job()] };
    assert_eq!(travelled::<v1::Overview, _>(fleet.clone()), fleet);
    let history = HistoryView {
        fleet: accuracy(),
        agents: vec![AgentHistory { agent: "bench-3".parse().unwrap(), accuracy: accuracy() }],
        corrections: vec![CorrectionView {
            family: CardFamily::of(&card()),
            method: "lora".into(),
            dtype: "bfloat16".into(),
            attention: "full".into(),
            tokens_max: 512,
            peak_source: PeakSource::Driver,
            samples: 9,
            ratio_median: Ratio(1),
            ratio_most: Ratio(2),
            correction: Ratio(3),
        }],
    };
    assert_eq!(travelled::<v1::HistoryReply, _>(history.clone()), history);
    let lost = FailureView { kind: None, message: "lost".into(), attempt: Attempt(1) };
    assert_eq!(travelled::<v1::Failure, _>(lost.clone()), lost);
    let explanation = Explanation {
        summary: "waits".into(),
        estimate: estimate(),
        ahead: vec![JobId(3)],
        cards: vec![CardVerdict {
            agent: "bench-3".parse().unwrap(),
            card: card(),
            vram_bytes_needed: ByteSize(1),
            vram_bytes_reserved: ByteSize(2),
            vram_bytes_foreign: ByteSize(3),
            vram_bytes_margin: ByteSize(4),
            vram_bytes_open: ByteSize(5),
            jobs: 6,
            jobs_max: 7,
            verdict: Verdict::Busy,
            lacks: Some("lacks the label night".into()),
        }],
        hint: Some("lower max_length".into()),
        expected_start_ms: Some(8),
        start_note: Some("sooner if job 3 ends".into()),
        rung: Some(rung()),
    };
    assert_eq!(travelled::<v1::Explanation, _>(explanation.clone()), explanation);
}

#[test]
fn every_reason_to_be_closed_survives_the_wire() {
    let programs =
        OwnerSign::Programs { name: Some("blender".into()), count: 2, vram_bytes: ByteSize(7) };
    let nameless = OwnerSign::Programs { name: None, count: 1, vram_bytes: ByteSize(7) };
    let owner = |sign, opens_ms| Availability::Owner { sign, opens_ms };
    let all = [
        Availability::Open,
        owner(programs, None),
        owner(nameless, Some(3)),
        owner(OwnerSign::Load { percent: 40 }, None),
        owner(OwnerSign::Input, Some(4)),
        Availability::OffHours { hours: "Sat-Sun".into(), opens_ms: Some(5) },
        Availability::TooHot { celsius: 87, celsius_max: 85 },
        Availability::DriverError { xid: 79 },
        Availability::Gone { error: "lost".into() },
        Availability::Paused,
    ];
    for availability in all {
        assert_eq!(travelled::<v1::Availability, _>(availability.clone()), availability);
    }
    // An older agent says nothing of it.
    let older = v1::Offer { availability: None, ..Offer::of(card()).into() };
    assert_eq!(Offer::try_from(older).unwrap().availability, Availability::Open);
    let painted = v1::OffHours { hours: "\u{1b}[2J".into(), opens_ms: None };
    let closed = v1::Availability { closed: Some(v1::availability::Closed::OffHours(painted)) };
    let error = Availability::try_from(closed).unwrap_err().to_string();
    assert_eq!(error, "field `hours` holds control characters");
}

fn refusal(change: impl FnOnce(&mut v1::Job)) -> String {
    let mut wire = v1::Job::from(job());
    change(&mut wire);
    JobView::try_from(wire).unwrap_err().to_string()
}

#[test]
fn nonsense_is_refused_by_field() {
    assert_eq!(refusal(|j| j.phase = 0), "field `phase` is unspecified");
    assert_eq!(refusal(|j| j.phase = 99), "field `phase` is 99, which no value has");
    assert_eq!(refusal(|j| j.estimate = None), "field `estimate` is missing");
    assert_eq!(
        refusal(|j| j.artifact.as_mut().unwrap().files[0].blob = vec![1; 31]),
        "field `artifact.files[0].blob` has 31 bytes, expected 32"
    );
    let way_out = refusal(|j| j.artifact.as_mut().unwrap().files[0].name = "../x".into());
    assert!(way_out.starts_with("field `artifact.files[0].name` is refused: `../x`"), "{way_out}");
    let huge = refusal(|j| j.estimate.as_mut().unwrap().logits = u64::MAX);
    assert!(huge.starts_with("field `estimate` has a piece"), "{huge}");
}

#[test]
fn a_recipe_is_validated_again_by_whoever_receives_it() {
    let refused = |json: &str| {
        let work = Some(v1::job_spec::Work::RecipeJson(json.into()));
        JobSpec::try_from(v1::JobSpec { work, ..spec().into() }).unwrap_err().to_string()
    };
    assert!(refused("{\"r\": 0}").starts_with("field `recipe_json` is refused: recipe: "));
    assert!(refused("not json").starts_with("field `recipe_json` is refused: recipe: "));
    let nameless = v1::JobSpec { name: "a\u{1b}[2J".into(), ..spec().into() };
    let error = JobSpec::try_from(nameless).unwrap_err();
    assert_eq!(error.to_string(), "field `name` holds control characters");
}

#[test]
fn a_shape_beyond_any_model_is_refused() {
    let refused = |change: fn(&mut ModelSpec)| {
        let mut spec = spec();
        change(&mut spec.model);
        JobSpec::try_from(v1::JobSpec::from(spec)).unwrap_err().to_string()
    };
    assert_eq!(
        refused(|m| m.num_hidden_layers = 5000),
        "field `model_json` has num_hidden_layers 5000, expected 1 to 4096"
    );
    assert!(refused(|m| m.num_key_value_heads = 0).contains("num_key_value_heads 0"));
    let json = v1::JobSpec { model_json: "{}".into(), ..spec().into() };
    let error = JobSpec::try_from(json).unwrap_err().to_string();
    assert!(error.starts_with("field `model_json` is no model shape"), "{error}");
}
