//! GPUs that are divided into MIG instances, through the real `nvml-wrapper`: each instance is a card of its own.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use fleetune_agent::CardSettings;
use fleetune_agent::probe::{Look, Probe, ProbeError};
use fleetune_shared::{ByteSize, Card, Device, Telemetry, Throttle};
use fleetune_stub_nvml::{Answers, CardAnswer, Stub};

const GIB: u64 = 1 << 30;
/// What the driver keeps of an instance for itself.
const RESERVED: u64 = 16 << 20;

/// A divided card, and a whole one.
fn machine(divided: CardAnswer) -> Answers {
    let whole = CardAnswer { uuid: "GPU-2".into(), ..CardAnswer::rtx_3090() };
    Answers { cards: vec![divided, whole], ..Answers::default() }
}

/// The divided card with instances that were changed.
fn changed(change: impl Fn(&mut Vec<CardAnswer>)) -> CardAnswer {
    let mut card = CardAnswer::a100_divided();
    card.instances.iter_mut().for_each(change);
    card
}

fn look(probe: &mut Probe) -> Look {
    probe.look(&BTreeSet::new())
}

/// One story, because the answers belong to the whole process.
#[test]
fn an_instance_of_a_divided_gpu_is_a_card_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let stub = Stub::install(folder.path(), &machine(CardAnswer::a100_divided())).unwrap();
    let library = fleetune_stub_nvml::library().unwrap();
    let open = |gpu: &str| -> Result<Probe, ProbeError> {
        let settings = CardSettings { gpu: gpu.parse().unwrap(), ..CardSettings::default() };
        Probe::open_with(&settings, Some(library.as_os_str()))
    };
    let refused = |gpu: &str| open(gpu).unwrap_err().to_string();

    // A choice of what is not there is told what is.
    let parts = "0:0 (NVIDIA A100-PCIE-40GB MIG 3g.20gb, 19.50 GiB), 0:1 (NVIDIA A100-PCIE-40GB MIG 1g.5gb, 4.75 GiB)";
    for whole in ["0", "GPU-1"] {
        assert_eq!(
            refused(whole),
            format!(
                "gpu 0 is divided into MIG instances, and each of them takes an agent of its own; choose one with \
                 --gpu: {parts}"
            )
        );
    }
    assert_eq!(
        refused("0:2"),
        format!("--gpu 0:2: gpu 0 has no such MIG instance; choose one with --gpu: {parts}")
    );
    assert_eq!(
        refused("1:0"),
        "--gpu 1:0: gpu 1 is not divided into MIG instances; --gpu 1 lends it whole"
    );
    assert_eq!(refused("2:0"), "gpu 2: the driver knows 2, counted from 0; choose one with --gpu");
    assert_eq!(
        refused("MIG-7"),
        "--gpu MIG-7: the driver knows none of that name; it knows 0:0 (MIG-0), 0:1 (MIG-1), 1 (GPU-2)"
    );
    assert_eq!(look(&mut open("GPU-2").unwrap()).offer.card.vram_bytes_total, ByteSize(24 * GIB));

    // A number may be vacant, and a GPU in MIG mode may have no instance yet.
    stub.answer(&machine(changed(|instances| instances[0].error = 6))).unwrap();
    assert!(refused("0:0").ends_with("--gpu: 0:1 (NVIDIA A100-PCIE-40GB MIG 1g.5gb, 4.75 GiB)"));
    stub.answer(&machine(changed(Vec::clear))).unwrap();
    for gpu in ["0", "0:1"] {
        let error = refused(gpu);
        assert!(error.starts_with("gpu 0 is in MIG mode and has no instances: "), "{error}");
    }

    // Its name, its size and its own share of use; the compute capability is the GPU's.
    stub.answer(&machine(CardAnswer::a100_divided())).unwrap();
    let (mut large, mut small) = (open("0:0").unwrap(), open("MIG-1").unwrap());
    let seen = look(&mut small);
    let card = Card {
        name: "NVIDIA A100-PCIE-40GB MIG 1g.5gb".into(),
        vram_bytes_total: ByteSize(19 * GIB / 4),
        compute_capability: Some((8, 0)),
        device: Device::Cpu,
    };
    assert_eq!((seen.offer.card, seen.offer.vram_bytes_foreign), (card, ByteSize(RESERVED)));
    assert_eq!(look(&mut large).offer.card.vram_bytes_total, ByteSize(39 * GIB / 2));

    // A stranger on one instance is none on the other.
    let nobody = 4_190_002;
    let busy = |instances: &mut Vec<CardAnswer>| {
        instances[0] = instances[0].clone().with("/opt/conda/bin/python", nobody, 6 * GIB);
    };
    stub.answer(&machine(changed(busy))).unwrap();
    let (on_large, on_small) = (look(&mut large), look(&mut small));
    assert_eq!(on_large.offer.vram_bytes_foreign, ByteSize(6 * GIB + RESERVED));
    let sight = on_large.sight.unwrap();
    let names: Vec<_> = sight.strangers.iter().map(|s| (s.name.as_deref(), s.vram_bytes)).collect();
    assert_eq!(names, [(Some("python"), Some(ByteSize(6 * GIB)))]);
    assert_eq!(on_small.offer.vram_bytes_foreign, ByteSize(RESERVED));
    let sight = on_small.sight.unwrap();
    assert!(sight.strangers.is_empty() && sight.tells_strangers);

    // Heat, power and errors are the GPU's; its load no driver tells.
    let hot = CardAnswer {
        celsius: Some(91),
        milliwatts: Some(250_000),
        throttle: 32,
        ..CardAnswer::a100_divided()
    };
    stub.answer(&machine(hot.clone())).unwrap();
    let telemetry = Telemetry {
        utilization_percent: None,
        celsius: Some(91),
        milliwatts: Some(250_000),
        throttled: vec![Throttle::Heat],
    };
    for probe in [&mut large, &mut small] {
        let sight = look(probe).sight.unwrap();
        assert_eq!(sight.telemetry.as_ref(), Some(&telemetry));
        assert_eq!((sight.celsius_slowdown, sight.load_percent), (Some(98), None));
    }
    stub.answer(&machine(CardAnswer { xid: Some(48), ..hot })).unwrap();
    let told = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        [&mut large, &mut small].map(|probe| look(probe).sight.unwrap().xid) == [Some(48); 2]
    });
    assert!(told);

    // One that is taken away is lost to its agent alone, and is found again by its name.
    stub.answer(&machine(changed(|instances| drop(instances.remove(0))))).unwrap();
    assert!(look(&mut large).sight.is_err());
    assert_eq!(look(&mut small).offer.vram_bytes_foreign, ByteSize(RESERVED));
    stub.answer(&machine(CardAnswer::a100_divided())).unwrap();
    assert!(look(&mut large).sight.is_ok());
}
