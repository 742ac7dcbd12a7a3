//! Which adapters are in GPU slots and in CPU memory, and what a step's loads cost.
//!
//! As vLLM's LRUCacheWorkerLoRAManager: the batch's adapters are walked in a fixed order; one that is
//! not in the CPU cache is read from disk (the cache's oldest goes, and its slot with it); one that
//! has no slot is copied into one, the **oldest slot** if none is free, even one that this very batch
//! needs later in the walk. Both caches are touched by the same walk and nothing else, so one stamp
//! an adapter, (walk, place in the walk), orders both. While every adapter of the batch has its slot
//! a walk only moves stamps, and those are worked out when somebody next asks for the oldest.

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
    max_loras: usize,
    max_cpu_loras: usize,
    /// Adapter in each taken slot, and when it was last walked: later is larger.
    slots: Vec<u32>,
    slot_stamps: Vec<u64>,
    /// Slot of each adapter, or none.
    slot_of: Vec<u32>,
    /// Adapters in CPU memory, in no order.
    cpu: Vec<u32>,
    /// Place of each adapter there, or none.
    cpu_place: Vec<u32>,
    /// When each adapter without a slot was last walked.
    stamps: Vec<u64>,
}

impl Caches {
    pub(crate) fn new(n_adapters: usize, max_loras: u32, max_cpu_loras: u32) -> Self {
        Caches {
            max_loras: max_loras as usize,
            max_cpu_loras: max_cpu_loras as usize,
            slots: Vec::new(),
            slot_stamps: Vec::new(),
            slot_of: vec![NONE; n_adapters],
            cpu: Vec::new(),
            cpu_place: vec![NONE; n_adapters],
            stamps: vec![0; n_adapters],
        }
    }

    #[inline]
    fn has_slot(&self, adapter: u32) -> bool {
        self.slot_of[adapter as usize] != NONE
    }

    /// Marks an adapter that has a slot as walked.
    #[inline]
    fn touch(&mut self, adapter: u32, stamp: u64) {
        self.slot_stamps[self.slot_of[adapter as usize] as usize] = stamp;
    }

    /// Brings one adapter into both caches and marks it recent.
    pub(crate) fn activate(&mut self, adapter: u32, stamp: u64, event: impl FnMut(Event)) {
        if !self.has_slot(adapter) {
            let in_cpu_memory = |caches: &Caches| {
                let age = |&adapter: &u32| caches.stamp(adapter);
                caches.cpu.iter().copied().min_by_key(age)
            };
            let in_slots = |caches: &Caches| {
                let age = |&adapter: &u32| caches.stamp(adapter);
                caches.slots.iter().copied().min_by_key(age)
            };
            self.load(adapter, in_cpu_memory, in_slots, event);
        }
        self.touch(adapter, stamp);
    }

    /// When an adapter was last walked, as far as that has been noted.
    #[inline]
    fn stamp(&self, adapter: u32) -> u64 {
        match self.slot_of[adapter as usize] {
            NONE => self.stamps[adapter as usize],
            slot => self.slot_stamps[slot as usize],
        }
    }

    /// Brings in an adapter that has no slot; the two functions say who is oldest in CPU memory and
    /// among the slots, should one have to go.
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
        if self.slots.len() == self.max_loras {
            let oldest = oldest_in_slots(self).expect("there is at least one slot");
            self.free_slot(oldest);
            event(Event::EvictGpu(oldest));
        }
        self.slot_of[adapter as usize] = self.slots.len() as u32;
        self.slots.push(adapter);
        self.slot_stamps.push(self.stamps[adapter as usize]);
        event(Event::LoadGpu(adapter));
    }

    fn free_slot(&mut self, adapter: u32) {
        let slot = std::mem::replace(&mut self.slot_of[adapter as usize], NONE) as usize;
        self.slots.swap_remove(slot);
        self.stamps[adapter as usize] = self.slot_stamps.swap_remove(slot);
        if let Some(&moved) = self.slots.get(slot) {
            self.slot_of[moved as usize] = slot as u32;
        }
    }

    fn drop_from_cpu_memory(&mut self, adapter: u32) {
        let place = std::mem::replace(&mut self.cpu_place[adapter as usize], NONE) as usize;
        self.cpu.swap_remove(place);
        if let Some(&moved) = self.cpu.get(place) {
            self.cpu_place[moved as usize] = place as u32;
        }
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
    /// During a walk: adapters in slots whose stamps are written down.
    stored: Vec<u32>,
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
            place,
            order,
            batch: vec![0; n_adapters.div_ceil(64)],
            walk: 0,
            since: vec![NOT_IN_BATCH; n_adapters],
            cost: (scenario.adapters.iter())
                .map(|adapter| (adapter.gpu_load, adapter.disk_load))
                .collect(),
            stored: Vec::new(),
        };
        if scenario.warm {
            for (index, adapter) in scenario.adapters.iter().enumerate() {
                if !adapter.is_base {
                    slots
                        .caches
                        .activate(index as u32, index as u64, |_event| ());
                }
            }
        }
        slots
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
            self.caches
                .touch(adapter, self.walk * PLACES + u64::from(place));
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
        batch.clear_changes();
        if missing > 0 {
            self.load(missing, first)
        } else {
            Loads::default()
        }
    }

    /// The walk itself, from the first place whose adapter has no slot until none is without: before
    /// it and behind it nothing happens but stamps, and those are not written while an adapter stays
    /// in the batch: they are its place and the number of this walk or, if it is not reached yet, of
    /// the one before.
    fn load(&mut self, mut missing: u32, first: u32) -> Loads {
        let mut loads = Loads::default();
        let mut places = Places::from(&self.batch, first);
        let (walk, since, place_of) = (self.walk, &self.since, &self.place);
        let is_stored = |adapter: u32, reached: u32| match since[adapter as usize] {
            NOT_IN_BATCH => true,
            began => began == walk && place_of[adapter as usize] > reached,
        };
        let stored = self.caches.slots.iter().copied();
        self.stored.clear();
        self.stored
            .extend(stored.filter(|&adapter| is_stored(adapter, first)));
        // Of those that stay in the batch, the oldest is the first that is not reached.
        let mut staying = places.clone();
        while missing > 0 {
            let Some(place) = places.next() else {
                unreachable!("whoever has no slot is met in the walk");
            };
            let adapter = self.order[place as usize];
            if self.caches.has_slot(adapter) {
                continue;
            }
            let age = |caches: &Caches, adapter: u32| {
                let own = place_of[adapter as usize];
                if is_stored(adapter, place) {
                    caches.stamp(adapter)
                } else {
                    (walk - u64::from(own > place)) * PLACES + u64::from(own)
                }
            };
            let in_cpu_memory = |caches: &Caches| {
                let held = caches.cpu.iter().copied();
                held.min_by_key(|&adapter| age(caches, adapter))
            };
            let in_slots = |caches: &Caches| {
                let stays = |own: u32| {
                    let adapter = self.order[own as usize];
                    own > place && since[adapter as usize] < walk && caches.has_slot(adapter)
                };
                while staying.first().is_some_and(|own| !stays(own)) {
                    staying.next();
                }
                let stored = (self.stored.iter().copied())
                    .filter(|&adapter| is_stored(adapter, place) && caches.has_slot(adapter));
                let first_staying = staying.first().map(|own| self.order[own as usize]);
                stored
                    .chain(first_staying)
                    .min_by_key(|&adapter| age(caches, adapter))
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
                // One that this batch needs is met later in the walk.
                Event::EvictGpu(adapter) => {
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
