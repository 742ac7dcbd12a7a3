//! The steady state of one GPU in about a microsecond: no simulation, only what its adapters ask
//! for ([`work`]) and what a step costs.
//!
//! In a steady state every running request gets one token a step. With `R` running, mean output `o`
//! and step time `T(R)`, requests complete at the rate `R / (o T(R))`:
//!
//! - *capacity* is that rate at the largest `R` that tokens a step, sequences and KV blocks allow;
//! - below it, `R` is where the rate equals what is offered; above it the queue grows, and its cost
//!   (waiting and skipped requests are looked at in every step) lowers the rate.
//!
//! Adapters *time-share* the LoRA slots, so slots do not cap the batch. An adapter with `a` requests
//! in service on average holds a slot for a busy period of `B = (e^a - 1) / a` service times, then
//! asks for nothing for `1 / a`; where more slots are wanted than there are, each waits `w` for its
//! turn, with `sum B / (B + 1/a + w) = 0.98 slots`.
//!
//! Times are floats in seconds: nothing here enters the engine's integer clock. What the form leaves
//! out (variance, preemption, the order of admission) a model learns on top of it.

pub mod features;
pub mod work;

use std::sync::Arc;

use work::Demand;

/// Share of the slots that time-sharing keeps busy.
const BUSY_SLOTS: f64 = 0.98;

/// Requests in service from which on an adapter never goes idle: e^30 service times is for ever.
const ALWAYS_BUSY: f64 = 30.0;

/// Newton steps for the slot wait, on the inverse of the slots held: a straight line for like
/// adapters, concave for unlike ones, so that steps from the left never overshoot.
const WAIT_STEPS: usize = 5;

/// Secant steps for the running requests.
const RUNNING_STEPS: usize = 8;

/// Prices of a step in seconds, by whole tokens where they are tables.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPrices {
    /// By tokens: a step with LoRA off.
    pub without_lora: Arc<[f64]>,
    /// By tokens: a step with LoRA on, as if there were no slots.
    pub with_lora: Arc<[f64]>,
    /// By tokens: each LoRA slot, used or not.
    pub slot: Arc<[f64]>,
    /// By tokens: each distinct adapter in the batch.
    pub distinct_adapter: Arc<[f64]>,
    /// One request scheduled.
    pub request: f64,
    /// One context token read.
    pub context_token: f64,
    /// One (query, key) pair of prefill attention.
    pub attention_pair: f64,
    /// One waiting request passed over for lack of a slot.
    pub skipped: f64,
    /// One waiting request.
    pub waiting: f64,
    /// One request that reached the engine since the step before.
    pub arrival: f64,
}

/// The front end in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontEndPrices {
    /// API-server time a request.
    pub request: f64,
    /// Further time at an adapter's first request.
    pub first_use: f64,
    /// Added to a TTFT.
    pub first_token_fixed: f64,
    /// Added to a TTFT for each request in its step.
    pub first_token_request: f64,
    /// Added to a TTFT: this share of its step.
    pub first_token_step: f64,
    /// By requests in a step: share of tokens that clients see merged with the one before.
    pub merged: Arc<[f64]>,
}

/// A GPU with its engine: all that does not change as adapters come and go.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Cost of a step.
    pub step: StepPrices,
    /// Cost outside the engine.
    pub front_end: FrontEndPrices,
    /// Tokens a KV block holds.
    pub block_size: f64,
    /// Requests that may run at once.
    pub max_num_seqs: f64,
    /// Tokens a step may hold; the tables go that far.
    pub max_num_batched_tokens: f64,
}

/// What is set for one prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// LoRA slots; 0: LoRA is off.
    pub max_loras: f64,
    /// Rank that the slots are made for (the prices know it already).
    pub max_lora_rank: f64,
    /// Adapters that the CPU cache holds.
    pub max_cpu_loras: f64,
    /// KV cache, tokens, the null block counted.
    pub kv_cache_tokens: f64,
    /// Length of the window, seconds.
    pub duration_s: f64,
    /// Whether every adapter was used before.
    pub warm: bool,
    /// Requests that clients keep in the system at most.
    pub max_in_flight: f64,
}

