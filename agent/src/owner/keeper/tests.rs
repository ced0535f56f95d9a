//! Whole days in a table's time.

use std::time::Duration;

use fleetune_shared::Telemetry;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, ZonedDateTime};

use super::*;
use crate::owner::Signs;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A keeper and the clock on its wall.
struct Day {
    keeper: Keeper,
    now: ZonedDateTime,
}

impl Day {
    /// Monday, noon, an empty card, ten minutes until an owner counts as gone.
    fn new(change: impl FnOnce(&mut OwnerPolicy)) -> Self {
        let noon: DateTime = "2026-03-02T12:00".parse().unwrap();
        let mut policy = OwnerPolicy::default();
        change(&mut policy);
        Self { keeper: Keeper::new(policy), now: noon.to_zoned_datetime(TimeZone::UTC).unwrap() }
    }

    fn ms(&self) -> u64 {
        self.now.timestamp().as_millisecond().unsigned_abs()
    }

    /// After so many seconds: what is decided when this is seen.
    fn after(&mut self, seconds: i64, sight: &Sight) -> Availability {
        self.after_with(seconds, Ok(sight.clone()), None)
    }

    fn after_with(
        &mut self,
        seconds: i64,
        card: Result<Sight, String>,
        input_ms: Option<u64>,
    ) -> Availability {
        self.now += SignedDuration::from_secs(seconds);
        self.keeper.decide(&Seen { card, input_ms }, &self.now)
    }
}

/// A card with these programs on it, each of so many MiB.
fn card(programs: &[(u32, &str, u64)]) -> Sight {
    let stranger = |(pid, name, mib): &(u32, &str, u64)| Stranger {
        pid: *pid,
        name: Some((*name).to_owned()),
        vram_bytes: Some(ByteSize(mib * MIB)),
    };
    Sight {
        vram_bytes_foreign: Some(ByteSize(programs.iter().map(|p| p.2 * MIB).sum())),
        strangers: programs.iter().map(stranger).collect(),
        tells_strangers: true,
        ..Sight::default()
    }
}

fn programs(name: &str, count: u32, mib: u64, opens_ms: Option<u64>) -> Availability {
    let vram_bytes = ByteSize(mib * MIB);
    let sign = OwnerSign::Programs { name: Some(name.into()), count, vram_bytes };
    Availability::Owner { sign, opens_ms }
}

#[test]
fn a_card_closes_at_once_and_opens_once_it_was_idle_long_enough() {
    let mut day = Day::new(|_| {});
    let (empty, blender) = (card(&[]), card(&[(7, "blender", 6 * 1024)]));
    assert_eq!(day.after(0, &empty), Availability::Open);
    let in_use = programs("blender", 1, 6 * 1024, None);
    assert_eq!(day.after(1, &blender), in_use);
    let opens_ms = day.ms() + 600_000;
    // A pause between two renderings is no absence, and not worth a word.
    assert_eq!(day.after(30, &empty), in_use);
    assert_eq!(day.after(31, &empty), programs("blender", 1, 6 * 1024, Some(opens_ms)));
    assert_eq!(day.after(538, &empty), programs("blender", 1, 6 * 1024, Some(opens_ms)));
    assert_eq!(day.after(1, &empty), Availability::Open);
}

#[test]
fn numbers_that_hardly_change_are_told_once() {
    let mut day = Day::new(|_| {});
    let said = day.after(0, &card(&[(7, "blender", 4000)]));
    assert_eq!(day.after(1, &card(&[(7, "blender", 4200)])), said);
    assert_eq!(day.after(1, &card(&[(7, "blender", 4300)])), programs("blender", 1, 4300, None));
    let two = card(&[(7, "blender", 4300), (8, "game", 5000)]);
    assert_eq!(day.after(1, &two), programs("game", 2, 9300, None));
}

#[test]
fn a_desktop_is_furniture_until_it_grows() {
    let mut day = Day::new(|_| {});
    let desktop = card(&[(1, "Xorg", 700), (2, "gnome-shell", 400)]);
    assert_eq!(day.after(0, &desktop), Availability::Open);
    assert_eq!(
        day.after(1, &card(&[(1, "Xorg", 1200), (2, "gnome-shell", 400)])),
        Availability::Open
    );
    let grown = card(&[(1, "Xorg", 1300), (2, "gnome-shell", 400)]);
    assert_eq!(day.after(1, &grown), programs("Xorg", 1, 1300, None));
    // Another process with a number that furniture once had is not furniture.
    let mut day = Day::new(|_| {});
    day.after(0, &desktop);
    day.after(1, &card(&[]));
    assert_eq!(day.after(1, &card(&[(1, "game", 700)])), programs("game", 1, 700, None));
}

#[test]
fn somebody_at_work_when_the_agent_begins_is_no_furniture() {
    let mut day = Day::new(|_| {});
    assert_eq!(day.after(0, &card(&[(7, "blender", 2000)])), programs("blender", 1, 2000, None));
}

#[test]
fn a_driver_that_tells_nothing_of_processes_tells_how_much_is_held() {
    let mut day = Day::new(|_| {});
    let held =
        |mib: u64| Sight { vram_bytes_foreign: Some(ByteSize(mib * MIB)), ..Sight::default() };
    assert_eq!(day.after(0, &held(300)), Availability::Open);
    assert_eq!(day.after(1, &held(800)), Availability::Open);
    let sign = OwnerSign::Programs { name: None, count: 1, vram_bytes: ByteSize(GIB) };
    assert_eq!(day.after(1, &held(1324)), Availability::Owner { sign, opens_ms: None });
    // While a job of ours runs there, nobody can tell.
    assert_eq!(day.after(601, &Sight::default()), Availability::Open);
}

