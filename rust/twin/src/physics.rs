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
//! Adapters *time-share* the LoRA slots, so slots do not cap the batch: [`slots`] has how. What a
//! step costs is in [`batch`], what clients wait for in [`latency`], how likely it is that all slots
//! are in use in [`crowding`]; [`fullness`] is what packing asks.
//!
//! Times are floats in seconds: nothing here enters the engine's integer clock. What the form leaves
//! out (variance, preemption, the order of admission) a model learns on top of it.

mod batch;
mod crowding;
pub mod features;
mod fullness;
mod gpu;
mod latency;
mod slots;
pub mod work;

use batch::{Batch, Mix};
pub use gpu::{over_fluctuations, FrontEndPrices, Gpu, Setting, SteadyState, StepPrices};
use slots::{Sharing, Slots};
use work::Demand;

/// Steps of the solver for the step time, at most; three or four are usual.
const SOLVER_STEPS: usize = 8;

/// Steps of the same where the batch is always full.
const OVERLOAD_STEPS: usize = 2;

/// Steps towards what adapters get of a full batch.
const FILL_STEPS: usize = 3;

/// Steps towards the share of the requests that clients may send.
const ACCEPT_STEPS: usize = 12;

/// Least share of what they would send.
const LEAST_ASKED: f64 = 1e-4;

/// Share of a step to which the solver goes.
const SOLVED: f64 = 5e-4;

/// A question: what is asked of a GPU, with what does not change while it is answered.
struct Case<'a> {
    gpu: &'a Gpu,
    demand: &'a Demand,
    setting: &'a Setting,
    limit: RunningLimits,
    mix: Mix,
    slots: Slots<'a>,
    /// Requests a second that the API server lets through; the rest waits there, where it costs the
    /// engine nothing.
    let_in_rps: f64,
}

/// Most requests that can run.
struct RunningLimits {
    kv: f64,
    tokens: f64,
    running: f64,
}

/// A full batch: the shortest step that asks for so many requests, and how slots are shared in it.
struct Full {
    /// Infinite where those who get a turn cannot fill the batch.
    step_s: f64,
    sharing: Sharing,
    /// How the slots were shared if everybody had his share of the places.
    all_served: Sharing,
}

/// What a step comes to, with all that leads to it.
struct Point {
    running: f64,
    waiting: f64,
    batch: Batch,
    sharing: Sharing,
    /// Whether clients hold back because of those who wait for a slot.
    capped: bool,
}

impl Gpu {
    /// Solves for the steady state.
    #[must_use]
    pub fn solve(&self, demand: &Demand, setting: &Setting) -> SteadyState {
        let case = Case::new(self, demand, setting);
        let full = case.full();
        // A step at the limit, were the batch always full and nobody looked at the queue.
        let full_step_s = case
            .batch(case.limit.running, &full.all_served, 0.0, 1.0)
            .step_s;
        let engine_rps = case.limit.running / (demand.output_tokens * full_step_s);
        let capacity_rps = engine_rps.min(self.server_rps());
        let point = case.operating_point(&full, full_step_s);
        let (batch, sharing) = (&point.batch, &point.sharing);
        let service_s = demand.output_tokens * batch.step_s;
        let state = SteadyState {
            capacity_rps,
            load: demand.rate_rps / capacity_rps,
            completed_rps: (point.running / service_s).min(demand.rate_rps),
            running: point.running,
            running_limit: case.limit.running,
            token_room: case.limit.tokens / case.limit.running,
            batched_tokens: batch.batched_tokens,
            distinct_adapters: sharing.distinct_adapters,
            step_s: batch.step_s,
            prefill_step_s: batch.prefill_step_s,
            itl_s: case.seen_step_s(&point),
            load_fraction: batch.load_s / batch.step_s,
            slot_pressure: sharing.pressure,
            slot_wait_s: (sharing.wait * service_s).min(setting.duration_s),
            slot_served: sharing.served,
            held_work: sharing.held_work,
            crowd: sharing.crowd,
            capped: point.capped,
            kv_usage: (point.running / case.limit.kv).min(1.0),
            futile_fraction: batch.futile,
            headroom: headroom(point.running, case.limit.running, demand.gap_cv_square),
            waiting: point.waiting,
            front_end_load: demand.rate_rps * self.front_end.request,
            ..SteadyState::default()
        };
        self.with_latency(state, demand, setting)
    }

    /// Requests a second that the API server can handle at most.
    fn server_rps(&self) -> f64 {
        1.0 / self.front_end.request.max(1e-9)
    }
}

