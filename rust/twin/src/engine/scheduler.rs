//! THE RULES of vLLM's V1 scheduler: state in, decision out. No time, no cost, no metrics.
//!
//! Rules are numbered as in the recordings' description (`v1/core/sched/scheduler.py`,
//! `v1/core/kv_cache_manager.py`, `v1/core/block_pool.py` of vLLM 0.8.5 and 0.33):
//!
//! 1. running requests first, in order of admission, while there is budget;
//! 2. a block is taken in the step that computes its first token;
//! 3. who cannot get its blocks preempts the *last* running request, until it can or is the victim;
//! 4. after a preemption nobody waiting is looked at;
//! 5. slots in use are the adapters of the running requests scheduled in this step;
//! 6. a waiting request whose adapter has no slot is skipped, it does not block;
//! 7. a waiting request whose first chunk's blocks are not free stops the scan (0.33: the blocks of
//!    all its known tokens must be free, though only the first chunk's are taken);
//! 8. who has all known tokens computed gets one token; who has enough leaves at once;
//! 9. block 0 is the null block.
//!
//! Without a cap on chunks (`long_prefill_token_threshold`) three things follow, and make a step cost
//! nothing per running request:
//!
//! - Every running request is scheduled in every step (`max_num_batched_tokens >= max_num_seqs`), all
//!   as decodes but for the last, which may be part-way through its prompt. So step numbers count
//!   tokens: a decode's end and its blocks are settled when it starts ([`Calendar`], [`KvCache`]).
//! - Rule 3 comes to: *take running requests off the end until the blocks that the rest need are
//!   free.* In order, let request `i` be the first to find too few blocks while the last of the list
//!   is `m`. The blocks needed by the requests up to `i` exceed what is free, hence so do those
//!   needed by all up to `m`, so the summed form takes off `m` too; and it stops where the walk
//!   stops, because if the walk has served everyone up to `m`, their needs fit. (A request that is
//!   itself the victim is the case `i = m`.) Victims come from behind, so none has been scheduled.
//! - Preempted requests fit the slots together with all that still runs, and stand in front: they are
//!   never skipped.
//!
//! With the cap none of this holds, and [`capped`] walks the running list as the engine does.

mod capped;
mod decision;
#[cfg(debug_assertions)]
mod laws;
mod prospect;
#[cfg(test)]
mod tests;

pub(crate) use decision::{Chunk, Completed, Decision};

use super::batch::AdapterSet;
use super::jump::Series;
use super::kv_cache::KvCache;
use super::requests::{Request, Requests};
use super::running::{Calendar, Running};
use super::waiting::Waiting;
use crate::scenario::{EngineSettings, RuleSet};
use crate::step_time::BatchShape;
use prospect::{Prospect, ScanEnd};

/// The engine's scheduler and all it knows.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    rule_set: RuleSet,
    max_loras: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    long_prefill_token_threshold: u32,
    pub(crate) requests: Requests,
    waiting: Waiting,
    running: Running,
    calendar: Calendar,
    kv_cache: KvCache,
    /// Adapters of the running requests.
    slots: AdapterSet,
    /// With capped chunks: adapters of the requests scheduled, which may be fewer.
    capped_batch: Option<capped::Batch>,
    #[cfg(debug_assertions)]
    is_base: Vec<bool>,
    /// Number of the step to be decided.
    step: u32,
    /// The running request part-way through its prompt: the last one, if any.
    partial: Option<u32>,
    /// Computed tokens of all running requests.
    context_tokens: u64,
    /// What the next scan of the waiting queue would find.
    prospect: Prospect,
}

impl Scheduler {
    /// An empty engine; adapters are those of `is_base`, by index.
    pub(crate) fn new(settings: &EngineSettings, is_base: &[bool]) -> Self {
        Scheduler {
            rule_set: settings.rule_set,
            max_loras: settings.max_loras,
            max_num_seqs: settings.max_num_seqs,
            max_num_batched_tokens: settings.max_num_batched_tokens,
            long_prefill_token_threshold: settings.long_prefill_token_threshold,
            requests: Requests::default(),
            waiting: Waiting::new(is_base.len()),
            running: Running::default(),
            calendar: Calendar::new(),
            kv_cache: KvCache::new(settings.num_blocks, settings.block_size),
            slots: AdapterSet::new(is_base),
            capped_batch: (settings.long_prefill_token_threshold > 0)
                .then(|| capped::Batch::new(is_base)),
            #[cfg(debug_assertions)]
            is_base: is_base.to_vec(),
            step: 0,
            partial: None,
            context_tokens: 0,
            prospect: Prospect::Open,
        }
    }

