//! The nine rules of vLLM's V1 scheduler, as plainly as they can be said.
//!
//! Every step walks every running and every waiting request; there are no indexes, no counters kept
//! from step to step, no clock and no prices. Rules and their numbers are those of the recordings'
//! description (running first, then waiting; preempt the last; skip, do not block).

use std::collections::VecDeque;

use lorapack_twin::scenario::{EngineSettings, RuleSet};

/// A request as the scheduler knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which adapter it needs; `None` is the base model.
    pub adapter: Option<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens it ends with.
    pub output_tokens: u32,
    /// Tokens sampled so far; they survive a preemption.
    pub generated: u32,
    /// Tokens whose keys and values are in the cache.
    pub computed: u32,
    /// Blocks it holds.
    pub blocks: u32,
    /// Whether it has been preempted before, so that its next admission is a resumption.
    pub preempted_before: bool,
}

impl Request {
    /// A request nobody has looked at yet.
    #[must_use]
    pub fn new(adapter: Option<u32>, prompt_tokens: u32, output_tokens: u32) -> Self {
        Request {
            adapter,
            prompt_tokens,
            output_tokens,
            generated: 0,
            computed: 0,
            blocks: 0,
            preempted_before: false,
        }
    }

    /// Prompt and what has been generated: the tokens there are to compute.
    #[must_use]
    pub fn known(&self) -> u32 {
        self.prompt_tokens + self.generated
    }
}

/// What one call of [`Scheduler::schedule`] decided. Requests are indices in order of `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// (request, tokens): running ones in running order, then those admitted, in order.
    pub scheduled: Vec<(usize, u32)>,
    /// Admitted for the first time.
    pub new: Vec<usize>,
    /// Admitted again after a preemption.
    pub resumed: Vec<usize>,
    /// Preempted, in order.
    pub preempted: Vec<usize>,
    /// Waiting requests passed over because their adapter had no slot.
    pub skipped: u32,
}

/// What [`Scheduler::update`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Requests that got a token, in the order scheduled.
    pub sampled: Vec<usize>,
    /// Requests that ended, in running order.
    pub finished: Vec<usize>,
}

/// The engine's scheduler: two queues and a number of free blocks.
#[derive(Clone, Debug)]
pub struct Scheduler {
    settings: EngineSettings,
    /// All requests ever added.
    pub requests: Vec<Request>,
    /// Not running: arrivals at the back, preempted ones at the front.
    pub waiting: VecDeque<usize>,
    /// Running, in order of admission.
    pub running: Vec<usize>,
    /// Blocks nobody holds.
    pub free_blocks: u32,
}

impl Scheduler {
    /// An empty engine. Rule 9: block 0 is the null block, never handed out.
    #[must_use]
    pub fn new(settings: EngineSettings) -> Self {
        let free_blocks = settings.num_blocks - 1;
        Scheduler {
            settings,
            requests: Vec::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            free_blocks,
        }
    }

    /// A request joins the back of the waiting queue.
    pub fn add(&mut self, request: Request) -> usize {
        self.requests.push(request);
        self.waiting.push_back(self.requests.len() - 1);
        self.requests.len() - 1
    }

    /// Rules 1 to 7: decides one step. Tokens count as computed from here on (rule 8).
    pub fn schedule(&mut self) -> Decision {
        let mut decision = Decision::default();
        let mut budget = self.settings.max_num_batched_tokens;
        let chunk_cap = self.chunk_cap();
        self.schedule_running(&mut decision, &mut budget, chunk_cap);
        // Rule 4: after a preemption nobody waiting is looked at.
        if decision.preempted.is_empty() {
            self.schedule_waiting(&mut decision, &mut budget, chunk_cap);
        }
        for &(request, tokens) in &decision.scheduled {
            self.requests[request].computed += tokens;
        }
        decision
    }

    /// The cap of `long_prefill_token_threshold` for this step; in 0.33 (difference b) a request that
    /// is alone is not capped.
    fn chunk_cap(&self) -> u32 {
        let alone = self.waiting.len() + self.running.len() == 1;
        match (
            self.settings.long_prefill_token_threshold,
            self.settings.rule_set,
        ) {
            (0, _) => u32::MAX,
            (_, RuleSet::Vllm033) if alone => u32::MAX,
            (threshold, _) => threshold,
        }
    }