/// What a GPU comes to when the same demand goes on. Rates in requests a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SteadyState {
    /// Largest rate that can be completed.
    pub capacity_rps: f64,
    /// Offered rate over capacity.
    pub load: f64,
    /// Rate completed: what is offered, or what a growing queue leaves of the capacity.
    pub completed_rps: f64,
    /// Running requests.
    pub running: f64,
    /// Most requests that can run.
    pub running_limit: f64,
    /// Most that the tokens of a step allow, over `running_limit`.
    pub token_room: f64,
    /// Most that the KV cache allows, over `running_limit`.
    pub kv_room: f64,
    /// Tokens in a step.
    pub batched_tokens: f64,
    /// Distinct adapters in a step.
    pub distinct_adapters: f64,
    /// A step, adapter loads included.
    pub step_s: f64,
    /// A step with a large prefill in it.
    pub prefill_step_s: f64,
    /// Between two tokens, as a client sees it.
    pub itl_s: f64,
    /// Share of the steps' time that adapter loads take.
    pub load_fraction: f64,
    /// Slots wanted over slots kept busy.
    pub slot_pressure: f64,
    /// Wait for a slot, mean over requests.
    pub slot_wait_s: f64,
    /// Share of the KV cache held.
    pub kv_usage: f64,
    /// Free places over the standard deviation of running requests.
    pub headroom: f64,
    /// Requests waiting, mean over the window.
    pub waiting: f64,
    /// First token, as a client sees it, mean.
    pub ttft_s: f64,
    /// Time a request spends in the engine, by its output, over the window.
    pub service_fraction: f64,
    /// Share of the window that first uses of adapters block the API server.
    pub startup_fraction: f64,
    /// Share of the time that the API server is busy with requests.
    pub front_end_load: f64,
    /// Time to work off one clump of a bursty adapter.
    pub clump_s: f64,
    /// Tokens served over tokens offered in the window.
    pub served_fraction: f64,
}

/// A step with a given number of running requests.
#[derive(Clone, Copy, Default)]
struct Batch {
    step_s: f64,
    prefill_step_s: f64,
    batched_tokens: f64,
    distinct_adapters: f64,
    load_s: f64,
    slot_pressure: f64,
    /// In service times.
    slot_wait: f64,
    /// Requests.
    waiting: f64,
}

/// Who waits while a step runs; looking at them costs time.
#[derive(Clone, Copy)]
enum Queue {
    /// Nobody: the capacity is that of the batch alone.
    Nobody,
    /// Those whose adapter waits for a slot.
    ForSlots,
    /// So many, in a queue that grows.
    Grows(f64),
}

/// How adapters share the slots, in service times.
#[derive(Clone, Copy, Default)]
struct Sharing {
    distinct_adapters: f64,
    pressure: f64,
    /// Mean over requests.
    wait: f64,
    /// Adapters copied into a slot for each request completed.
    loads: f64,
}

impl Gpu {
    /// Solves for the steady state.
    #[must_use]
    pub fn solve(&self, demand: &Demand, setting: &Setting) -> SteadyState {
        let limit = self.running_limits(demand, setting);
        let full_of_tokens = limit.tokens <= limit.running;
        let full = self.batch(
            demand,
            setting,
            limit.running,
            Queue::Nobody,
            full_of_tokens,
        );
        let engine_rps = limit.running / (demand.output_tokens * full.step_s);
        let capacity_rps = engine_rps.min(1.0 / self.front_end.request.max(1e-9));
        let offered = demand.rate_rps;
        let (batch, running, waiting, completed_rps) = if offered < capacity_rps {
            let running = self.running(demand, setting, limit.running);
            let seen = one_more(running, limit.running);
            let batch = self.batch(demand, setting, seen, Queue::ForSlots, false);
            (batch, running, batch.waiting, offered)
        } else {
            self.overloaded(demand, setting, &limit, full)
        };
        let state = SteadyState {
            capacity_rps,
            load: offered / capacity_rps,
            completed_rps,
            running,
            running_limit: limit.running,
            token_room: limit.tokens / limit.running,
            kv_room: limit.kv / limit.running,
            batched_tokens: batch.batched_tokens,
            distinct_adapters: batch.distinct_adapters,
            step_s: batch.step_s,
            prefill_step_s: batch.prefill_step_s,
            itl_s: batch.step_s / (1.0 - at(&self.front_end.merged, running)),
            load_fraction: batch.load_s / batch.step_s,
            slot_pressure: batch.slot_pressure,
            slot_wait_s: (batch.slot_wait * demand.output_tokens * batch.step_s)
                .min(0.5 * setting.duration_s),
            kv_usage: (running / limit.kv).min(1.0),
            headroom: headroom(running, limit.running, demand.gap_cv_square),
            waiting,
            clump_s: demand.clump_tokens / (capacity_rps * demand.output_tokens),
            front_end_load: offered * self.front_end.request,
            startup_fraction: self.startup_fraction(demand, setting),
            ..SteadyState::default()
        };
        self.with_latency(state, demand, setting)
    }

