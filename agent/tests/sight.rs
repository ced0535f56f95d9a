//! What the probe sees of strangers, heat, load and errors, through the real `nvml-wrapper`, on several cards.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use fleetune_agent::CardSettings;
use fleetune_agent::probe::{Probe, Sight};
use fleetune_shared::{ByteSize, Telemetry, Throttle};
use fleetune_stub_nvml::{Answers, CardAnswer, ProcessAnswer, Stub};

const GIB: u64 = 1 << 30;

fn machine(card: CardAnswer) -> Answers {
    Answers { cards: vec![card], ..Answers::default() }
}

fn see(probe: &mut Probe) -> Sight {
    probe.look(&BTreeSet::new()).sight.unwrap()
}

/// One story, because the answers belong to the whole process.
#[test]
fn a_driver_tells_who_is_there_how_hot_it_is_and_what_went_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let stub = Stub::install(folder.path(), &machine(CardAnswer::rtx_4000_ada())).unwrap();
    let library = fleetune_stub_nvml::library().unwrap();
    // A workstation's card that rests: the driver's own share is all that is in use.
    let mut probe = Probe::open_with(&CardSettings::default(), Some(library.as_os_str())).unwrap();
    let rests = see(&mut probe);
    assert_eq!(rests.vram_bytes_foreign, Some(ByteSize(1 << 28)));
    assert!(rests.strangers.is_empty() && rests.tells_strangers && rests.xid.is_none());
    assert_eq!(rests.celsius_slowdown, Some(98));
    let telemetry = Telemetry {
        utilization_percent: Some(0),
        celsius: Some(45),
        milliwatts: Some(30_000),
        throttled: Vec::new(),
    };
    assert_eq!(rests.telemetry, Some(telemetry));

    // Somebody renders and draws: two lists of processes, one of them in both, names as the driver has them.
    let nobody = 4_190_001;
    let mut card = CardAnswer::rtx_3090().with("/opt/blender/blender", nobody, 6 * GIB);
    card.graphics = card.processes.clone();
    let name = "/usr/lib/xorg/Xorg".into();
    card.graphics.push(ProcessAnswer {
        pid: nobody + 1,
        used: Some(GIB),
        name,
        utilization: 0,
        trainer: false,
    });
    let card = CardAnswer {
        used: 7 * GIB,
        utilization: 93,
        celsius: Some(84),
        milliwatts: Some(349_999),
        throttle: 32 | 4,
        ..card
    };
    stub.answer(&machine(card.clone())).unwrap();
    let busy = see(&mut probe);
    let seen: Vec<_> =
        busy.strangers.iter().map(|s| (s.name.as_deref().unwrap(), s.vram_bytes)).collect();
    assert_eq!(seen, [("blender", Some(ByteSize(6 * GIB))), ("Xorg", Some(ByteSize(GIB)))]);
    assert_eq!(busy.load_percent, Some(93));
    assert_eq!(busy.telemetry.unwrap().throttled, [Throttle::Power, Throttle::Heat]);

    // No permission for the lists: how much is held, and not by whom.
    stub.answer(&machine(CardAnswer { processes_error: 4, ..card.clone() })).unwrap();
    let hidden = see(&mut probe);
    assert!(hidden.strangers.is_empty() && !hidden.tells_strangers);
    assert_eq!(hidden.vram_bytes_foreign, Some(ByteSize(7 * GIB + (1 << 28))));

    // A program's own error is none of the card's; an error of its memory is, and comes as an event.
    stub.answer(&machine(CardAnswer { xid: Some(31), ..card.clone() })).unwrap();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(see(&mut probe).xid, None);
    stub.answer(&machine(CardAnswer { xid: Some(48), ..card.clone() })).unwrap();
    let told = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        see(&mut probe).xid == Some(48)
    });
    assert!(told);

    // A card that is lost says so.
    stub.answer(&machine(CardAnswer { error: 15, ..card })).unwrap();
    let error = probe.look(&BTreeSet::new()).sight.unwrap_err();
    assert!(error.contains("fell off the bus"), "{error}");
}
