//! Looks at the card again and again, away from everything else: a driver in trouble may take its time.

use std::collections::BTreeSet;
use std::time::Duration;

use fleetune_shared::{Offer, Telemetry};
use jiff::ZonedDateTime;
use tokio::sync::watch::{self, Receiver};
use tokio::task;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::keeper::{Keeper, Seen};
use super::policy::OwnerPolicy;
use super::presence::Presence;
use crate::probe::{Probe, Sight};
use crate::runner::{TrainerPids, now_ms};

/// How often.
const EVERY: Duration = Duration::from_millis(500);

/// A card as it is now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lent {
    pub(crate) offer: Offer,
    pub(crate) telemetry: Option<Telemetry>,
}

struct Lookout {
    probe: Probe,
    presence: Option<Presence>,
    keeper: Keeper,
    pids: TrainerPids,
    /// Trainers at the last look: one that has just ended may be seen once more.
    before: BTreeSet<u32>,
}

impl Lookout {
    fn look(&mut self) -> Lent {
        let trainers = self.pids.now();
        let mut look = self.probe.look(&trainers);
        let after = self.pids.now();
        if let Ok(sight) = &mut look.sight {
            leave_out(sight, &self.before, &trainers, &after);
            sight.trainers.iter().for_each(|(pid, bytes)| self.pids.saw(*pid, *bytes));
        }
        self.before = after;
        let input_ms = self.presence.as_mut().and_then(|presence| presence.last_ms(now_ms()));
        let telemetry = look.sight.as_ref().ok().and_then(|sight| sight.telemetry.clone());
        let seen = Seen { card: look.sight, input_ms };
        let availability = self.keeper.decide(&seen, &ZonedDateTime::now());
        Lent { offer: Offer { availability, ..look.offer }, telemetry }
    }
}

/// Whoever is ours a moment before or after is no stranger, and while one of ours begins nobody can tell by the sum.
fn leave_out(
    sight: &mut Sight,
    before: &BTreeSet<u32>,
    during: &BTreeSet<u32>,
    after: &BTreeSet<u32>,
) {
    sight.strangers.retain(|other| !before.contains(&other.pid) && !after.contains(&other.pid));
    if !after.is_subset(during) {
        sight.vram_bytes_foreign = None;
    }
}

/// The card as it is now and from now on.
pub(crate) async fn watch(
    probe: Probe,
    policy: OwnerPolicy,
    pids: TrainerPids,
) -> (Receiver<Lent>, AbortOnDropHandle<()>) {
    let presence = policy.signs.input.then(|| Presence::of("/"));
    if presence.as_ref().is_some_and(|presence| !presence.can_tell()) {
        warn!(
            "no keyboard, mouse or terminal can be watched here: only programs and load tell of an owner"
        );
    }
    let (keeper, before) = (Keeper::new(policy), BTreeSet::new());
    let mut lookout = Lookout { probe, presence, keeper, pids, before };
    let first = lookout.look();
    tell(&first.offer);
    let (sender, lent) = watch::channel(first);
    let watching = async move {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let look = task::spawn_blocking(move || (lookout.look(), lookout));
            let Ok((now, back)) = look.await else { return };
            lookout = back;
            sender.send_if_modified(|lent| {
                let changed = lent.offer.availability != now.offer.availability;
                if changed {
                    tell(&now.offer);
                }
                *lent = now;
                changed
            });
        }
    };
    (lent, AbortOnDropHandle::new(tokio::spawn(watching)))
}

fn tell(offer: &Offer) {
    let name = &offer.card.name;
    match offer.availability.reason(now_ms()) {
        None => info!("card {name} is open"),
        Some(why) => info!("card {name} is closed: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use fleetune_shared::ByteSize;

    use super::*;
    use crate::probe::Stranger;

    #[test]
    fn a_trainer_that_comes_or_goes_while_one_looks_is_no_owner() {
        let stranger = |pid| Stranger { pid, name: None, vram_bytes: Some(ByteSize(1 << 30)) };
        let seen = Sight {
            vram_bytes_foreign: Some(ByteSize(3 << 30)),
            strangers: [1, 2, 3].map(stranger).into(),
            ..Sight::default()
        };
        let none = BTreeSet::new();
        let mut sight = seen.clone();
        leave_out(&mut sight, &[1].into(), &none, &[2].into());
        assert_eq!((&sight.strangers[..], sight.vram_bytes_foreign), (&[stranger(3)][..], None));
        let mut sight = seen.clone();
        leave_out(&mut sight, &none, &[4].into(), &none);
        assert_eq!(sight, seen);
    }
}
