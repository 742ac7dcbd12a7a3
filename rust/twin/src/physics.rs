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

/// Preemptions of a request over output / prompt in a full KV cache, as the twin has them.
const PREEMPTED: f64 = 0.22;

/// Newton steps for the slot wait, on the inverse of the slots held: a straight line for like
/// adapters, concave for unlike ones, so that steps from the left never overshoot.
const WAIT_STEPS: usize = 5;

/// Steps of the solver for the step time, at most; three or four are usual.
const SOLVER_STEPS: usize = 8;

/// Steps of the same where the batch is always full.
const OVERLOAD_STEPS: usize = 2;

/// Share of a step to which the solver goes.
const SOLVED: f64 = 2e-4;

/// Share of the slots to which they are shared.
const SHARED: f64 = 1e-4;

/// Prices of a step in seconds, by whole tokens where they are tables.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPrices {
    /// By tokens: a step with LoRA off.
    pub without_lora: Arc<[f64]>,
    /// By tokens: a step with LoRA on, as if there were no slots.
    pub with_lora: Arc<[f64]>,
    /// By tokens: each LoRA slot, used or not.
    pub slot: Arc<[f64]>,
    /// By tokens: each distinct adapter in the batch, were the CPU cache empty.
    pub distinct_adapter: Arc<[f64]>,
    /// Further, a distinct adapter in the batch, for each adapter that the CPU cache holds.
    pub cpu_lora: f64,
    /// One request scheduled.
    pub request: f64,
    /// One context token read in a step without prompts.
    pub context_token: f64,
    /// One context token read in a step with prompts.
    pub mixed_context_token: f64,
    /// One (query, key) pair of prefill attention.
    pub attention_pair: f64,
    /// One waiting request passed over for lack of a slot.
    pub skipped: f64,
    /// One waiting request.
    pub waiting: f64,
    /// Share by which steps are longer for each request offered a second (the CPU is shared).
    pub stretch_s: f64,
}

impl StepPrices {
    /// One context token, where this share of the steps has prompts.
    fn context_price(&self, with_prompts: f64) -> f64 {
        self.context_token + with_prompts * (self.mixed_context_token - self.context_token)
    }
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
    /// Share of the work for which a slot comes free within the window.
    pub slot_served: f64,
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

/// What a step comes to, with all that leads to it.
struct Point {
    running: f64,
    waiting: f64,
    batch: Batch,
    sharing: Sharing,
}

/// A step with a given number of running requests.
struct Batch {
    step_s: f64,
    prefill_step_s: f64,
    batched_tokens: f64,
    load_s: f64,
}

/// Steps over how many prompts fall into them.
struct MeanStep {
    /// Price of the tokens, mean.
    step_s: f64,
    /// The same with a large prefill.
    large_step_s: f64,
    /// Share of the steps that have any prompt.
    with_prompts: f64,
}

/// How adapters share the slots, in service times.
struct Sharing {
    distinct_adapters: f64,
    pressure: f64,
    /// Mean over requests.
    wait: f64,
    /// Adapters copied into a slot for each request completed.
    loads: f64,
    /// Share of the work whose turn comes within the window.
    served: f64,
}

impl Default for Sharing {
    fn default() -> Self {
        Sharing {
            distinct_adapters: 0.0,
            pressure: 0.0,
            wait: 0.0,
            loads: 0.0,
            served: 1.0,
        }
    }
}

impl Gpu {
    /// Solves for the steady state.
    #[must_use]
    pub fn solve(&self, demand: &Demand, setting: &Setting) -> SteadyState {
        let limit = self.running_limits(demand, setting);
        let full_step_s = self.full_step_s(demand, setting, &limit);
        let engine_rps = limit.running / (demand.output_tokens * full_step_s);
        let capacity_rps = engine_rps.min(self.server_rps());
        let point = self.operating_point(demand, setting, &limit, full_step_s);
        let (batch, sharing) = (&point.batch, &point.sharing);
        let service_s = demand.output_tokens * batch.step_s;
        let state = SteadyState {
            capacity_rps,
            load: demand.rate_rps / capacity_rps,
            completed_rps: (point.running / service_s).min(demand.rate_rps),
            running: point.running,
            running_limit: limit.running,
            token_room: limit.tokens / limit.running,
            kv_room: limit.kv / limit.running,
            batched_tokens: batch.batched_tokens,
            distinct_adapters: sharing.distinct_adapters,
            step_s: batch.step_s,
            prefill_step_s: batch.prefill_step_s,
            itl_s: batch.step_s / (1.0 - at(&self.front_end.merged, point.running)),
            load_fraction: batch.load_s / batch.step_s,
            slot_pressure: sharing.pressure,
            slot_wait_s: (sharing.wait * service_s).min(setting.duration_s),
            slot_served: sharing.served,
            kv_usage: (point.running / limit.kv).min(1.0),
            headroom: headroom(point.running, limit.running, demand.gap_cv_square),
            waiting: point.waiting,
            clump_s: demand.clump_tokens / (capacity_rps * demand.output_tokens),
            front_end_load: demand.rate_rps * self.front_end.request,
            startup_fraction: self.startup_fraction(demand, setting),
            ..SteadyState::default()
        };
        self.with_latency(state, demand, setting)
    }

