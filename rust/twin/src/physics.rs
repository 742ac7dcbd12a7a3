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
mod gpu;
mod slots;
pub mod work;

pub use gpu::{FrontEndPrices, Gpu, Setting, SteadyState, StepPrices};
use slots::Sharing;
use work::Demand;

/// Preemptions of a request over output / prompt in a full KV cache, as the twin has them.
const PREEMPTED: f64 = 0.22;

/// Steps of the solver for the step time, at most; three or four are usual.
const SOLVER_STEPS: usize = 8;

/// Steps of the same where the batch is always full.
const OVERLOAD_STEPS: usize = 2;

/// Share of a step to which the solver goes.
const SOLVED: f64 = 2e-4;

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
            itl_s: batch.step_s,
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
        let sharing = Sharing::of(demand, setting, limit.running / work);
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
        let sharing = Sharing::of(demand, setting, step_s);
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
