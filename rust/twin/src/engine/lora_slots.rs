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
    gpu: Cache,
    cpu: Cache,
    /// By adapter: when it was last walked; later is larger.
    stamps: Vec<u64>,
}

/// Adapters held, in no order.
#[derive(Clone, Debug)]
struct Cache {
    capacity: usize,
    held: Vec<u32>,
    /// Place in `held`, by adapter.
    place: Vec<u32>,
}

impl Cache {
    fn new(n_adapters: usize, capacity: u32) -> Self {
        Cache {
            capacity: capacity as usize,
            held: Vec::new(),
            place: vec![NONE; n_adapters],
        }
    }

    fn holds(&self, adapter: u32) -> bool {
        self.place[adapter as usize] != NONE
    }

    fn add(&mut self, adapter: u32) {
        self.place[adapter as usize] = self.held.len() as u32;
        self.held.push(adapter);
    }

    fn remove(&mut self, adapter: u32) {
        let place = std::mem::replace(&mut self.place[adapter as usize], NONE);
        self.held.swap_remove(place as usize);
        if let Some(&moved) = self.held.get(place as usize) {
            self.place[moved as usize] = place;
        }
    }

    /// The one to go if it is full: the one walked longest ago.
    fn oldest_if_full(&self, stamps: &[u64]) -> Option<u32> {
        if self.held.len() < self.capacity {
            return None;
        }
        let age = |adapter: &&u32| stamps[**adapter as usize];
        self.held.iter().min_by_key(age).copied()
    }
}

impl Caches {
    pub(crate) fn new(n_adapters: usize, max_loras: u32, max_cpu_loras: u32) -> Self {
        Caches {
            gpu: Cache::new(n_adapters, max_loras),
            cpu: Cache::new(n_adapters, max_cpu_loras),
            stamps: vec![0; n_adapters],
        }
    }

    /// Brings one adapter into both caches and marks it recent.
    pub(crate) fn activate(&mut self, adapter: u32, stamp: u64, mut event: impl FnMut(Event)) {
        if !self.cpu.holds(adapter) {
            event(Event::LoadDisk(adapter));
            if let Some(oldest) = self.cpu.oldest_if_full(&self.stamps) {
                self.cpu.remove(oldest);
                if self.gpu.holds(oldest) {
                    self.gpu.remove(oldest);
                    event(Event::EvictGpu(oldest));
                }
            }
            self.cpu.add(adapter);
        }
        if !self.gpu.holds(adapter) {
            if let Some(oldest) = self.gpu.oldest_if_full(&self.stamps) {
                self.gpu.remove(oldest);
                event(Event::EvictGpu(oldest));
            }
            self.gpu.add(adapter);
            event(Event::LoadGpu(adapter));
        }
        self.stamps[adapter as usize] = stamp;
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
    /// By adapter: the walk with which its present stay in the batch began.
    since: Vec<u64>,
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
            place,
            order,
            batch: vec![0; n_adapters.div_ceil(64)],
            walk: 0,
            since: vec![0; n_adapters],
            cost: (scenario.adapters.iter())
                .map(|adapter| (adapter.gpu_load, adapter.disk_load))
                .collect(),
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
            self.caches.stamps[adapter as usize] = self.walk * PLACES + u64::from(place);
        }
        // Walks that changed nothing need no number: whoever was in all of them is still in.
        self.walk += 1;
        let mut missing = false;
        for &adapter in joined {
            let place = self.place[adapter as usize];
            self.batch[place as usize / 64] |= 1 << (place % 64);
            self.since[adapter as usize] = self.walk;
            missing |= !self.caches.gpu.holds(adapter);
        }
        batch.clear_changes();
        if missing {
            self.load()
        } else {
            Loads::default()
        }
    }

    /// The walk itself, when somebody in the batch has no slot.
    fn load(&mut self) -> Loads {
        // Whoever was in the batch before has the stamp of the last walk.
        for_each_bit(&self.batch, |place| {
            let adapter = self.order[place] as usize;
            if self.since[adapter] < self.walk {
                self.caches.stamps[adapter] = (self.walk - 1) * PLACES + place as u64;
            }
        });
        let mut loads = Loads::default();
        for_each_bit(&self.batch, |place| {
            let adapter = self.order[place];
            let stamp = self.walk * PLACES + place as u64;
            self.caches.activate(adapter, stamp, |event| match event {
                Event::LoadDisk(adapter) => {
                    loads.disk += 1;
                    loads.time += self.cost[adapter as usize].1;
                }
                Event::LoadGpu(adapter) => {
                    loads.gpu += 1;
                    loads.time += self.cost[adapter as usize].0;
                }
                Event::EvictGpu(_) => {}
            });
        });
        loads
    }
}

/// Calls with each set bit's place, ascending.
fn for_each_bit(words: &[u64], mut take: impl FnMut(usize)) {
    for (index, &word) in words.iter().enumerate() {
        let mut bits = word;
        while bits != 0 {
            take(index * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
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
