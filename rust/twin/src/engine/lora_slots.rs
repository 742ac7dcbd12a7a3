//! Which adapters are in GPU slots and in CPU memory, and what a step's loads cost.
//!
//! As vLLM's LRUCacheWorkerLoRAManager: the batch's adapters are walked in a fixed order; one that is
//! not in the CPU cache is read from disk (the cache's oldest goes, and its slot with it); one that
//! has no slot is copied into one, the **oldest slot** if none is free, even one that this very batch
//! needs later in the walk. Both caches are touched by the same walk and nothing else, so one stamp
//! an adapter, (walk, place in the walk), orders both.
//!
//! A walk costs what it changes. An adapter that stays in the batch is walked in every step, so its
//! stamp need not be written until it leaves: it is its place and the number of this walk or, if it
//! is not reached yet, of the one before. Adapters that left stand in line ([`Idle`]), oldest first.
//! So the oldest slot is the first in line or the first of those that stay and are not reached, and
//! neither is searched for.

use crate::scenario::Scenario;
use crate::streams::walk_order;
use crate::units::Time;

use super::batch::AdapterSet;
use super::requests::NONE;

/// One thing that happened to an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Read from disk into the CPU cache.
    LoadDisk(u32),
    /// Copied into a GPU slot.
    LoadGpu(u32),
    /// Its GPU slot was freed.
    EvictGpu(u32),
}

/// The two caches.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    max_loras: u32,
    max_cpu_loras: usize,
    taken_slots: u32,
    has_slot: Vec<bool>,
    /// Adapters in CPU memory, in no order: all that have a slot are among them.
    cpu: Vec<u32>,
    /// Place of each adapter there, or none.
    cpu_place: Vec<u32>,
    /// When each adapter was last walked, as far as that has been noted: later is larger.
    stamps: Vec<u64>,
}

impl Caches {
    pub(crate) fn new(n_adapters: usize, max_loras: u32, max_cpu_loras: u32) -> Self {
        Caches {
            max_loras,
            max_cpu_loras: max_cpu_loras as usize,
            taken_slots: 0,
            has_slot: vec![false; n_adapters],
            cpu: Vec::new(),
            cpu_place: vec![NONE; n_adapters],
            stamps: vec![0; n_adapters],
        }
    }

    #[inline]
    fn has_slot(&self, adapter: u32) -> bool {
        self.has_slot[adapter as usize]
    }

    #[inline]
    fn stamp(&self, adapter: u32) -> u64 {
        self.stamps[adapter as usize]
    }

    /// Brings one adapter into both caches and marks it recent.
    pub(crate) fn activate(&mut self, adapter: u32, stamp: u64, event: impl FnMut(Event)) {
        if !self.has_slot(adapter) {
            let oldest = |caches: &Caches, among: &dyn Fn(u32) -> bool| {
                let held = caches.cpu.iter().copied();
                held.filter(|&adapter| among(adapter))
                    .min_by_key(|&adapter| caches.stamp(adapter))
            };
            self.load(
                adapter,
                |caches| oldest(caches, &|_| true),
                |caches| oldest(caches, &|adapter| caches.has_slot(adapter)),
                event,
            );
        }
        self.stamps[adapter as usize] = stamp;
    }

    /// Brings in an adapter that has no slot; the two functions say who is oldest in CPU memory and
    /// among the slots, should one have to go.
    #[inline]
    fn load(
        &mut self,
        adapter: u32,
        oldest_in_cpu_memory: impl FnOnce(&Caches) -> Option<u32>,
        oldest_in_slots: impl FnOnce(&Caches) -> Option<u32>,
        mut event: impl FnMut(Event),
    ) {
        if self.cpu_place[adapter as usize] == NONE {
            event(Event::LoadDisk(adapter));
            if self.cpu.len() == self.max_cpu_loras {
                let oldest = oldest_in_cpu_memory(self).expect("a CPU cache holds at least one");
                self.drop_from_cpu_memory(oldest);
                if self.has_slot(oldest) {
                    self.free_slot(oldest);
                    event(Event::EvictGpu(oldest));
                }
            }
            self.cpu_place[adapter as usize] = self.cpu.len() as u32;
            self.cpu.push(adapter);
        }
        if self.taken_slots == self.max_loras {
            let oldest = oldest_in_slots(self).expect("there is at least one slot");
            self.free_slot(oldest);
            event(Event::EvictGpu(oldest));
        }
        self.has_slot[adapter as usize] = true;
        self.taken_slots += 1;
        event(Event::LoadGpu(adapter));
    }

