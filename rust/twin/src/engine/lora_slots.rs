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
    pub(crate) fn activate(&mut self, adapter: u32, stamp: u64, mut event: impl FnMut(Event)) {
        if !self.has_slot(adapter) {
            if !self.is_in_cpu_memory(adapter) {
                event(Event::LoadDisk(adapter));
                if let Some(evicted) = self.enter_cpu_memory(adapter, Caches::stamp) {
                    event(Event::EvictGpu(evicted));
                }
            }
            if self.is_full() {
                let with_slot = self.cpu.iter().filter(|&&held| self.has_slot(held));
                let oldest = with_slot.min_by_key(|&&held| self.stamp(held));
                let &oldest = oldest.expect("there is at least one slot");
                self.free_slot(oldest);
                event(Event::EvictGpu(oldest));
            }
            self.take_slot(adapter);
            event(Event::LoadGpu(adapter));
        }
        self.stamps[adapter as usize] = stamp;
    }

    #[inline]
    fn is_in_cpu_memory(&self, adapter: u32) -> bool {
        self.cpu_place[adapter as usize] != NONE
    }

    /// Takes an adapter into CPU memory, where the one of least age makes room for it; returns that
    /// one if its slot went with it.
    fn enter_cpu_memory(&mut self, adapter: u32, age: impl Fn(&Caches, u32) -> u64) -> Option<u32> {
        let mut evicted = None;
        if self.cpu.len() == self.max_cpu_loras {
            let held = self.cpu.iter().copied();
            let oldest = held.min_by_key(|&held| age(self, held));
            let oldest = oldest.expect("a CPU cache holds at least one");
            self.drop_from_cpu_memory(oldest);
            if self.has_slot(oldest) {
                self.free_slot(oldest);
                evicted = Some(oldest);
            }
        }
        self.cpu_place[adapter as usize] = self.cpu.len() as u32;
        self.cpu.push(adapter);
        evicted
    }

    /// Whether all slots are taken.
    #[inline]
    fn is_full(&self) -> bool {
        self.taken_slots == self.max_loras
    }

    /// Whether the one that took a slot last must push out another.
    #[inline]
    fn has_too_many(&self) -> bool {
        self.taken_slots > self.max_loras
    }

    #[inline]
    fn take_slot(&mut self, adapter: u32) {
        self.has_slot[adapter as usize] = true;
        self.taken_slots += 1;
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
    /// Places of the batch last walked.
    batch: Places,
    /// Of those, the ones that were in the batch before it too.
    staying: Places,
    /// Number of the last walk.
    walk: u64,
    /// Copy and read time by adapter.
    cost: Vec<(Time, Time)>,
}