    /// A step at the limit, were the batch always full and nobody looked at the queue.
    fn full_step_s(&self, demand: &Demand, setting: &Setting, limit: &RunningLimits) -> f64 {
        let work = (demand.rate_rps * demand.output_tokens).max(1e-12);
        let sharing = Self::sharing(demand, setting, limit.running / work);
        self.batch(demand, setting, limit, limit.running, &sharing, 0.0)
            .step_s
    }

    /// Requests a second that the API server can handle at most.
    fn server_rps(&self) -> f64 {
        1.0 / self.front_end.request.max(1e-9)
    }

    /// The step time that asks for as many running requests as make a step so long.
    fn operating_point(
        &self,
        demand: &Demand,
        setting: &Setting,
        limit: &RunningLimits,
        full_step_s: f64,
    ) -> Point {
        let mut point = self.point(demand, setting, limit, full_step_s);
        if point.running >= limit.running {
            // Always full: only the cost of the queue depends on the step any more, and little.
            for _ in 0..OVERLOAD_STEPS {
                point = self.point(demand, setting, limit, point.batch.step_s);
            }
            return point;
        }
        let (mut low, mut high) = (0.0, full_step_s.max(point.batch.step_s));
        let (mut last, mut last_gap) = (full_step_s, point.batch.step_s - full_step_s);
        let mut step_s = self.point(demand, setting, limit, 0.0).batch.step_s;
        for _ in 0..SOLVER_STEPS {
            point = self.point(demand, setting, limit, step_s);
            let gap = point.batch.step_s - step_s;
            if gap.abs() <= SOLVED * step_s {
                break;
            }
            if gap > 0.0 {
                low = step_s;
            } else {
                high = step_s;
            }
            let secant = step_s - gap * (step_s - last) / (gap - last_gap);
            (last, last_gap) = (step_s, gap);
            let inside = secant > low && secant < high;
            step_s = if inside { secant } else { 0.5 * (low + high) };
        }
        point
    }