    #[inline]
    fn free_slot(&mut self, adapter: u32) {
        self.has_slot[adapter as usize] = false;
        self.taken_slots -= 1;
    }

    fn drop_from_cpu_memory(&mut self, adapter: u32) {
        let place = std::mem::replace(&mut self.cpu_place[adapter as usize], NONE) as usize;
        self.cpu.swap_remove(place);
        if let Some(&moved) = self.cpu.get(place) {
            self.cpu_place[moved as usize] = place as u32;
        }
    }
}

/// Adapters that have a slot and are not in the batch (or not yet reached in the walk that brings
/// them back), in order of their stamps: a list linked through the adapters.
#[derive(Clone, Debug)]
struct Idle {
    /// By adapter, the one before and the one behind; itself if it is not in line. The last entry
    /// is the line's two ends.
    links: Vec<(u32, u32)>,
}

impl Idle {
    fn new(n_adapters: usize) -> Self {
        Idle {
            links: (0..=n_adapters as u32).map(|own| (own, own)).collect(),
        }
    }

    #[inline]
    fn ends(&self) -> u32 {
        self.links.len() as u32 - 1
    }

    #[inline]
    fn oldest(&self) -> Option<u32> {
        let (_, first) = self.links[self.ends() as usize];
        (first != self.ends()).then_some(first)
    }

    /// Joins the line behind all whose stamps are lower: at the end, or a few places before.
    #[inline]
    fn insert(&mut self, adapter: u32, stamps: &[u64]) {
        let ends = self.ends();
        let mut behind = ends;
        let mut before = self.links[ends as usize].0;
        while before != ends && stamps[before as usize] > stamps[adapter as usize] {
            behind = before;
            before = self.links[before as usize].0;
        }
        self.links[adapter as usize] = (before, behind);
        self.links[before as usize].1 = adapter;
        self.links[behind as usize].0 = adapter;
    }

    /// Leaves the line, if it is in line.
    #[inline]
    fn remove(&mut self, adapter: u32) {
        let (before, behind) = self.links[adapter as usize];
        self.links[before as usize].1 = behind;
        self.links[behind as usize].0 = before;
        self.links[adapter as usize] = (adapter, adapter);
    }
}

/// What a step's walk loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loads {
    /// Copies into a slot.
    pub(crate) gpu: u32,
    /// Reads from disk.
    pub(crate) disk: u32,
    /// What they took together.
    pub(crate) time: Time,
}

/// The caches of one engine and the walk over each step's batch.
#[derive(Clone, Debug)]
pub(crate) struct LoraSlots {
    caches: Caches,
    idle: Idle,
    /// Place of each adapter in the walk.
    place: Vec<u32>,
    /// Adapter at each place.
    order: Vec<u32>,
    /// One bit a place: adapters of the batch last walked.
    batch: Vec<u64>,
    /// Number of the last walk.
    walk: u64,
    /// By adapter: the walk with which its present stay in the batch began; `NOT_IN_BATCH` if none.
    since: Vec<u64>,
    /// Copy and read time by adapter.
    cost: Vec<(Time, Time)>,
}

/// Stamps are walk number times this plus place in the walk.
const PLACES: u64 = 1 << 24;
const NOT_IN_BATCH: u64 = u64::MAX;

