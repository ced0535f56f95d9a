//! The probe through the real `nvml-wrapper`, against a library whose cards a file describes.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use fleetune_agent::probe::Probe;
use fleetune_agent::{CardSettings, DeviceChoice, GpuChoice};
use fleetune_shared::{ByteSize, Card, Device};
use fleetune_stub_nvml::{Answers, CardAnswer, ProcessAnswer, Stub};

const GIB: u64 = 1 << 30;

fn rtx_3080() -> CardAnswer {
    CardAnswer {
        name: "NVIDIA GeForce RTX 3080".into(),
        uuid: "GPU-1".into(),
        total: 10 * GIB,
        reserved: 1 << 28,
        compute: (8, 6),
        ..CardAnswer::default()
    }
}

fn card(device: DeviceChoice) -> CardSettings {
    CardSettings { device, ..CardSettings::default() }
}

/// One story, because the answers belong to the whole process.
#[test]
fn a_card_is_read_watched_and_lost() {
    let folder = tempfile::tempdir().unwrap();
    let other = CardAnswer { uuid: "GPU-0".into(), total: GIB, ..rtx_3080() };
    let machine = |card| Answers { cards: vec![other.clone(), card], ..Answers::default() };
    let stub = Stub::install(folder.path(), &machine(rtx_3080())).unwrap();
    let library = fleetune_stub_nvml::library().unwrap();
    let open = |settings: &CardSettings| Probe::open_with(settings, Some(library.as_os_str()));

    // Two GPUs, the second is ours.
    let second = CardSettings { gpu: GpuChoice::Index(1), ..card(DeviceChoice::Auto) };
    let mut probe = open(&second).unwrap();
    let trainers = BTreeSet::from([4711]);
    let offer = probe.look(&trainers).offer;
    assert_eq!(
        offer.card,
        Card {
            name: "NVIDIA GeForce RTX 3080".into(),
            vram_bytes_total: ByteSize(10 * GIB),
            compute_capability: Some((8, 6)),
            device: Device::Cpu,
        }
    );

    // The driver's own share is not ours to lend.
    let mut probe = open(&second).unwrap();
    assert_eq!(probe.look(&BTreeSet::new()).offer.vram_bytes_foreign, ByteSize(1 << 28));

    // A stranger moves in.
    stub.answer(&machine(CardAnswer {
        used: 3 * GIB,
        processes: vec![ProcessAnswer { pid: 1, used: Some(3 * GIB), ..ProcessAnswer::default() }],
        ..rtx_3080()
    }))
    .unwrap();
    let stranger = ByteSize(3 * GIB + (1 << 28));
    assert_eq!(probe.look(&BTreeSet::new()).offer.vram_bytes_foreign, stranger);

    // The other card falls off the bus and ours moves up: still ours is read.
    stub.answer(&Answers { cards: vec![rtx_3080()], ..Answers::default() }).unwrap();
    assert_eq!(probe.look(&BTreeSet::new()).offer.vram_bytes_foreign, ByteSize(1 << 28));

    // Our card falls off the bus: nothing is lent, nobody dies; and it comes back.
    stub.answer(&machine(CardAnswer { error: 15, ..rtx_3080() })).unwrap();
    assert_eq!(probe.look(&BTreeSet::new()).offer.vram_bytes_foreign, ByteSize(10 * GIB));
    stub.answer(&machine(rtx_3080())).unwrap();
    assert_eq!(probe.look(&BTreeSet::new()).offer.vram_bytes_foreign, ByteSize(1 << 28));

    // A third GPU was never there, and a driver may not be loaded.
    let third = CardSettings { gpu: GpuChoice::Index(2), ..card(DeviceChoice::Cpu) };
    assert_eq!(
        open(&third).unwrap_err().to_string(),
        "gpu 2: the driver knows 2, counted from 0; choose one with --gpu"
    );
    stub.answer(&Answers { error: 9, ..Answers::default() }).unwrap();
    let error = open(&second).unwrap_err().to_string();
    assert!(error.starts_with("no NVIDIA driver here: "), "{error}");
}

#[test]
fn a_declared_card_needs_no_driver() {
    let settings = CardSettings {
        vram: Some(ByteSize(10 * GIB)),
        name: Some("RTX 3080".into()),
        ..card(DeviceChoice::Cpu)
    };
    let nowhere = Some(OsStr::new("/nowhere/libnvidia-ml.so"));
    let mut probe = Probe::open_with(&settings, nowhere).unwrap();
    let offer = probe.look(&BTreeSet::new()).offer;
    assert_eq!(offer.card.name, "RTX 3080");
    assert_eq!(offer.card.vram_bytes_total, ByteSize(10 * GIB));
    assert_eq!(offer.card.device, Device::Cpu);
    assert_eq!(offer.vram_bytes_foreign, ByteSize(0));
    assert_eq!(probe.gpu_uuid(), None);
}

#[test]
fn a_machine_without_a_driver_is_told_what_to_do() {
    let nowhere = Some(OsStr::new("/nowhere/libnvidia-ml.so"));
    let error = Probe::open_with(&card(DeviceChoice::Auto), nowhere).unwrap_err().to_string();
    assert!(error.contains("/nowhere/libnvidia-ml.so"), "{error}");
    assert!(error.contains("--device cpu --vram 10GiB --card \"RTX 3080\""), "{error}");
}

#[test]
fn cuda_is_refused_while_no_trainer_can_use_it() {
    let error = Probe::open_with(&card(DeviceChoice::Cuda), None).unwrap_err().to_string();
    assert!(error.contains("docs/cuda.md"), "{error}");
}
