//! The fleet's cards while a plan is made: what is open now, and what will be. A forecast goes on with the same board
//! from moment to moment.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use fleetune_shared::{AgentName, BlobHash, ByteSize, CardFamily, Device, JobId};

use crate::learning::Traits;
use crate::state::{Agent, Job, Load, Promise, Shape, State};

pub(super) struct Board<'a> {
    state: &'a State,
    now_ms: u64,
    /// By name.
    rooms: Vec<Room<'a>>,
    /// Kinds of cards among them.
    families: Vec<CardFamily>,
    /// Rooms where some waiting job might go.
    open: BTreeSet<Open>,
    /// The least any waiting job needs, family by family.
    least: Vec<u64>,
    /// Words against company that this plan adds, by room.
    words: BTreeMap<usize, Vec<&'a str>>,
    /// Shapes that were turned away: rooms only shrink.
    nowhere: HashSet<&'a Shape>,
    /// Shapes for which there is no card left to hold.
    unheld: HashSet<&'a Shape>,
    /// What jobs of a shape could use: sizing takes a moment.
    useful: HashMap<(&'a Shape, Device), ByteSize>,
    /// Rooms by when something next changes there; empty while only one plan is made.
    changes: BTreeSet<(u64, usize)>,
    /// Rooms that are held or were given jobs in this round.
    touched: Vec<usize>,
}

/// A card's memory and slots. Holding goes through all of them: what it asks first is here, not behind a pointer.
pub(super) struct Room<'a> {
    pub(super) agent: &'a Agent,
    /// What is promised there: the agent's own, or what a forecast has made of it.
    pub(super) load: Cow<'a, Load>,
    /// When it opens, if it is closed.
    opens_ms: Option<u64>,
    /// Its family, by its place among the board's.
    pub(super) family: usize,
    /// Open right now.
    pub(super) now: u64,
    pub(super) slots_now: u32,
    /// Open once everything that runs now has ended, less what waiting jobs hold and what this plan adds.
    later: u64,
    slots_later: u32,
    held: Held,
}

/// Whether waiting jobs count on a card.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    /// The first of them is to start then, where that is known.
    Until(Option<u64>),
}

/// A room as the search for the best fit goes through them: the least open first, then the fastest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Open {
    family: usize,
    now: u64,
    speed: Reverse<u64>,
    room: usize,
}

/// In the order of preference: how much is open, whether the base is not there, how fast, which room.
type Fit = (u64, bool, Reverse<u64>, usize);
/// In the order of preference: when a job would start, how much is open now and later.
type Start = (u64, Reverse<u64>, Reverse<u64>, usize);

/// Where a job goes.
pub(super) struct Spot {
    pub(super) room: usize,
    pub(super) vram_bytes: u64,
    /// What it could use there, no less.
    useful: u64,
    /// It does not fit beside those that wait, but is gone before they start.
    passing: bool,
}