#[test]
fn load_has_to_last() {
    let mut day = Day::new(|_| {});
    let busy = |percent| Sight { load_percent: Some(percent), ..card(&[]) };
    assert_eq!(day.after(0, &busy(90)), Availability::Open);
    assert_eq!(day.after(2, &busy(90)), Availability::Open);
    assert_eq!(day.after(0, &busy(25)), Availability::Open);
    assert_eq!(day.after(2, &busy(90)), Availability::Open);
    let sign = OwnerSign::Load { percent: 80 };
    assert_eq!(day.after(3, &busy(80)), Availability::Owner { sign, opens_ms: None });
}

#[test]
fn somebody_who_types_is_there_if_that_is_to_count() {
    let mut day = Day::new(|policy| policy.signs.input = true);
    let typed = Some(day.ms() - 500_000);
    let before = Availability::Owner { sign: OwnerSign::Input, opens_ms: Some(day.ms() + 100_000) };
    assert_eq!(day.after_with(0, Ok(card(&[])), typed), before);
    let now = Some(day.ms());
    let typing = Availability::Owner { sign: OwnerSign::Input, opens_ms: None };
    assert_eq!(day.after_with(0, Ok(card(&[])), now), typing);
    assert_eq!(day.after_with(600, Ok(card(&[])), now), Availability::Open);

    let mut day = Day::new(|_| {});
    let now = Some(day.ms());
    assert_eq!(day.after_with(0, Ok(card(&[])), now), Availability::Open);
}

#[test]
fn nobody_comes_first_where_the_owner_says_so() {
    let mut day = Day::new(|policy| policy.signs = Signs::OFF);
    let busy = Sight { load_percent: Some(100), ..card(&[(7, "blender", 6000)]) };
    day.after(0, &busy);
    assert_eq!(day.after(60, &busy), Availability::Open);
}

#[test]
fn a_hot_card_has_to_cool_down_well_and_for_a_while() {
    let mut day = Day::new(|policy| policy.celsius_max = Some(85));
    let at = |celsius| {
        let telemetry = Some(Telemetry { celsius: Some(celsius), ..Telemetry::default() });
        Sight { telemetry, celsius_slowdown: Some(98), ..card(&[]) }
    };
    let hot = |celsius| Availability::TooHot { celsius, celsius_max: 85 };
    assert_eq!(day.after(0, &at(85)), Availability::Open);
    assert_eq!(day.after(1, &at(86)), hot(86));
    assert_eq!(day.after(1, &at(88)), hot(86), "two degrees are not worth a word");
    assert_eq!(day.after(1, &at(81)), hot(81));
    assert_eq!(day.after(600, &at(81)), hot(81), "not cool enough");
    assert_eq!(day.after(1, &at(80)), hot(81));
    assert_eq!(day.after(59, &at(78)), hot(78));
    assert_eq!(day.after(1, &at(78)), Availability::Open);
    // Without a limit of the owner's, the driver's.
    let mut day = Day::new(|_| {});
    assert_eq!(day.after(0, &at(98)), Availability::Open);
    assert_eq!(day.after(1, &at(99)), Availability::TooHot { celsius: 99, celsius_max: 98 });
}

#[test]
fn hours_open_and_close_the_card() {
    let mut day = Day::new(|policy| policy.hours = Some("Mon-Fri 19:00-08:00".parse().unwrap()));
    let hours = "Mon-Fri 19:00-08:00".to_owned();
    let off = Availability::OffHours { hours, opens_ms: Some(day.ms() + 7 * 3_600_000) };
    assert_eq!(day.after(0, &card(&[])), off);
    assert_eq!(day.after(3600, &card(&[])), off, "the same until it opens");
    assert_eq!(day.after(6 * 3600, &card(&[])), Availability::Open);
}

#[test]
fn an_error_stays_until_somebody_has_looked_and_others_have_jobs_leave_first() {
    let mut day = Day::new(|_| {});
    let failed = Sight { xid: Some(48), ..card(&[]) };
    assert_eq!(day.after(0, &failed), Availability::DriverError { xid: 48 });
    let blender = Sight { xid: Some(48), ..card(&[(7, "blender", 6000)]) };
    assert_eq!(day.after(1, &blender), programs("blender", 1, 6000, None));
    let gone = Availability::Gone { error: "lost".into() };
    assert_eq!(day.after_with(1, Err("lost".into()), None), gone);
    assert_eq!(day.after(601, &card(&[])), Availability::DriverError { xid: 48 });
}

#[test]
fn a_card_that_was_gone_is_open_when_it_answers() {
    let mut day = Day::new(|_| {});
    assert_eq!(day.after(0, &card(&[])), Availability::Open);
    assert!(!day.after_with(1, Err("lost".into()), None).is_open());
    assert_eq!(day.after(1, &card(&[])), Availability::Open);
}

#[test]
fn no_patience_at_all_is_allowed() {
    let mut day = Day::new(|policy| policy.idle_after = Duration::ZERO);
    assert!(!day.after(0, &card(&[(7, "blender", 6000)])).is_open());
    assert_eq!(day.after(1, &card(&[])), Availability::Open);
}
