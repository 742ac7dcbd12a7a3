//! Which adapters are in CPU memory and in GPU slots: two lists, the oldest in front.

use std::collections::VecDeque;

/// One thing that happened to an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Read from disk into the CPU cache.
    LoadDisk(u32),
    /// Copied into a GPU slot.
    LoadGpu(u32),
    /// Its GPU slot was freed.
    EvictGpu(u32),
}

/// The CPU cache and the GPU slots, each in order of last use.
#[derive(Clone, Debug)]
pub struct Residency {
    max_loras: usize,
    max_cpu_loras: usize,
    cpu: VecDeque<u32>,
    gpu: VecDeque<u32>,
}

impl Residency {
    /// Nothing loaded.
    #[must_use]
    pub fn new(max_loras: u32, max_cpu_loras: u32) -> Self {
        Residency {
            max_loras: max_loras as usize,
            max_cpu_loras: max_cpu_loras as usize,
            cpu: VecDeque::new(),
            gpu: VecDeque::new(),
        }
    }

    /// Walks a step's adapters in the order given.
    pub fn walk(&mut self, batch: &[u32]) -> Vec<Event> {
        let mut events = Vec::new();
        for &adapter in batch {
            self.activate(adapter, &mut events);
        }
        events
    }

    /// Brings one adapter into CPU cache and slot, and marks it recent in both.
    fn activate(&mut self, adapter: u32, events: &mut Vec<Event>) {
        if self.cpu.contains(&adapter) {
            touch(&mut self.cpu, adapter);
        } else {
            events.push(Event::LoadDisk(adapter));
            if self.cpu.len() == self.max_cpu_loras {
                let oldest = self
                    .cpu
                    .pop_front()
                    .expect("a CPU cache holds at least one");
                if self.gpu.contains(&oldest) {
                    self.gpu.retain(|&slot| slot != oldest);
                    events.push(Event::EvictGpu(oldest));
                }
            }
            self.cpu.push_back(adapter);
        }
        if self.gpu.contains(&adapter) {
            touch(&mut self.gpu, adapter);
        } else {
            // The oldest slot goes, even if this very batch needs it.
            if self.gpu.len() == self.max_loras {
                let oldest = self.gpu.pop_front().expect("there is at least one slot");
                events.push(Event::EvictGpu(oldest));
            }
            self.gpu.push_back(adapter);
            events.push(Event::LoadGpu(adapter));
        }
    }
}

fn touch(list: &mut VecDeque<u32>, adapter: u32) {
    list.retain(|&other| other != adapter);
    list.push_back(adapter);
}