impl<'a> Board<'a> {
    /// Of cards that are lent, now or from some moment on.
    pub(super) fn new(
        state: &'a State,
        lent: impl Iterator<Item = (&'a Agent, Option<u64>)>,
        now_ms: u64,
    ) -> Self {
        // What is corrected alike is least where its estimate is least.
        let mut leasts = BTreeMap::new();
        for shape in state.shapes() {
            for (device, need) in &shape.needs {
                let least = leasts.entry((*device, shape.traits)).or_insert(u64::MAX);
                *least = (*need).min(*least);
            }
        }
        let (mut places, mut families) = (BTreeMap::new(), Vec::new());
        let mut rooms = Vec::new();
        if !leasts.is_empty() {
            rooms.extend(lent.map(|(agent, opens_ms)| {
                let place = *places.entry(agent.family).or_insert_with(|| {
                    families.push(agent.family);
                    families.len() - 1
                });
                Room::new(agent, place, opens_ms)
            }));
        }
        let least = |family: &CardFamily| {
            let of = |((device, traits), bytes): (&(Device, Option<Traits>), &u64)| {
                let correction = || state.correction(*traits, *family).times(ByteSize(*bytes)).0;
                (*device == family.device).then(correction)
            };
            leasts.iter().filter_map(of).min().unwrap_or(u64::MAX)
        };
        let least = families.iter().map(least).collect();
        let mut board = Self {
            state,
            now_ms,
            rooms,
            families,
            open: BTreeSet::new(),
            least,
            words: BTreeMap::new(),
            nowhere: HashSet::new(),
            unheld: HashSet::new(),
            useful: HashMap::new(),
            changes: BTreeSet::new(),
            touched: Vec::new(),
        };
        board.open = (0..board.rooms.len()).filter_map(|room| board.open(room)).collect();
        board
    }

    /// Whether no waiting job could go anywhere.
    pub(super) fn is_full(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn rooms(&self) -> &[Room<'a>] {
        &self.rooms
    }

    fn open(&self, room: usize) -> Option<Open> {
        let Room { agent, family, now, slots_now, .. } = self.rooms[room];
        let open = slots_now > 0 && now >= self.least[family];
        open.then_some(Open { family, now, speed: Reverse(agent.speed), room })
    }

    /// What a job of this shape needs on a card of each family.
    fn needs(&self, shape: &Shape) -> Vec<Option<u64>> {
        let need = |family: &CardFamily| self.state.need(shape, *family).map(|bytes| bytes.0);
        self.families.iter().map(need).collect()
    }

    /// The tightest card where the job can start now; among equals one that keeps its base model, then the fastest. A
    /// job that keeps as much as it has room for goes to a card that has all it can use, if there is one.
    pub(super) fn best(&mut self, shape: &'a Shape, job: &Job) -> Option<Spot> {
        if self.nowhere.contains(shape) {
            return None;
        }
        let base = job.spec.base().and_then(|base| self.state.keepers(base));
        let needs = self.needs(shape);
        let needs =
            || needs.iter().enumerate().filter_map(|(family, need)| Some((family, (*need)?)));
        let spots = needs().filter_map(|(family, need)| self.tightest(shape, family, need, base));
        let Some((_, spot)) = spots.min_by_key(|(order, _)| *order) else {
            self.nowhere.insert(shape);
            return None;
        };
        // Only a job that has a place is asked.
        let mut sized = std::mem::take(&mut self.useful);
        let mut useful = |family: usize| {
            let family = self.families[family];
            let size = || job.vram_bytes_useful(family.device).unwrap_or(ByteSize(0));
            let bytes = *sized.entry((shape, family.device)).or_insert_with(size);
            self.state.correction(shape.traits, family).times(bytes).0
        };
        let roomy = needs().filter_map(|(family, need)| {
            let useful = useful(family);
            let adapts = useful > need;
            let (order, spot) = adapts.then(|| self.tightest(shape, family, useful, base))??;
            Some((order, Spot { vram_bytes: need, useful, ..spot }))
        });
        let roomy = roomy.min_by_key(|(order, _)| *order);
        let spot = roomy.map_or_else(
            || Spot { useful: useful(self.rooms[spot.room].family).max(spot.vram_bytes), ..spot },
            |(_, roomy)| roomy,
        );
        self.useful = sized;
        Some(spot)
    }

    fn tightest(
        &self,
        shape: &Shape,
        family: usize,
        need: u64,
        keepers: Option<&BTreeSet<AgentName>>,
    ) -> Option<(Fit, Spot)> {
        let first = Open { family, now: need, speed: Reverse(u64::MAX), room: 0 };
        let enough = self.open.range(first..).take_while(|open| open.family == family);
        let mut found: Option<(Fit, Spot)> = None;
        for open in enough {
            if found.as_ref().is_some_and(|(order, _)| order.0 < open.now) {
                break;
            }
            let room = &self.rooms[open.room];
            let added = self.words.get(&open.room).map_or(&[][..], Vec::as_slice);
            let Some(passing) = room.takes(shape, need, added, self.now_ms) else { continue };
            let kept = keepers.is_some_and(|agents| agents.contains(&room.agent.name));
            let spot = Spot { room: open.room, vram_bytes: need, useful: need, passing };
            if kept || found.is_none() {
                found = Some(((open.now, !kept, open.speed, open.room), spot));
            }
            if kept || keepers.is_none() {
                break;
            }
        }
        found
    }

    /// Gives a job its spot.
    pub(super) fn take(&mut self, spot: &Spot, shape: &'a Shape) -> AgentName {
        self.alter(spot.room, |room| {
            room.now -= spot.vram_bytes;
            room.slots_now -= 1;
            if !spot.passing {
                room.later -= spot.vram_bytes;
                room.slots_later -= 1;
            }
        });
        self.touched.push(spot.room);
        if let Some(word) = shape.anti_affinity() {
            self.words.entry(spot.room).or_default().push(word);
        }
        self.rooms[spot.room].agent.name.clone()
    }

    /// What a job that has its spot is promised in the end: of what is left there and held for nobody, as much more as
    /// it can use.
    pub(super) fn widen(&mut self, spot: &Spot) -> u64 {
        let room = &self.rooms[spot.room];
        // One that is in passing is in the way soon enough.
        let spare = if spot.passing { 0 } else { room.now.min(room.later) };
        let more = (spot.useful - spot.vram_bytes).min(spare);
        if more > 0 {
            self.alter(spot.room, |room| {
                room.now -= more;
                room.later -= more;
            });
        }
        spot.vram_bytes + more
    }

    /// Keeps a card for a job that waits: where it would start first as far as that is known, else the one with the
    /// most open. False if no card is left that could ever take it.
    pub(super) fn hold(&mut self, shape: &'a Shape, job: &Job) -> bool {
        if self.unheld.contains(shape) {
            return false;
        }
        let awaited = self.state.is_awaited(job.id).then_some(job.id);
        let needs = self.needs(shape);
        let mut best: Option<Start> = None;
        for (number, change_ms) in self.candidates() {
            let room = &self.rooms[number];
            // Nothing that changes later opens sooner.
            if best.as_ref().is_some_and(|(ms, ..)| *ms < change_ms) {
                break;
            }
            let Some(need) = needs[room.family] else { continue };
            if need > room.later || room.slots_later == 0 || !shape.suits(&room.agent.offer) {
                continue;
            }
            let sooner_than = best.as_ref().map_or(u64::MAX, |(ms, ..)| *ms);
            let start_ms = room.start_ms(need, awaited, self.now_ms, sooner_than);
            let start_ms = start_ms.unwrap_or(u64::MAX);
            let order = (start_ms, Reverse(room.now), Reverse(room.later), number);
            if best.as_ref().is_none_or(|least| order < *least) {
                best = Some(order);
            }
        }
        let Some((start_ms, .., number)) = best else {
            self.unheld.insert(shape);
            return false;
        };
        let room = &mut self.rooms[number];
        room.later -= needs[room.family].unwrap_or(0);
        room.slots_later -= 1;
        let start_ms = (start_ms < u64::MAX).then_some(start_ms);
        if room.held == Held::No {
            room.held = Held::Until(start_ms);
        }
        self.touched.push(number);
        true
    }

    /// Rooms to hold, with when they first change; in the order of that where it is kept.
    fn candidates(&self) -> impl Iterator<Item = (usize, u64)> {
        let all = if self.changes.is_empty() { 0..self.rooms.len() } else { 0..0 };
        all.map(|room| (room, 0)).chain(self.changes.iter().map(|(ms, room)| (*room, *ms)))
    }
}

/// From moment to moment.
impl<'a> Board<'a> {
    /// Keeps the order of what changes from here on.
    pub(super) fn look_ahead(&mut self) {
        let changes =
            self.rooms.iter().enumerate().map(|(number, room)| (room.change_ms(), number));
        self.changes = changes.collect();
    }

    /// When something next changes.
    pub(super) fn change_ms(&self) -> Option<u64> {
        let (ms, _) = self.changes.first()?;
        (*ms < u64::MAX).then_some((*ms).max(self.now_ms))
    }

    /// Another round at another moment: what ends or opens by then has done so. Those promises are over.
    pub(super) fn again(&mut self, now_ms: u64) -> Vec<Promise> {
        self.now_ms = now_ms;
        self.words.clear();
        self.nowhere.clear();
        self.unheld.clear();
        for number in self.touched.drain(..) {
            self.rooms[number].later();
        }
        let mut over = Vec::new();
        while let Some((ms, number)) = self.changes.first().copied()
            && ms <= now_ms
        {
            over.extend(self.change(number, |room| room.pass(now_ms)));
        }
        over
    }

    /// A job that was given this spot runs.
    pub(super) fn begin(&mut self, spot: &Spot, promise: Promise) {
        self.change(spot.room, |room| room.load.to_mut().promise(promise));
    }

    /// A job has left an agent's card.
    pub(super) fn leave(&mut self, job: JobId, agent: &AgentName) -> Option<Promise> {
        let number = self.rooms.binary_search_by(|room| room.agent.name.cmp(agent)).ok()?;
        self.change(number, |room| room.free(|promise| promise.job == job)).pop()
    }

    /// Changes a room, and when something next changes there follows.
    fn change<T>(&mut self, number: usize, change: impl FnOnce(&mut Room<'a>) -> T) -> T {
        let before = self.rooms[number].change_ms();
        let outcome = self.alter(number, change);
        let after = self.rooms[number].change_ms();
        if before != after {
            self.changes.remove(&(before, number));
            self.changes.insert((after, number));
        }
        outcome
    }

    /// Changes a room, and whether it is open follows.
    fn alter<T>(&mut self, number: usize, change: impl FnOnce(&mut Room<'a>) -> T) -> T {
        if let Some(open) = self.open(number) {
            self.open.remove(&open);
        }
        let outcome = change(&mut self.rooms[number]);
        if let Some(open) = self.open(number) {
            self.open.insert(open);
        }
        outcome
    }
}

impl<'a> Room<'a> {
    fn new(agent: &'a Agent, family: usize, opens_ms: Option<u64>) -> Self {
        let load = Cow::Borrowed(&agent.load);
        let held = Held::No;
        let (now, slots_now, later, slots_later) = (0, 0, 0, 0);
        let mut room =
            Self { agent, load, opens_ms, family, now, slots_now, later, slots_later, held };
        if opens_ms.is_some() {
            // What is there leaves.
            room.load = Cow::Owned(Load::default());
        } else {
            room.now = agent.vram_bytes_open().0;
            room.slots_now = agent.offer.jobs_max().saturating_sub(agent.load.jobs());
            room.later();
        }
        room
    }

    /// Nobody counts on it.
    fn later(&mut self) {
        self.held = Held::No;
        if self.opens_ms.is_none() {
            self.later = self.agent.offer.usable().0;
            self.slots_later = self.agent.offer.jobs_max();
        }
    }

    /// When something first changes here, as far as that is known.
    fn change_ms(&self) -> u64 {
        self.opens_ms.or(self.load.first_end_ms).unwrap_or(u64::MAX)
    }

    /// It is `now_ms`: it opens, or jobs end.
    fn pass(&mut self, now_ms: u64) -> Vec<Promise> {
        if self.opens_ms.take().is_some() {
            self.later();
            (self.now, self.slots_now) = (self.later, self.slots_later);
            return Vec::new();
        }
        self.free(|promise| promise.ends_ms.is_some_and(|ms| ms <= now_ms))
    }

    /// Takes back the promises that `are_over`.
    fn free(&mut self, are_over: impl Fn(&Promise) -> bool) -> Vec<Promise> {
        let load = self.load.to_mut();
        let over = load.free(are_over);
        self.now = self.agent.offer.usable().0.saturating_sub(load.vram_bytes);
        self.slots_now = self.agent.offer.jobs_max().saturating_sub(load.jobs());
        over
    }

    /// Whether a job that fits now may go here, and then whether only in passing. `added` are words against company
    /// beside those of jobs that are here already.
    fn takes(&self, shape: &Shape, need: u64, added: &[&str], now_ms: u64) -> Option<bool> {
        let word_taken = |word| self.load.has_word(word) || added.contains(&word);
        if !shape.suits(&self.agent.offer) || shape.anti_affinity().is_some_and(word_taken) {
            return None;
        }
        if need <= self.later && self.slots_later > 0 {
            return Some(false);
        }
        let Held::Until(Some(start_ms)) = self.held else { return None };
        let ends_ms = now_ms.saturating_add(self.agent.ms_at_most(shape.work)?);
        (ends_ms <= start_ms).then_some(true)
    }

    /// When so much is expected to be open here for a job that waits, if not after `sooner_than`. Jobs that were asked
    /// to make room for it, if it is `awaited`, are as good as gone.
    fn start_ms(
        &self,
        need: u64,
        awaited: Option<JobId>,
        now_ms: u64,
        sooner_than: u64,
    ) -> Option<u64> {
        let load = &self.load;
        let known = awaited.is_some() || load.first_end_ms.is_some_and(|ms| ms <= sooner_than);
        // What comes after the first that waits here, nobody can tell.
        if self.held != Held::No || !known {
            return None;
        }
        let end = |promise: &Promise| match promise.yielding_to {
            Some(waiting) if awaited == Some(waiting) => Some(now_ms),
            _ => promise.ends_ms.map(|ms| ms.max(now_ms)),
        };
        let mut ends: Vec<_> =
            load.promises.iter().filter_map(|p| end(p).map(|ms| (ms, p.vram_bytes))).collect();
        ends.sort_unstable();
        let (mut open, mut slots) = (self.now, self.slots_now);
        ends.into_iter().find_map(|(ms, bytes)| {
            open += bytes;
            slots += 1;
            (open >= need && slots > 0).then_some(ms)
        })
    }
}

impl State {
    /// Shapes of waiting jobs; some come more than once.
    fn shapes(&self) -> impl Iterator<Item = &Shape> {
        self.lanes().map(|lane| &lane.shape)
    }

    fn keepers(&self, base: BlobHash) -> Option<&BTreeSet<AgentName>> {
        self.caches().get(&base)
    }
}