    fn running_limits(&self, demand: &Demand, setting: &Setting) -> RunningLimits {
        let held = held_tokens(demand) + 0.5 * self.block_size;
        let kv = ((setting.kv_cache_tokens - self.block_size) / held).max(1.0);
        let tokens_a_request = 1.0 + (demand.prompt_tokens - 1.0).max(0.0) / demand.output_tokens;
        let tokens = (self.max_num_batched_tokens / tokens_a_request).max(1.0);
        RunningLimits {
            kv,
            tokens,
            running: kv.min(tokens).min(self.max_num_seqs).max(1.0),
        }
    }

    /// Running requests where as many complete as are offered.
    fn running(&self, demand: &Demand, setting: &Setting, limit: f64) -> f64 {
        let asked = |running: f64| {
            let seen = one_more(running, limit);
            let batch = self.batch(demand, setting, seen, Queue::ForSlots, false);
            (demand.rate_rps * demand.output_tokens * batch.step_s).min(limit)
        };
        // The step time is nearly affine in `running`, so secants of asked(R) - R meet zero quickly.
        let (mut low, mut low_gap) = (0.0, asked(0.0));
        let mut running = low_gap;
        for _ in 0..RUNNING_STEPS {
            let gap = asked(running) - running;
            if gap.abs() <= 1e-4 * running.max(1e-3) {
                break;
            }
            let slope = (gap - low_gap) / (running - low);
            let next = if slope < 0.0 {
                running - gap / slope
            } else {
                limit
            };
            (low, low_gap) = (running, gap);
            running = next.clamp(0.0, limit);
            if running == low {
                break;
            }
        }
        running
    }

    /// The step at the limit with a queue that grows all through the window.
    fn overloaded(
        &self,
        demand: &Demand,
        setting: &Setting,
        limit: &RunningLimits,
        full: Batch,
    ) -> (Batch, f64, f64, f64) {
        let full_of_tokens = limit.tokens <= limit.running;
        let rate = |batch: &Batch| limit.running / (demand.output_tokens * batch.step_s);
        let room = (setting.max_in_flight - limit.running).max(0.0);
        let (mut batch, mut waiting) = (full, 0.0);
        for _ in 0..3 {
            waiting = mean_queue((demand.rate_rps - rate(&batch)).max(0.0), setting, room);
            let queue = Queue::Grows(waiting);
            batch = self.batch(demand, setting, limit.running, queue, full_of_tokens);
        }
        let completed = rate(&batch).min(demand.rate_rps);
        (
            batch,
            limit.running,
            waiting,
            completed.min(1.0 / self.front_end.request.max(1e-9)),
        )
    }

    /// A step with `running` requests.
    fn batch(
        &self,
        demand: &Demand,
        setting: &Setting,
        running: f64,
        queue: Queue,
        full_of_tokens: bool,
    ) -> Batch {
        let sharing = self.sharing(demand, setting, running);
        let arrivals = running / demand.output_tokens;
        let tokens = running + arrivals * (demand.prompt_tokens - 1.0).max(0.0);
        let price =
            |tokens| self.tokens_price(tokens, setting.max_loras, sharing.distinct_adapters);
        let (by_tokens, large) = if full_of_tokens {
            let full = price(self.max_num_batched_tokens);
            (full, full)
        } else {
            let chunk = (self.max_num_batched_tokens - running).max(1.0);
            mean_over_prefills(demand, running, arrivals, chunk, price)
        };
        let (waiting, skipped) = match queue {
            Queue::Nobody => (0.0, 0.0),
            Queue::ForSlots => {
                let most = 0.5 * demand.rate_rps * setting.duration_s;
                let waiting = (sharing.wait * running)
                    .min(most)
                    .min(setting.max_in_flight);
                (waiting, waiting)
            }
            Queue::Grows(waiting) => (waiting, waiting * share_without_slot(demand, &sharing)),
        };
        let load_s = sharing.loads * arrivals * demand.gpu_load_s;
        let step = &self.step;
        let by_batch = step.request * running
            + step.context_token * running * held_tokens(demand)
            + step.attention_pair * arrivals * 0.5 * demand.prompt_square
            + step.arrival * arrivals
            + step.waiting * waiting
            + step.skipped * skipped;
        Batch {
            step_s: by_tokens + by_batch + load_s,
            prefill_step_s: large + by_batch + load_s,
            batched_tokens: tokens.min(self.max_num_batched_tokens),
            distinct_adapters: sharing.distinct_adapters,
            load_s,
            slot_pressure: sharing.pressure,
            slot_wait: sharing.wait,
            waiting,
        }
    }