impl LoraSlots {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let engine = &scenario.engine;
        let n_adapters = scenario.adapters.len();
        let order = walk_order(scenario);
        let mut place = vec![0; n_adapters];
        for (index, &adapter) in order.iter().enumerate() {
            place[adapter as usize] = index as u32;
        }
        let mut slots = LoraSlots {
            caches: Caches::new(n_adapters, engine.max_loras, engine.max_cpu_loras),
            idle: Idle::new(n_adapters),
            place,
            order,
            batch: vec![0; n_adapters.div_ceil(64)],
            walk: 0,
            since: vec![NOT_IN_BATCH; n_adapters],
            cost: (scenario.adapters.iter())
                .map(|adapter| (adapter.gpu_load, adapter.disk_load))
                .collect(),
        };
        if scenario.warm {
            slots.warm(scenario);
        }
        slots
    }

    /// All adapters, one by one, before the first step; the last ones keep their slots.
    fn warm(&mut self, scenario: &Scenario) {
        let idle = &mut self.idle;
        for (index, _) in (scenario.adapters.iter().enumerate()).filter(|(_, own)| !own.is_base) {
            let adapter = index as u32;
            let in_line = idle.oldest();
            self.caches.load(
                adapter,
                |caches| {
                    let held = caches.cpu.iter().copied();
                    held.min_by_key(|&held| caches.stamp(held))
                },
                |_caches| in_line,
                |event| match event {
                    Event::EvictGpu(evicted) => idle.remove(evicted),
                    Event::LoadDisk(_) | Event::LoadGpu(_) => (),
                },
            );
            self.caches.stamps[index] = index as u64;
            idle.insert(adapter, &self.caches.stamps);
        }
    }

    /// Walks the batch of one step, told by who left and who joined since the step before.
    #[inline]
    pub(crate) fn walk(&mut self, batch: &mut AdapterSet) -> Loads {
        let (left, joined) = batch.changes();
        if left.is_empty() && joined.is_empty() {
            return Loads::default();
        }
        for &adapter in left {
            let place = self.place[adapter as usize];
            self.batch[place as usize / 64] &= !(1 << (place % 64));
            self.since[adapter as usize] = NOT_IN_BATCH;
            self.caches.stamps[adapter as usize] = self.walk * PLACES + u64::from(place);
            self.idle.insert(adapter, &self.caches.stamps);
        }
        // Walks that changed nothing need no number: whoever was in all of them is still in.
        self.walk += 1;
        let mut missing = 0;
        let mut first = u32::MAX;
        for &adapter in joined {
            let place = self.place[adapter as usize];
            self.batch[place as usize / 64] |= 1 << (place % 64);
            self.since[adapter as usize] = self.walk;
            if !self.caches.has_slot(adapter) {
                missing += 1;
                first = first.min(place);
            }
        }
        let loads = if missing > 0 {
            for &adapter in joined {
                if self.place[adapter as usize] < first {
                    self.idle.remove(adapter);
                }
            }
            self.load(missing, first)
        } else {
            Loads::default()
        };
        // Whoever came back with its slot has been walked by now.
        for &adapter in joined {
            self.idle.remove(adapter);
        }
        batch.clear_changes();
        loads
    }

    /// The walk itself, from the first place whose adapter has no slot until none is without: before
    /// it and behind it nothing happens but stamps.
    fn load(&mut self, mut missing: u32, first: u32) -> Loads {
        let mut loads = Loads::default();
        let mut places = Places::from(&self.batch, first);
        // Of those that stay in the batch, the oldest is the first that is not reached.
        let mut staying = places.clone();
        let (walk, since, place_of, idle) = (self.walk, &self.since, &self.place, &mut self.idle);
        while missing > 0 {
            let Some(place) = places.next() else {
                unreachable!("whoever has no slot is met in the walk");
            };
            let adapter = self.order[place as usize];
            if self.caches.has_slot(adapter) {
                if since[adapter as usize] == walk {
                    idle.remove(adapter);
                }
                continue;
            }
            let age = |caches: &Caches, adapter: u32| {
                let own = place_of[adapter as usize];
                let is_reached = own <= place;
                match since[adapter as usize] {
                    NOT_IN_BATCH => caches.stamp(adapter),
                    began if began == walk && !is_reached => caches.stamp(adapter),
                    _ => (walk - u64::from(!is_reached)) * PLACES + u64::from(own),
                }
            };
            let in_cpu_memory = |caches: &Caches| {
                let held = caches.cpu.iter().copied();
                held.min_by_key(|&adapter| age(caches, adapter))
            };
            let in_line = idle.oldest();
            let in_slots = |caches: &Caches| {
                let stays = |own: u32| {
                    let adapter = self.order[own as usize];
                    own > place && since[adapter as usize] < walk && caches.has_slot(adapter)
                };
                while staying.first().is_some_and(|own| !stays(own)) {
                    staying.next();
                }
                let Some(own) = staying.first() else {
                    return in_line;
                };
                let is_older =
                    |idle: &u32| caches.stamp(*idle) < (walk - 1) * PLACES + u64::from(own);
                in_line.filter(is_older).or(Some(self.order[own as usize]))
            };
            let cost = &self.cost;
            let count = |event| match event {
                Event::LoadDisk(adapter) => {
                    loads.disk += 1;
                    loads.time += cost[adapter as usize].1;
                }
                Event::LoadGpu(adapter) => {
                    loads.gpu += 1;
                    loads.time += cost[adapter as usize].0;
                    missing -= 1;
                }
                Event::EvictGpu(adapter) => {
                    idle.remove(adapter);
                    // One that this batch needs is met later in the walk.
                    missing += u32::from(since[adapter as usize] != NOT_IN_BATCH);
                }
            };
            self.caches.load(adapter, in_cpu_memory, in_slots, count);
        }
        loads
    }
}

