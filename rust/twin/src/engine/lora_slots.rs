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

mod caches;
mod idle;
mod places;

pub(crate) use caches::{Caches, Event};

use crate::scenario::Scenario;
use crate::streams::walk_order;
use crate::units::Time;

use super::batch::AdapterSet;
use idle::Idle;
use places::Places;

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