    /// A request that the engine does not see yet.
    #[inline]
    pub(crate) fn add(&mut self, adapter: u32, prompt_tokens: u32, output_tokens: u32) -> u32 {
        self.requests
            .add(Request::new(adapter, prompt_tokens, output_tokens))
    }

    /// The request joins the back of the waiting queue.
    #[inline]
    pub(crate) fn enqueue(&mut self, id: u32) {
        let adapter = self.requests[id].adapter;
        // Whether a scan would pass all who wait so far and look at this one.
        let is_reached = self.prospect == Prospect::AllSkipped
            || (self.waiting.len() == 0 && self.running.len() < self.max_num_seqs);
        if is_reached && self.slots_are_full() && !self.slots.contains(adapter) {
            self.prospect = Prospect::AllSkipped;
        } else if self.prospect != Prospect::Stopped {
            self.prospect = Prospect::Open;
        }
        self.waiting.push_back(id, &self.slots, &mut self.requests);
    }

    #[inline]
    fn slots_are_full(&self) -> bool {
        self.slots.distinct() >= self.max_loras
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.len() == 0 && self.waiting.len() == 0
    }

    pub(crate) fn running(&self) -> u32 {
        self.running.len()
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.len()
    }

    pub(crate) fn kv_cache(&self) -> &KvCache {
        &self.kv_cache
    }