    fn tokens_price(&self, tokens: f64, max_loras: f64, distinct_adapters: f64) -> f64 {
        if max_loras == 0.0 {
            return at(&self.step.without_lora, tokens);
        }
        at(&self.step.with_lora, tokens)
            + max_loras * at(&self.step.slot, tokens)
            + distinct_adapters * at(&self.step.distinct_adapter, tokens)
    }

    fn sharing(&self, demand: &Demand, setting: &Setting, running: f64) -> Sharing {
        let work = demand.rate_rps * demand.output_tokens;
        if work <= 0.0 || demand.groups().is_empty() {
            return Sharing::default();
        }
        let busy_slots = BUSY_SLOTS * setting.max_loras.max(1.0);
        let mut turns = Turns::default();
        for group in demand.groups() {
            turns.push(group.adapters, running * group.work / work);
        }
        let wanted = turns.held(0.0).0;
        let mut wait = 0.0;
        if wanted > busy_slots {
            for _ in 0..WAIT_STEPS {
                let (held, slope) = turns.held(wait);
                wait += held * (held - busy_slots) / (busy_slots * slope);
            }
        }
        let (held, _) = turns.held(wait);
        let idle = (demand.adapters - held).max(1e-9);
        let kept = ((setting.max_loras - held) / idle).clamp(0.0, 1.0);
        Sharing {
            distinct_adapters: turns.distinct().min(setting.max_loras),
            pressure: wanted / busy_slots,
            wait: turns.mean_wait(wait),
            loads: (1.0 - kept) * turns.cycles(wait) / running.max(1e-9),
        }
    }

    fn startup_fraction(&self, demand: &Demand, setting: &Setting) -> f64 {
        if setting.warm {
            return 0.0;
        }
        let first_use = self.front_end.first_use + demand.disk_load_s + demand.gpu_load_s;
        (demand.adapters * first_use / setting.duration_s).min(1.0)
    }

    /// Adds what clients wait for, and what the window cuts off.
    fn with_latency(&self, state: SteadyState, demand: &Demand, setting: &Setting) -> SteadyState {
        let front = &self.front_end;
        let own_tokens = demand.prompt_tokens.min(self.max_num_batched_tokens - 1.0);
        let own_step_s = state.step_s
            + self.tokens_price(state.running + own_tokens, setting.max_loras, 0.0)
            - self.tokens_price(state.running, setting.max_loras, 0.0);
        let chunks = (demand.prompt_tokens / self.max_num_batched_tokens).max(1.0);
        let busy = 1.0 - (-state.running).exp();
        let server_s = front.request
            * (1.0 + 0.5 * state.front_end_load.min(0.98) / (1.0 - state.front_end_load.min(0.98)));
        let queue_s = (state.waiting / state.completed_rps.max(1e-9)).min(setting.duration_s);
        let startup_s = 0.5 * state.startup_fraction.powi(2) * setting.duration_s;
        let ttft_s = (0.5 * busy + front.first_token_step) * state.step_s
            + chunks * own_step_s
            + server_s
            + queue_s.max(state.slot_wait_s)
            + front.first_token_fixed
            + front.first_token_request * state.running
            + startup_s;
        let service_s = demand.output_square / demand.output_tokens * state.step_s;
        let service_fraction = service_s / setting.duration_s;
        let cut = ((ttft_s + service_s) / setting.duration_s).min(0.9);
        let kept = (state.completed_rps / demand.rate_rps.max(1e-12)).min(1.0);
        SteadyState {
            ttft_s: ttft_s.max(1e-4),
            service_fraction,
            served_fraction: if state.load < 1.0 {
                kept * (1.0 - cut)
            } else {
                kept
            },
            ..state
        }
    }
}

struct RunningLimits {
    kv: f64,
    tokens: f64,
    running: f64,
}

/// Busy periods of the adapters, group by group, in service times.
#[derive(Default)]
struct Turns {
    groups: [Turn; work::BINS],
    n: usize,
}

#[derive(Clone, Copy, Default)]
struct Turn {
    adapters: f64,
    in_service: f64,
    present: f64,
    busy: f64,
    cycle: f64,
}

impl Turns {
    fn push(&mut self, adapters: f64, in_service: f64) {
        let in_service = in_service.clamp(1e-12, ALWAYS_BUSY);
        let absent = (-in_service).exp();
        // (e^a - 1) / a, from the side that loses no digits.
        let busy = if in_service < 1e-6 {
            1.0
        } else {
            (1.0 - absent) / (absent * in_service)
        };
        let cycle = busy + 1.0 / in_service;
        self.groups[self.n] = Turn {
            adapters,
            in_service,
            present: 1.0 - absent,
            busy,
            cycle,
        };
        self.n += 1;
    }