/// Set bits from a place on, ascending.
#[derive(Clone, Debug)]
struct Places<'a> {
    words: &'a [u64],
    word: usize,
    bits: u64,
}

impl<'a> Places<'a> {
    fn from(words: &'a [u64], first: u32) -> Self {
        let word = first as usize / 64;
        Places {
            words,
            word,
            bits: words[word] & (u64::MAX << (first % 64)),
        }
    }

    /// The next place, left in place.
    #[inline]
    fn first(&mut self) -> Option<u32> {
        while self.bits == 0 {
            self.bits = *self.words.get(self.word + 1)?;
            self.word += 1;
        }
        Some(self.word as u32 * 64 + self.bits.trailing_zeros())
    }

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let first = self.first();
        self.bits &= self.bits.wrapping_sub(1);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(caches: &mut Caches, clock: &mut u64, batch: &[u32]) -> Vec<Event> {
        let mut events = Vec::new();
        for &adapter in batch {
            *clock += 1;
            caches.activate(adapter, *clock, |event| events.push(event));
        }
        events
    }

    #[test]
    fn oldest_slot_goes_even_if_this_very_batch_needs_it() {
        let (mut caches, mut clock) = (Caches::new(4, 2, 4), 0);
        walk(&mut caches, &mut clock, &[0, 1]);
        // 2 pushes out 0, which this batch needs next; 0 then pushes out 1.
        assert_eq!(
            walk(&mut caches, &mut clock, &[2, 0]),
            [
                Event::LoadDisk(2),
                Event::EvictGpu(0),
                Event::LoadGpu(2),
                Event::EvictGpu(1),
                Event::LoadGpu(0),
            ]
        );
    }

    #[test]
    fn adapter_that_leaves_the_cpu_cache_loses_its_slot() {
        let (mut caches, mut clock) = (Caches::new(3, 2, 2), 0);
        walk(&mut caches, &mut clock, &[0, 1]);
        assert_eq!(
            walk(&mut caches, &mut clock, &[2]),
            [Event::LoadDisk(2), Event::EvictGpu(0), Event::LoadGpu(2)]
        );
    }

    #[test]
    fn adapter_in_cpu_memory_is_only_copied() {
        let (mut caches, mut clock) = (Caches::new(3, 1, 3), 0);
        walk(&mut caches, &mut clock, &[0]);
        walk(&mut caches, &mut clock, &[1]);
        assert_eq!(
            walk(&mut caches, &mut clock, &[0]),
            [Event::EvictGpu(1), Event::LoadGpu(0)]
        );
    }
}