impl<'a> Case<'a> {
    fn new(gpu: &'a Gpu, demand: &'a Demand, setting: &'a Setting) -> Case<'a> {
        let mix = Mix::of(demand);
        let held = mix.held_tokens + 0.5 * gpu.block_size;
        let kv = ((setting.kv_cache_tokens - gpu.block_size) / held).max(1.0);
        let tokens_a_request = 1.0 + (demand.prompt_tokens - 1.0).max(0.0) / demand.output_tokens;
        let tokens = (gpu.max_num_batched_tokens / tokens_a_request).max(1.0);
        let running = kv.min(tokens).min(gpu.max_num_seqs).max(1.0);
        Case {
            gpu,
            demand,
            setting,
            limit: RunningLimits {
                kv,
                tokens,
                running,
            },
            mix,
            slots: Slots::new(demand, setting, running),
            let_in_rps: demand.rate_rps.min(gpu.server_rps()),
        }
    }

    /// In a full batch each adapter has its share of the places, however much it asks for.
    fn full(&self) -> Full {
        let real_s = self
            .batch(self.limit.running, &self.slots.all(), 0.0, 1.0)
            .step_s;
        let work = (self.let_in_rps * self.demand.output_tokens).max(1e-12);
        let mut step_s = self.limit.running / work;
        let all_served = self.slots.shared(step_s, step_s.max(real_s));
        let mut sharing = all_served;
        for _ in 0..FILL_STEPS {
            let asked = work * step_s * sharing.served;
            if asked >= 0.99 * self.limit.running {
                break;
            }
            // Some of them get no turn: it takes longer steps for the rest to fill the batch.
            step_s *= self.limit.running / asked;
            sharing = self.slots.shared(step_s, step_s.max(real_s));
        }
        if work * step_s * sharing.served < 0.9 * self.limit.running {
            step_s = f64::INFINITY;
        }
        Full {
            step_s,
            sharing,
            all_served,
        }
    }

    /// The step time that asks for as many running requests as make a step so long.
    fn operating_point(&self, full: &Full, full_step_s: f64) -> Point {
        if full_step_s >= full.step_s {
            let mut point = self.point(full, full_step_s);
            if point.running >= self.limit.running {
                // Always full: only the cost of the queue depends on the step any more, and little.
                for _ in 0..OVERLOAD_STEPS {
                    point = self.point(full, point.batch.step_s);
                }
                return point;
            }
        }
        let empty_s = self.point(full, 0.0).batch.step_s;
        let (mut low, mut high) = (0.0, 2.0 * full_step_s.max(empty_s));
        let (mut last, mut last_gap, mut step_s) = (0.0, empty_s, empty_s);
        let mut point = self.point(full, step_s);
        for _ in 0..SOLVER_STEPS {
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
            point = self.point(full, step_s);
        }
        point
    }

    /// What a step comes to if steps take `step_s`.
    fn point(&self, full: &Full, step_s: f64) -> Point {
        let (demand, setting) = (self.demand, self.setting);
        let work = self.let_in_rps * demand.output_tokens;
        let shared_s = step_s.min(full.step_s);
        let mut sharing = if step_s < full.step_s {
            self.slots.shared(step_s, step_s)
        } else {
            full.sharing
        };
        let mut running = (work * step_s * sharing.served).min(self.limit.running);
        // Until the room is full all is as if there were no cap.
        let unserved = (1.0 - running / (work * step_s).max(1e-12)) * demand.rate_rps;
        let until_full =
            (setting.max_in_flight - running).max(0.0) / (unserved * setting.duration_s).max(1e-9);
        let is_capped = sharing.pressure > 1.0 && until_full < 1.0;
        if is_capped {
            let (asked, capped) = self.capped(work * shared_s, shared_s, step_s, &sharing);
            sharing = capped;
            let then = asked.min(self.limit.running);
            running = then + until_full * (running - then);
        }
        let completed_rps = if step_s > 0.0 {
            running / (demand.output_tokens * step_s)
        } else {
            self.let_in_rps
        };
        let room = (setting.max_in_flight - running).max(0.0);
        let queue = |growth_rps: f64| mean_queue(growth_rps.max(0.0), setting, room);
        let completed = completed_rps / demand.rate_rps.max(1e-9);
        let in_engine = queue(self.let_in_rps - completed_rps);
        Point {
            running,
            waiting: queue(demand.rate_rps - completed_rps),
            batch: self.batch(running, &sharing, in_engine, completed),
            sharing,
            capped: is_capped,
        }
    }

    /// How the slots are shared where those who wait for one have filled the room: clients then send
    /// no more than is completed, `asked` running requests at most, and adapters ask for the less.
    fn capped(&self, asked: f64, asked_s: f64, step_s: f64, sharing: &Sharing) -> (f64, Sharing) {
        let most = self.setting.max_in_flight;
        let in_flight = |share: f64, sharing: &Sharing| share * asked * (1.0 + sharing.queue);
        if in_flight(1.0, sharing) <= most {
            return (asked, *sharing);
        }
        // Bisected in logarithms, by the chord where that is inside.
        let gap = |in_flight: f64| (in_flight / most).ln();
        let mut high = (0.0, gap(in_flight(1.0, sharing)));
        let mut low = (LEAST_ASKED.ln(), gap(LEAST_ASKED * asked));
        let (mut share, mut found) = (1.0, *sharing);
        for _ in 0..ACCEPT_STEPS {
            let chord = low.0 - low.1 * (high.0 - low.0) / (high.1 - low.1);
            let at = chord.clamp(0.9 * low.0 + 0.1 * high.0, 0.1 * low.0 + 0.9 * high.0);
            share = at.exp();
            found = self.slots.shared(asked_s * share, step_s);
            let reached = gap(in_flight(share, &found));
            if reached.abs() < 0.01 {
                break;
            }
            if reached > 0.0 {
                high = (at, reached);
            } else {
                low = (at, reached);
            }
        }
        (share * asked, found)
    }
}

fn headroom(running: f64, limit: f64, gap_cv_square: f64) -> f64 {
    (limit - running).max(0.0) / (running.max(0.1) * (1.0 + gap_cv_square) * 0.5).sqrt()
}

/// Mean length over the window of a queue that grows until there is no room.
fn mean_queue(growth_rps: f64, setting: &Setting, room: f64) -> f64 {
    let at_end = growth_rps * setting.duration_s;
    if at_end <= room {
        return 0.5 * at_end;
    }
    room * (1.0 - 0.5 * room / at_end)
}

/// The entry below a position in a table of so many, and how far beyond it that is.
fn place(entries: usize, position: f64) -> (usize, f64) {
    let below = (position as usize).min(entries - 1);
    (below, (position - below as f64).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