    /// What a step comes to if steps take `step_s`.
    fn point(
        &self,
        demand: &Demand,
        setting: &Setting,
        limit: &RunningLimits,
        step_s: f64,
    ) -> Point {
        let sharing = Self::sharing(demand, setting, step_s);
        // What the API server lets through; the rest waits there, where it costs the engine nothing.
        let let_in_rps = demand.rate_rps.min(self.server_rps());
        let asked = let_in_rps * demand.output_tokens * step_s * sharing.served;
        let running = asked.min(limit.running);
        let completed_rps = if step_s > 0.0 {
            running / (demand.output_tokens * step_s)
        } else {
            let_in_rps
        };
        let room = (setting.max_in_flight - running).max(0.0);
        let queue = |growth_rps: f64| mean_queue(growth_rps.max(0.0), setting, room);
        let in_engine = queue(let_in_rps - completed_rps);
        let batch = self.batch(demand, setting, limit, running, &sharing, in_engine);
        let waiting = queue(demand.rate_rps - completed_rps);
        Point {
            running,
            waiting,
            batch,
            sharing,
        }
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

    /// A step with `running` requests while others wait.
    fn batch(
        &self,
        demand: &Demand,
        setting: &Setting,
        limit: &RunningLimits,
        running: f64,
        sharing: &Sharing,
        waiting: f64,
    ) -> Batch {
        let full = running >= limit.running;
        // What a running request sees: itself, besides those it would see from outside.
        let seen = (running + 1.0).min(limit.running);
        let arrivals = seen / demand.output_tokens;
        let tokens = seen + arrivals * (demand.prompt_tokens - 1.0).max(0.0);
        let price = |tokens| self.tokens_price(tokens, setting, sharing.distinct_adapters);
        let room = (self.max_num_batched_tokens - seen).max(1.0);
        let admitted = arrivals * (1.0 + preemptions(demand, running / limit.kv));
        let mean = mean_over_prefills(demand, seen, admitted, room, price);
        let without_slot = if full {
            share_without_slot(demand, sharing)
        } else {
            1.0
        };
        let load_s = sharing.loads * arrivals * demand.gpu_load_s;
        let step = &self.step;
        let stretch = 1.0 + step.stretch_s * demand.rate_rps;
        let by_batch = step.request * seen
            + seen * held_tokens(demand) * step.context_price(mean.with_prompts)
            + step.attention_pair * admitted * 0.5 * demand.prompt_square
            + step.waiting * waiting
            + step.skipped * waiting * without_slot;
        Batch {
            step_s: (mean.step_s + by_batch) * stretch + load_s,
            prefill_step_s: (mean.large_step_s + by_batch) * stretch + load_s,
            batched_tokens: tokens.min(self.max_num_batched_tokens),
            load_s,
        }
    }

    fn tokens_price(&self, tokens: f64, setting: &Setting, distinct_adapters: f64) -> f64 {
        let step = &self.step;
        if setting.max_loras == 0.0 {
            return at(&step.without_lora, tokens);
        }
        let adapter = at(&step.distinct_adapter, tokens) + step.cpu_lora * setting.max_cpu_loras;
        at(&step.with_lora, tokens)
            + setting.max_loras * at(&step.slot, tokens)
            + distinct_adapters * adapter
    }

    /// How the slots are shared if steps take `step_s`. Within a window an adapter cannot hold a
    /// slot for longer than the window, and one whose turn does not come is not served.
    fn sharing(demand: &Demand, setting: &Setting, step_s: f64) -> Sharing {
        let work = demand.rate_rps * demand.output_tokens;
        if step_s <= 0.0 || work <= 0.0 || demand.groups().is_empty() || setting.max_loras == 0.0 {
            return Sharing::default();
        }
        let window = (setting.duration_s / (demand.output_tokens * step_s)).max(1.0);
        let busy_slots = BUSY_SLOTS * setting.max_loras;
        let mut turns = Turns::default();
        let mut own_work = 0.0;
        for group in demand.groups() {
            turns.push(group.adapters, group.work * step_s, window);
            own_work += group.adapters * group.work;
        }
        let wanted = turns.held(0.0).0;
        let mut wait = 0.0;
        if wanted > busy_slots {
            for _ in 0..WAIT_STEPS {
                let (held, slope) = turns.held(wait);
                if held - busy_slots <= SHARED * busy_slots {
                    break;
                }
                wait += held * (held - busy_slots) / (busy_slots * slope);
            }
        }
        let (held, _) = turns.held(wait);
        let idle = (demand.adapters - held).max(1e-9);
        let kept = ((setting.max_loras - held) / idle).clamp(0.0, 1.0);
        let served = window / (window + wait);
        let in_service = work * step_s;
        Sharing {
            distinct_adapters: (turns.distinct() * served).min(setting.max_loras),
            pressure: wanted / busy_slots,
            wait: turns.mean_wait(wait).min(window),
            loads: (1.0 - kept) * turns.cycles(wait) / in_service,
            served: 1.0 - (own_work / work).min(1.0) * (1.0 - served),
        }
    }

    fn startup_fraction(&self, demand: &Demand, setting: &Setting) -> f64 {
        if setting.warm {
            return 0.0;
        }
        let first_use = self.front_end.first_use + demand.disk_load_s + demand.gpu_load_s;
        (demand.adapters * first_use / setting.duration_s).min(1.0)
    }

    /// Wait of completed requests, mean, in a queue that grows until clients send no more.
    fn queue_wait_s(&self, state: &SteadyState, demand: &Demand, setting: &Setting) -> f64 {
        let completed = state.completed_rps.max(1e-9);
        let growth = (1.0 - completed / demand.rate_rps.max(1e-9)).max(0.0);
        let most_s = (setting.max_in_flight - state.running).max(0.0) / completed;
        mean_queue(growth, setting, most_s)
    }

    /// Adds what clients wait for, and what the window cuts off.
    fn with_latency(&self, state: SteadyState, demand: &Demand, setting: &Setting) -> SteadyState {
        let front = &self.front_end;
        let own_tokens = demand.prompt_tokens.min(self.max_num_batched_tokens - 1.0);
        let own_step_s = state.step_s + self.tokens_price(state.running + own_tokens, setting, 0.0)
            - self.tokens_price(state.running, setting, 0.0);
        let chunks = (demand.prompt_tokens / self.max_num_batched_tokens).max(1.0);
        let busy = 1.0 - (-state.running).exp();
        let server_s = front.request
            * (1.0 + 0.5 * state.front_end_load.min(0.98) / (1.0 - state.front_end_load.min(0.98)));
        // Of those completed: where turns do not come, they are the ones who need not wait for any.
        let slot_s = state.slot_wait_s * state.slot_served;
        let queue_s = self.queue_wait_s(&state, demand, setting);
        let queue_s = if state.running >= state.running_limit {
            queue_s.max(slot_s)
        } else {
            slot_s
        };
        let startup_s = 0.5 * state.startup_fraction.powi(2) * setting.duration_s;
        let ttft_s = (0.5 * busy + front.first_token_step) * state.step_s
            + chunks * own_step_s
            + server_s
            + queue_s
            + front.first_token_fixed
            + front.first_token_request * state.running
            + startup_s;
        let service_s = demand.output_square / demand.output_tokens * state.step_s;
        let service_fraction = service_s / setting.duration_s;
        let cut = ((ttft_s - slot_s + service_s) / setting.duration_s).clamp(0.0, 0.9);
        let kept = if demand.rate_rps > 0.0 {
            state.completed_rps / demand.rate_rps
        } else {
            1.0
        };
        SteadyState {
            ttft_s: ttft_s.max(1e-4),
            service_fraction,
            served_fraction: if state.running < state.running_limit {
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
    fn push(&mut self, adapters: f64, in_service: f64, window: f64) {
        let in_service = in_service.clamp(1e-12, ALWAYS_BUSY);
        let absent = (-in_service).exp();
        // (e^a - 1) / a, from the side that loses no digits.
        let busy = if in_service < 1e-6 {
            1.0
        } else {
            (1.0 - absent) / (absent * in_service)
        };
        let busy = busy.min(window);
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

fn headroom(running: f64, limit: f64, gap_cv_square: f64) -> f64 {
    (limit - running).max(0.0) / (running.max(0.1) * (1.0 + gap_cv_square) * 0.5).sqrt()
}

/// Times that a request is preempted where the KV cache is full: what ends leaves room for its
/// prompt and its output, which new prompts fill at once, until outputs grow and push them out.
fn preemptions(demand: &Demand, kv_usage: f64) -> f64 {
    let full = ((kv_usage - 0.9) / 0.1).clamp(0.0, 1.0);
    full * (PREEMPTED * demand.output_tokens / demand.prompt_tokens.max(1.0)).min(4.0)
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
///
/// `room` is what the step has left for prompts: what would be more goes into other steps.
fn mean_over_prefills(
    demand: &Demand,
    running: f64,
    arrivals: f64,
    room: f64,
    price: impl Fn(f64) -> f64,
) -> MeanStep {
    let prompt = demand.prompt_tokens.max(1.0);
    // A token finds itself in a prompt of E[p^2] / E[p] tokens: that many chunks long.
    let chunks = (demand.prompt_square / (prompt * room)).max(1.0);
    let (chunk, chunks_a_step) = (prompt / chunks, arrivals * chunks);
    let chunk_square = demand.prompt_square / (chunks * chunks);
    let tokens = arrivals * prompt;
    let some = (1.0 - (-chunks_a_step).exp())
        .max(tokens / room)
        .clamp(1e-12, 1.0);
    let mean = (tokens / some).min(room);
    let square = (chunks_a_step * chunk_square + (chunks_a_step * chunk).powi(2)) / some;
    let deviation = (square - mean * mean).max(0.0).sqrt();
    // Two equally likely sizes, so far apart as the room and the mean allow.
    let apart = deviation.min(room - mean).min(mean - 1.0).max(0.0);
    let with_prompts = 0.5 * (price(running + mean - apart) + price(running + mean + apart));
    MeanStep {
        step_s: (1.0 - some) * price(running) + some * with_prompts,
        large_step_s: price(running + (mean + 2.0 * deviation).min(room)),
        with_prompts: some,
    }
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