    /// Rules 1 to 3: the running list, in order, while there is budget.
    fn schedule_running(&mut self, decision: &mut Decision, budget: &mut u32, chunk_cap: u32) {
        let mut position = 0;
        while position < self.running.len() && *budget > 0 {
            let request = self.running[position];
            let wanted = self.requests[request].known() - self.requests[request].computed;
            let tokens = wanted.min(chunk_cap).min(*budget);
            // Rule 3: preempt the last until it fits, or until the last is the request itself.
            let mut gone = false;
            while !gone && !self.take_blocks(request, tokens) {
                let victim = self.preempt_last();
                decision.preempted.push(victim);
                gone = victim == request;
            }
            if gone {
                break;
            }
            *budget -= tokens;
            decision.scheduled.push((request, tokens));
            position += 1;
        }
    }

    /// Rules 5 to 7: the waiting queue, from the front.
    fn schedule_waiting(&mut self, decision: &mut Decision, budget: &mut u32, chunk_cap: u32) {
        let mut slots: Vec<u32> = Vec::new();
        for &(request, _) in &decision.scheduled {
            if let Some(adapter) = self.requests[request].adapter {
                if !slots.contains(&adapter) {
                    slots.push(adapter);
                }
            }
        }
        let mut set_aside: Vec<usize> = Vec::new();
        while *budget > 0 && self.running.len() < self.settings.max_num_seqs as usize {
            let Some(&request) = self.waiting.front() else {
                break;
            };
            // Rule 6: no slot for this adapter: set aside, and on to the next.
            if let Some(adapter) = self.requests[request].adapter {
                if !slots.contains(&adapter) && slots.len() >= self.settings.max_loras as usize {
                    self.waiting.pop_front();
                    set_aside.push(request);
                    decision.skipped += 1;
                    continue;
                }
            }
            // Rule 7: no blocks for this request: the scan stops.
            let tokens = self.requests[request].known().min(chunk_cap).min(*budget);
            if !self.whole_sequence_fits(request) || !self.take_blocks(request, tokens) {
                break;
            }
            self.waiting.pop_front();
            self.running.push(request);
            if let Some(adapter) = self.requests[request].adapter {
                if !slots.contains(&adapter) {
                    slots.push(adapter);
                }
            }
            *budget -= tokens;
            decision.scheduled.push((request, tokens));
            match self.requests[request].preempted_before {
                true => decision.resumed.push(request),
                false => decision.new.push(request),
            }
        }
        for request in set_aside.into_iter().rev() {
            self.waiting.push_front(request);
        }
    }

    /// Difference a of 0.33: all that is known of a request must fit before any of it is admitted.
    fn whole_sequence_fits(&self, request: usize) -> bool {
        match self.settings.rule_set {
            RuleSet::Vllm085 => true,
            RuleSet::Vllm033 => {
                let known = self.requests[request].known();
                known.div_ceil(self.settings.block_size) <= self.free_blocks
            }
        }
    }

    /// Rule 2: takes the blocks that `tokens` more computed tokens need, all or none.
    fn take_blocks(&mut self, request: usize, tokens: u32) -> bool {
        let holder = &mut self.requests[request];
        let needed = (holder.computed + tokens).div_ceil(self.settings.block_size);
        let lacking = needed.saturating_sub(holder.blocks);
        if lacking > self.free_blocks {
            return false;
        }
        self.free_blocks -= lacking;
        holder.blocks += lacking;
        true
    }

    /// Rule 3: the last of the running list loses its blocks and its computed tokens, keeps what it
    /// generated, and waits at the very front.
    fn preempt_last(&mut self) -> usize {
        let victim = self
            .running
            .pop()
            .expect("the request that lacks blocks is itself running");
        let request = &mut self.requests[victim];
        self.free_blocks += request.blocks;
        request.blocks = 0;
        request.computed = 0;
        request.preempted_before = true;
        self.waiting.push_front(victim);
        victim
    }

    /// Rule 8: everyone whose known tokens are all computed gets one token; who has enough leaves.
    pub fn update(&mut self, decision: &Decision) -> Update {
        let mut update = Update::default();
        for &(index, _) in &decision.scheduled {
            let request = &mut self.requests[index];
            if request.computed == request.known() {
                request.generated += 1;
                update.sampled.push(index);
            }
        }
        let running = std::mem::take(&mut self.running);
        for index in running {
            let request = &mut self.requests[index];
            let ended = request.generated >= request.output_tokens
                || request.known() >= self.settings.max_model_len;
            if ended && update.sampled.contains(&index) {
                self.free_blocks += request.blocks;
                request.blocks = 0;
                update.finished.push(index);
            } else {
                self.running.push(index);
            }
        }
        update
    }
}
