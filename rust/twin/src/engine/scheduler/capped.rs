//! Rules 1 to 3 when chunks are capped (`long_prefill_token_threshold`): the running list walked as
//! the engine walks it. Several requests may then be part-way through their prompts, anywhere in the
//! list, and the budget may end before the list does, so nothing is known without looking.

use super::super::batch::AdapterSet;
use super::super::requests::Requests;
use super::{Chunk, Decision, Scheduler};

impl Scheduler {
    pub(super) fn schedule_running_capped(
        &mut self,
        decision: &mut Decision,
        budget: &mut u32,
        chunk_cap: u32,
    ) {
        let mut place = 0;
        // The list shortens from behind while it is walked.
        while place < self.running.places() && *budget > 0 {
            let Some(id) = self.running.at(place) else {
                place += 1;
                continue;
            };
            let request = self.requests[id];
            let wanted = request.known() - request.computed();
            let tokens = wanted.min(chunk_cap).min(*budget);
            let blocks = self.kv_cache.blocks(request.computed() + tokens)
                - self.kv_cache.blocks(request.computed());
            while blocks > self.kv_cache.free() {
                self.preempt_last(decision);
                if decision.preempted.last().is_some_and(|gone| gone.id == id) {
                    return;
                }
            }
            self.kv_cache.take(blocks);
            *budget -= tokens;
            decision.shape.context_tokens += u64::from(request.computed());
            decision.add_chunk(Chunk { id, tokens }, request.computed());
            place += 1;
        }
    }
}

/// The adapters of the requests scheduled in one step, and how they differ from the step before.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    adapters: AdapterSet,
    is_base: Vec<bool>,
    members: Vec<u32>,
    previous: Vec<u32>,
    /// Step (counted here) in which each adapter was last scheduled.
    seen: Vec<u64>,
    step: u64,
}

impl Batch {
    pub(super) fn new(is_base: &[bool]) -> Self {
        Batch {
            adapters: AdapterSet::new(is_base),
            is_base: is_base.to_vec(),
            members: Vec::new(),
            previous: Vec::new(),
            seen: vec![0; is_base.len()],
            step: 1,
        }
    }

    pub(super) fn adapters(&mut self) -> &mut AdapterSet {
        &mut self.adapters
    }

    /// Takes the place of the step before; returns the number of distinct adapters.
    pub(super) fn rebuild(&mut self, chunks: &[Chunk], requests: &Requests) -> u32 {
        self.step += 1;
        std::mem::swap(&mut self.members, &mut self.previous);
        self.members.clear();
        for chunk in chunks {
            let adapter = requests[chunk.id].adapter;
            let seen = &mut self.seen[adapter as usize];
            if self.is_base[adapter as usize] || *seen == self.step {
                continue;
            }
            if *seen + 1 < self.step {
                self.adapters.add(adapter);
            }
            *seen = self.step;
            self.members.push(adapter);
        }
        for &adapter in &self.previous {
            if self.seen[adapter as usize] != self.step {
                self.adapters.remove(adapter);
            }
        }
        self.adapters.distinct()
    }
}