    /// Running requests in order of admission.
    pub(crate) fn running_in_order(&self) -> impl Iterator<Item = u32> + '_ {
        self.running.iter()
    }

    /// The request at the front of the waiting queue.
    pub(crate) fn first_waiting(&mut self) -> Option<u32> {
        self.waiting
            .first_preempted()
            .or_else(|| self.waiting.first())
    }

    /// Adapters of the batch last decided, with who came and went.
    #[inline]
    pub(crate) fn batch(&mut self) -> &mut AdapterSet {
        match &mut self.capped_batch {
            Some(batch) => batch.adapters(),
            None => &mut self.slots,
        }
    }

    /// Rules 1 to 7: decides one step.
    pub(crate) fn schedule(&mut self, decision: &mut Decision) {
        decision.clear();
        let mut budget = self.max_num_batched_tokens;
        let chunk_cap = self.chunk_cap();
        if self.capped_batch.is_some() {
            self.schedule_running_capped(decision, &mut budget, chunk_cap);
        } else {
            self.schedule_running(decision, &mut budget);
        }
        decision.n_continued = decision.chunks.len();
        // Rule 4: after a preemption nobody waiting is looked at.
        if decision.preempted.is_empty() {
            self.schedule_waiting(decision, &mut budget, chunk_cap);
        }
        decision.shape.scheduled = decision.decodes + decision.chunks.len() as u32;
        decision.shape.batched_tokens = self.max_num_batched_tokens - budget;
        decision.shape.waiting = self.waiting.len();
        decision.shape.distinct_adapters = match &mut self.capped_batch {
            Some(batch) => batch.rebuild(&decision.chunks, &self.requests),
            None => self.slots.distinct(),
        };
    }

    /// The most tokens of one chunk. In 0.33 a request that is alone is not capped (difference b).
    fn chunk_cap(&self) -> u32 {
        let alone = self.waiting.len() + self.running.len() == 1;
        match (self.long_prefill_token_threshold, self.rule_set) {
            (0, _) => u32::MAX,
            (_, RuleSet::Vllm033) if alone => u32::MAX,
            (threshold, _) => threshold,
        }
    }

    /// Rules 1 to 3, all running requests at once.
    #[inline]
    fn schedule_running(&mut self, decision: &mut Decision, budget: &mut u32) {
        let mut demand = self.kv_cache.decode_demand();
        let mut chunk = None;
        if let Some(id) = self.partial {
            // The last in order: it has what budget the decodes before it leave.
            let request = &self.requests[id];
            let left = *budget - (self.running.len() - 1);
            let tokens = (request.known() - request.computed()).min(left);
            let blocks = self.kv_cache.blocks(request.computed() + tokens)
                - self.kv_cache.blocks(request.computed());
            demand += blocks;
            chunk = Some((Chunk { id, tokens }, blocks));
        }
        if demand > self.kv_cache.free() {
            if let Some((last, blocks)) = chunk.take() {
                self.preempt_last(decision);
                debug_assert_eq!(decision.preempted.last().map(|gone| gone.id), Some(last.id));
                demand -= blocks;
            }
            while demand > self.kv_cache.free() {
                demand -= self.preempt_last(decision);
            }
        }
        self.kv_cache.take(demand);
        decision.shape.context_tokens = self.context_tokens;
        decision.decodes = self.running.len();
        if let Some((chunk, _)) = chunk {
            decision.decodes -= 1;
            *budget -= chunk.tokens;
            decision.add_chunk(chunk, self.requests[chunk.id].computed());
        }
        *budget -= decision.decodes;
    }

    /// Rule 3: the last of the running list loses its blocks and its computed tokens, keeps what it
    /// generated, and waits at the very front. Returns the blocks it wanted in this step, if a decode.
    fn preempt_last(&mut self, decision: &mut Decision) -> u32 {
        let Some(id) = self.running.pop() else {
            unreachable!("what lacks blocks is itself running");
        };
        self.prospect = Prospect::Open;
        let decodes = self.capped_batch.is_none() && self.partial != Some(id);
        let mut wanted = 0;
        if decodes {
            let request = &mut self.requests[id];
            let computed = request.computed_before(self.step);
            request.generated = request.generated_before(self.step);
            self.kv_cache.remove_decode(computed);
            self.calendar.remove(id, &mut self.requests);
            self.requests[id].set_computed(computed);
            wanted = u32::from(self.kv_cache.starts_block(computed));
        } else {
            self.partial = None;
        }
        let request = &mut self.requests[id];
        self.context_tokens -= u64::from(request.computed());
        self.kv_cache
            .give_back(self.kv_cache.blocks(request.computed()));
        request.set_computed(0);
        self.slots.remove(request.adapter);
        self.waiting.push_front(id);
        decision.add_preempted(id, decodes);
        wanted
    }

    /// Rules 5 to 7: the waiting queue, from the front.
    #[inline]
    fn schedule_waiting(&mut self, decision: &mut Decision, budget: &mut u32, chunk_cap: u32) {
        if self.waiting.len() == 0 {
            self.prospect = Prospect::Open;
            return;
        }
        self.prospect = match self.scan(decision, budget, chunk_cap) {
            ScanEnd::NobodyLeft => Prospect::AllSkipped,
            ScanEnd::NoBlocks => Prospect::Stopped,
            // A chunk, begun or continued, took budget that the next scan will have.
            ScanEnd::NoRoom if decision.chunks.is_empty() => Prospect::Stopped,
            ScanEnd::NoRoom => Prospect::Open,
        };
    }

    fn scan(&mut self, decision: &mut Decision, budget: &mut u32, chunk_cap: u32) -> ScanEnd {
        // Number up to which requests were looked at, once slots are full and some are passed over.
        let mut reached = None;
        let mut end = ScanEnd::NoRoom;
        while *budget > 0 && self.running.len() < self.max_num_seqs {
            if let Some(id) = self.waiting.first_preempted() {
                let Some(chunk) = self.first_chunk(id, *budget, chunk_cap) else {
                    return ScanEnd::NoBlocks;
                };
                self.waiting.take_preempted();
                self.admit(chunk, decision, budget);
                decision.n_resumed += 1;
                continue;
            }
            // Rules 5, 6: with all slots taken, the next is the first that needs none.
            let slots_are_full = self.slots_are_full();
            let next = if slots_are_full {
                self.waiting.first_in_slots(&self.slots, &self.requests)
            } else {
                self.waiting.first()
            };
            let Some(id) = next else {
                decision.shape.skipped = self.waiting.arrivals();
                return ScanEnd::NobodyLeft;
            };
            let number = self.requests[id].place;
            if slots_are_full {
                reached = Some(number);
            }
            // Rule 7: who lacks blocks stops the scan.
            let Some(chunk) = self.first_chunk(id, *budget, chunk_cap) else {
                end = ScanEnd::NoBlocks;
                break;
            };
            self.waiting.take(id, &self.slots, &self.requests);
            self.admit(chunk, decision, budget);
        }
        decision.shape.skipped = reached.map_or(0, |number| self.waiting.before(number));
        end
    }

    /// Rule 7: the first chunk of a waiting request, if its blocks are free.
    #[inline]
    fn first_chunk(&self, id: u32, budget: u32, chunk_cap: u32) -> Option<Chunk> {
        let known = self.requests[id].known();
        let tokens = known.min(chunk_cap).min(budget);
        let must_be_free = match self.rule_set {
            RuleSet::Vllm085 => self.kv_cache.blocks(tokens),
            RuleSet::Vllm033 => self.kv_cache.blocks(known),
        };
        (must_be_free <= self.kv_cache.free()).then_some(Chunk { id, tokens })
    }

    /// Rule 7: to the end of running; the adapter takes a slot.
    #[inline]
    fn admit(&mut self, chunk: Chunk, decision: &mut Decision, budget: &mut u32) {
        self.kv_cache.take(self.kv_cache.blocks(chunk.tokens));
        *budget -= chunk.tokens;
        self.running.push(chunk.id, &mut self.requests);
        let request = &self.requests[chunk.id];
        if self.slots.add(request.adapter) {
            self.waiting.adapter_joined(request.adapter, &self.requests);
        }
        if chunk.tokens < request.known() && self.capped_batch.is_none() {
            self.partial = Some(chunk.id);
        }
        decision.add_chunk(chunk, 0);
    }

    /// Rule 8: tokens count as computed; who has all known ones computed gets one more.
    pub(crate) fn complete(&mut self, decision: &Decision, completed: &mut Completed) {
        completed.clear();
        let step = self.step;
        self.step += 1;
        self.kv_cache.next_step();
        self.context_tokens += u64::from(decision.shape.batched_tokens);
        if decision.decodes > 0 {
            self.calendar
                .take(step, &self.requests, &mut completed.finished);
        }
        let decoded = completed.finished.len();
        for chunk in &decision.chunks {
            self.complete_chunk(*chunk, step, completed);
        }
        for (index, &id) in completed.finished.iter().enumerate() {
            self.leave(id, index < decoded);
        }
    }

    /// Rule 8, after steps of decodes alone: who has ended leaves.
    #[inline]
    pub(crate) fn end_decodes(&mut self, completed: &mut Completed) {
        completed.clear();
        self.calendar
            .take(self.step - 1, &self.requests, &mut completed.finished);
        for &id in &completed.finished {
            self.leave(id, true);
        }
    }

    fn complete_chunk(&mut self, chunk: Chunk, step: u32, completed: &mut Completed) {
        let request = &mut self.requests[chunk.id];
        let computed = request.computed() + chunk.tokens;
        request.set_computed(computed);
        if computed < request.known() {
            return;
        }
        request.generated += 1;
        completed.sampled.push(chunk.id);
        if self.partial == Some(chunk.id) {
            self.partial = None;
        }
        if request.generated == request.output_tokens {
            completed.finished.push(chunk.id);
        } else if self.capped_batch.is_none() {
            request.set_last_step(step + (request.output_tokens - request.generated));
            self.kv_cache.add_decode(computed);
            self.calendar
                .insert(chunk.id, self.step, &mut self.requests);
        }
    }

    /// Rule 8: it leaves running and its blocks are free at once.
    #[inline]
    fn leave(&mut self, id: u32, decoded: bool) {
        let request = &self.requests[id];
        let computed = request.computed_at_end();
        if decoded {
            self.kv_cache.remove_decode(computed);
        }
        self.running.remove(request.place);
        self.slots.remove(request.adapter);
        self.context_tokens -= u64::from(computed);
        self.kv_cache.give_back(self.kv_cache.blocks(computed));
        if self.prospect != Prospect::AllSkipped || !self.slots_are_full() {
            self.prospect = Prospect::Open;
        }
    }

    /// Requests that end in the next step unless they are preempted, in no order.
    #[inline]
    pub(crate) fn ending_next(&self) -> impl Iterator<Item = u32> + '_ {
        self.calendar.ending(self.step, &self.requests)
    }

    /// How many steps from here on are decodes of all that runs and nothing else, up to and including
    /// the one in which somebody ends; 0 if the next step needs deciding.
    #[inline]
    pub(crate) fn alike_steps(&self) -> u32 {
        let decodes = self.running.len();
        if !self.is_settled()
            || decodes == 0
            || self.partial.is_some()
            || self.capped_batch.is_some()
        {
            return 0;
        }
        let steps = self.calendar.steps_to_next(self.step);
        self.kv_cache.steps_that_fit(steps, decodes)
    }

    /// Nobody would be admitted in the next step, and as many skipped as is known.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.prospect != Prospect::Open || self.waiting.len() == 0
    }

    /// Takes that many alike steps at once; who ends with the last is for
    /// [`Scheduler::end_decodes`]. Returns the blocks used, each step's times its weight.
    #[inline]
    pub(crate) fn advance(&mut self, steps: u32, weights: Series) -> u128 {
        let decodes = self.running.len();
        self.context_tokens += u64::from(steps) * u64::from(decodes);
        self.step += steps;
        self.kv_cache.advance(steps, decodes, weights)
    }

    /// The shape of the first of the alike steps.
    #[inline]
    pub(crate) fn alike_shape(&self, shape: &mut BatchShape) {
        let decodes = self.running.len();
        shape.batched_tokens = decodes;
        shape.scheduled = decodes;
        shape.distinct_adapters = self.slots.distinct();
        shape.context_tokens = self.context_tokens;
        shape.attention_pairs = 0;
        shape.waiting = self.waiting.len();
        match self.prospect {
            Prospect::Open => shape.skipped = 0, // nobody waits
            Prospect::AllSkipped => shape.skipped = shape.waiting,
            Prospect::Stopped => (),
        }
    }
}