/// Stamps are walk number times this plus place in the walk.
const PLACES: u64 = 1 << 24;

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
            batch: Places::new(n_adapters),
            staying: Places::new(n_adapters),
            walk: 0,
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
        let (caches, idle) = (&mut self.caches, &mut self.idle);
        for (index, _) in (scenario.adapters.iter().enumerate()).filter(|(_, own)| !own.is_base) {
            let adapter = index as u32;
            if let Some(evicted) = caches.enter_cpu_memory(adapter, Caches::stamp) {
                idle.remove(evicted);
            }
            if caches.is_full() {
                let oldest = idle.oldest().expect("there is at least one slot");
                idle.remove(oldest);
                caches.free_slot(oldest);
            }
            caches.take_slot(adapter);
            caches.stamps[index] = index as u64;
            idle.insert(adapter, &caches.stamps);
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
            self.batch.remove(place);
            self.staying.remove(place);
            self.caches.stamps[adapter as usize] = self.walk * PLACES + u64::from(place);
            self.idle.insert(adapter, &self.caches.stamps);
        }
        // Walks that changed nothing need no number: whoever was in all of them is still in.
        self.walk += 1;
        let mut missing = 0;
        let mut first = u32::MAX;
        for &adapter in joined {
            let place = self.place[adapter as usize];
            self.batch.insert(place);
            if !self.caches.has_slot(adapter) {
                missing += 1;
                first = first.min(place);
            }
        }
        let mut loads = Loads::default();
        if missing > 0 {
            for &adapter in joined {
                if self.place[adapter as usize] < first {
                    self.idle.remove(adapter);
                }
            }
            loads = self.load(missing, first);
        }
        // Whoever came back with its slot has been walked by now.
        for &adapter in joined {
            self.idle.remove(adapter);
            self.staying.insert(self.place[adapter as usize]);
        }
        batch.clear_changes();
        loads
    }

    /// The walk itself, from the first place whose adapter has no slot until none is without: before
    /// it and behind it nothing happens but stamps.
    fn load(&mut self, mut missing: u32, first: u32) -> Loads {
        let mut loads = Loads::default();
        let mut next = Some(first);
        while missing > 0 {
            let Some(place) = next else {
                unreachable!("whoever has no slot is met in the walk");
            };
            let adapter = self.order[place as usize];
            if self.caches.has_slot(adapter) {
                // It may have come back, to be walked now; whoever stays is not in line.
                self.idle.remove(adapter);
                next = self.batch.after(place);
                continue;
            }
            if !self.caches.is_in_cpu_memory(adapter) {
                missing += self.read(adapter, place, &mut loads);
            }
            self.caches.take_slot(adapter);
            missing -= 1;
            loads.gpu += 1;
            loads.time += self.cost[adapter as usize].0;
            next = self.batch.after(place);
            if self.caches.has_too_many() {
                let (is_needed, behind) = self.make_room(place, next, &mut loads);
                missing += u32::from(is_needed);
                next = behind;
            }
        }
        loads
    }

    /// One slot too many is taken at a place of the walk: the oldest goes. If that is the one at the
    /// next place, it is loaded again there and the next oldest goes, and so on. Returns whether the
    /// last to go is needed later in the walk, and where that goes on.
    #[inline]
    fn make_room(
        &mut self,
        mut place: u32,
        mut next: Option<u32>,
        loads: &mut Loads,
    ) -> (bool, Option<u32>) {
        let in_line = self.idle.oldest();
        let line_stamp = in_line.map_or(u64::MAX, |adapter| self.caches.stamp(adapter));
        let walk_before = (self.walk - 1) * PLACES;
        loop {
            // Of those that stay in the batch, the oldest is the first that is not reached.
            let oldest = self.first_staying(place);
            let own = oldest.filter(|&own| walk_before + u64::from(own) < line_stamp);
            let Some(own) = own else {
                let adapter = in_line.expect("there is at least one slot");
                self.idle.remove(adapter);
                self.caches.free_slot(adapter);
                return (self.batch.contains(self.place[adapter as usize]), next);
            };
            let adapter = self.order[own as usize];
            if oldest != next {
                self.caches.free_slot(adapter);
                return (true, next);
            }
            loads.gpu += 1;
            loads.time += self.cost[adapter as usize].0;
            place = own;
            next = self.batch.after(place);
        }
    }

    /// The first behind a place that stays in the batch and has a slot.
    #[inline]
    fn first_staying(&self, place: u32) -> Option<u32> {
        let mut own = self.staying.after(place);
        while own.is_some_and(|own| !self.caches.has_slot(self.order[own as usize])) {
            own = own.and_then(|own| self.staying.after(own));
        }
        own
    }

    /// An adapter that is not in CPU memory is read; returns how many of the batch lost their slots
    /// and are met later in the walk, which is at `place`.
    #[cold]
    fn read(&mut self, adapter: u32, place: u32, loads: &mut Loads) -> u32 {
        loads.disk += 1;
        loads.time += self.cost[adapter as usize].1;
        let (batch, staying, place_of) = (&self.batch, &self.staying, &self.place);
        let this_walk = self.walk * PLACES;
        let age = |caches: &Caches, adapter: u32| {
            let own = place_of[adapter as usize];
            if own <= place && batch.contains(own) {
                this_walk + u64::from(own)
            } else if staying.contains(own) {
                this_walk - PLACES + u64::from(own)
            } else {
                caches.stamp(adapter)
            }
        };
        let Some(evicted) = self.caches.enter_cpu_memory(adapter, age) else {
            return 0;
        };
        self.idle.remove(evicted);
        u32::from(self.batch.contains(self.place[evicted as usize]))
    }
}

/// A set of places: one bit each.
#[derive(Clone, Debug)]
struct Places {
    words: Vec<u64>,
}

impl Places {
    fn new(n_places: usize) -> Self {
        Places {
            words: vec![0; n_places.div_ceil(64)],
        }
    }

    #[inline]
    fn contains(&self, place: u32) -> bool {
        self.words[place as usize / 64] >> (place % 64) & 1 != 0
    }

    #[inline]
    fn insert(&mut self, place: u32) {
        self.words[place as usize / 64] |= 1 << (place % 64);
    }

    #[inline]
    fn remove(&mut self, place: u32) {
        self.words[place as usize / 64] &= !(1 << (place % 64));
    }

    /// The next one behind a place.
    #[inline]
    fn after(&self, place: u32) -> Option<u32> {
        let mut word = place as usize / 64;
        // Two shifts, since one by 64 is none.
        let mut bits = self.words[word] & (u64::MAX << (place % 64) << 1);
        while bits == 0 {
            word += 1;
            bits = *self.words.get(word)?;
        }
        Some(word as u32 * 64 + bits.trailing_zeros())
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