    fn turns(&self) -> &[Turn] {
        &self.groups[..self.n]
    }

    /// Slots held when every turn starts with a wait, and how fast that falls with the wait.
    fn held(&self, wait: f64) -> (f64, f64) {
        let (mut held, mut slope) = (0.0, 0.0);
        for turn in self.turns() {
            let per_cycle = 1.0 / (turn.cycle + wait);
            let share = turn.adapters * turn.busy * per_cycle;
            held += share;
            slope += share * per_cycle;
        }
        (held, slope)
    }

    fn distinct(&self) -> f64 {
        self.turns()
            .iter()
            .map(|turn| turn.adapters * turn.present)
            .sum()
    }

    /// Turns begun in one service time.
    fn cycles(&self, wait: f64) -> f64 {
        self.turns()
            .iter()
            .map(|turn| turn.adapters / (turn.cycle + wait))
            .sum()
    }

    /// Wait of a request, mean over requests: the turn's first waits in full, those who come while
    /// it waits on average for half.
    fn mean_wait(&self, wait: f64) -> f64 {
        let (mut waits, mut requests) = (0.0, 0.0);
        for turn in self.turns() {
            let (adapters, a) = (turn.adapters, turn.in_service);
            let turns = adapters / (turn.cycle + wait);
            waits += turns * (wait + 0.5 * a * wait * wait);
            requests += turns * (1.0 + a * (turn.busy + wait));
        }
        waits / requests.max(1e-300)
    }
}

/// KV tokens of a running request, mean over its life and over running requests.
fn held_tokens(demand: &Demand) -> f64 {
    (demand.prompt_output + 0.5 * demand.output_square) / demand.output_tokens
}

/// What a running request sees: itself, besides the `running` it would see from outside.
fn one_more(running: f64, limit: f64) -> f64 {
    (running + 1.0).min(limit)
}

fn headroom(running: f64, limit: f64, gap_cv_square: f64) -> f64 {
    (limit - running).max(0.0) / (running.max(0.1) * (1.0 + gap_cv_square) * 0.5).sqrt()
}

/// Share of the queue whose adapter has no slot.
fn share_without_slot(demand: &Demand, sharing: &Sharing) -> f64 {
    (1.0 - sharing.distinct_adapters / demand.adapters.max(1.0)).clamp(0.0, 1.0)
        * (1.0 - demand.base_share)
}

/// Mean length over the window of a queue that grows until there is no room.
fn mean_queue(growth_rps: f64, setting: &Setting, room: f64) -> f64 {
    let at_end = growth_rps * setting.duration_s;
    if at_end <= room {
        return 0.5 * at_end;
    }
    room * (1.0 - 0.5 * room / at_end)
}

/// Mean price of a step over how many prompts fall into it (Poisson), and the price of a large one.
fn mean_over_prefills(
    demand: &Demand,
    running: f64,
    arrivals: f64,
    chunk: f64,
    price: impl Fn(f64) -> f64,
) -> (f64, f64) {
    let prompt = demand.prompt_tokens.max(1.0);
    // A token finds itself in a prompt of E[p^2] / E[p] tokens: that many chunks long.
    let chunks = (demand.prompt_square / (prompt * chunk)).max(1.0);
    let (arrivals, prompt) = (arrivals * chunks, prompt / chunks);
    let prompt_square = demand.prompt_square / (chunks * chunks);
    let none = (-arrivals).exp();
    let some = (1.0 - none).max(1e-12);
    let decoding = running.max(1.0);
    let mean = arrivals * prompt / some;
    let square = (arrivals * prompt_square + arrivals * arrivals * prompt * prompt) / some;
    let deviation = (square - mean * mean).max(0.0).sqrt();
    let small = decoding + (mean - deviation).max(1.0);
    let large = decoding + mean + deviation;
    let with_prompts = 0.5 * (price(small) + price(large));
    (
        none * price(decoding) + (1.0 - none) * with_prompts,
        price(large + deviation),
    )
}

/// Linear between whole entries; what lies beyond the table takes its last entry.
fn at(table: &[f64], position: f64) -> f64 {
    let last = table.len() - 1;
    let below = (position as usize).min(last);
    let above = (below + 1).min(last);
    let part = (position - below as f64).clamp(0.0, 1.0);
    table[below] + part * (table[above] - table[below])
}

#[cfg(test)]
mod tests;
