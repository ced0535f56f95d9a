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
use crate::probe::Probe;
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
}

impl Lookout {
    fn look(&mut self, trainers: &BTreeSet<u32>) -> Lent {
        let look = self.probe.look(trainers);
        let input_ms = self.presence.as_mut().and_then(|presence| presence.last_ms(now_ms()));
        let telemetry = look.sight.as_ref().ok().and_then(|sight| sight.telemetry.clone());
        let seen = Seen { card: look.sight, input_ms };
        let availability = self.keeper.decide(&seen, &ZonedDateTime::now());
        Lent { offer: Offer { availability, ..look.offer }, telemetry }
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
    let mut lookout = Lookout { probe, presence, keeper: Keeper::new(policy) };
    let first = lookout.look(&pids.now());
    tell(&first.offer);
    let (sender, lent) = watch::channel(first);
    let watching = async move {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let trainers = pids.now();
            let look = task::spawn_blocking(move || (lookout.look(&trainers), lookout));
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
