//! Who is in CPU memory and who has a slot, and when each was last walked.

use crate::engine::requests::NONE;

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
    pub(super) stamps: Vec<u64>,
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
    pub(super) fn has_slot(&self, adapter: u32) -> bool {
        self.has_slot[adapter as usize]
    }

    #[inline]
    pub(super) fn stamp(&self, adapter: u32) -> u64 {
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
    pub(super) fn is_in_cpu_memory(&self, adapter: u32) -> bool {
        self.cpu_place[adapter as usize] != NONE
    }

    /// Takes an adapter into CPU memory, where the one of least age makes room for it; returns that
    /// one if its slot went with it.
    pub(super) fn enter_cpu_memory(
        &mut self,
        adapter: u32,
        age: impl Fn(&Caches, u32) -> u64,
    ) -> Option<u32> {
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
    pub(super) fn is_full(&self) -> bool {
        self.taken_slots == self.max_loras
    }

    /// Whether the one that took a slot last must push out another.
    #[inline]
    pub(super) fn has_too_many(&self) -> bool {
        self.taken_slots > self.max_loras
    }

    #[inline]
    pub(super) fn take_slot(&mut self, adapter: u32) {
        self.has_slot[adapter as usize] = true;
        self.taken_slots += 1;
    }

    #[inline]
    pub(super) fn free_slot(&mut self, adapter: u32) {
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
