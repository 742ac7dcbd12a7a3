//! What clients wait for, on top of the steady state, and what the window cuts off.

use super::work::Demand;
use super::{mean_queue, Gpu, Setting, SteadyState};

/// Share of those who wait behind a burst, with each deviation of free places the fewer: bursts are
/// clumps, whose sizes have a longer tail than a normal law's.
const FEWER_WAIT: f64 = 0.5;

/// Share of the changes in who runs and who waits that bring nothing new where all adapters wait.
const OFTEN_THE_SAME: f64 = 0.8;

/// Steps towards the longest queue of first uses, and towards its end.
const STARTUP_STEPS: usize = 8;

/// Wait behind bursts, over the window, at most.
const LONGEST_BURST: f64 = 0.3;

impl Gpu {
    /// Adds what clients wait for, and what the window cuts off.
    pub(super) fn with_latency(
        &self,
        state: SteadyState,
        demand: &Demand,
        setting: &Setting,
    ) -> SteadyState {
        let front = &self.front_end;
        let price = |tokens| self.tokens_price(tokens, setting, state.distinct_adapters);
        let own_tokens = demand.prompt_tokens.min(self.max_num_batched_tokens - 1.0);
        let own_step_s = state.step_s + self.tokens_price(state.running + own_tokens, setting, 0.0)
            - self.tokens_price(state.running, setting, 0.0);
        let chunks = (demand.prompt_tokens / self.max_num_batched_tokens).max(1.0);
        let busy = 1.0 - (-state.running).exp();
        let server_s = front.request
            * (1.0 + 0.5 * state.front_end_load.min(0.98) / (1.0 - state.front_end_load.min(0.98)));
        // Of those completed: where turns do not come, they are the ones who need not wait for any.
        let slot_s = state.slot_wait_s * state.slot_served;
        let burst_wait_s = burst_wait_s(&state, demand, setting);
        let always_full = state.capped || state.running >= state.running_limit;
        let queue_s = if always_full {
            queue_wait_s(&state, demand, setting).max(slot_s)
        } else {
            slot_s + burst_wait_s
        };
        // Those who come together are prefilled one after another.
        let room = (self.max_num_batched_tokens - state.running).max(1.0);
        let prefills = (demand.clump - 1.0) * demand.prompt_tokens / room;
        let scraped = self.scraped(&state, demand, setting);
        let ttft_s = (0.5 * busy + front.first_token_step) * state.step_s
            + chunks * own_step_s
            + server_s
            + queue_s
            + 0.5 * prefills * price(self.max_num_batched_tokens)
            + front.first_token_fixed
            + front.first_token_request * state.running
            + self.startup_wait_s(demand, setting)
            + scraped.wait_s;
        let service_s = demand.output_square / demand.output_tokens * state.step_s;
        let cut = ((ttft_s - slot_s + service_s) / setting.duration_s).clamp(0.0, 0.9);
        let kept = if demand.rate_rps > 0.0 {
            state.completed_rps / demand.rate_rps
        } else {
            1.0
        };
        SteadyState {
            ttft_s: ttft_s.max(1e-4),
            itl_s: state.itl_s / (1.0 - scraped.joined),
            scrape_s: scraped.last_s,
            burst_wait_s,
            service_fraction: service_s / setting.duration_s,
            served_fraction: if always_full {
                kept
            } else {
                kept * (1.0 - cut)
            },
            ..state
        }
    }

    /// What answers to scrapes hold up. A step that begins or ends a request is one more time series to
    /// render, so answers get longer all the time, in proportion to it.
    fn scraped(&self, state: &SteadyState, demand: &Demand, setting: &Setting) -> Scraped {
        if !setting.is_scraped() {
            return Scraped::default();
        }
        // Where everybody waits all the time, only who runs changes, and less often.
        let adapters = demand.effective_adapters.max(1.0);
        let all_wait = state.waiting / (state.waiting + adapters);
        let changes = 2.0
            * state.completed_rps
            * (1.0 - demand.base_share)
            * (1.0 - OFTEN_THE_SAME * all_wait);
        let changed = 1.0 - (-changes * state.step_s).exp();
        // Few adapters make few sets: as many as the entropy of who runs says, with any that waits.
        let present = (state.distinct_adapters / adapters).clamp(1e-6, 0.999);
        let entropy = -present * present.ln() - (1.0 - present) * (1.0 - present).ln();
        let sets = (entropy * adapters).min(50.0).exp() * (1.0 + adapters);
        let reports = setting.duration_s / state.step_s * changed;
        let series = -sets * (-reports / sets).exp_m1();
        let names = state.distinct_adapters
            + (demand.adapters - state.distinct_adapters).min(state.waiting);
        let last_s = series * (self.front_end.series + names * self.front_end.series_adapter);
        let (mean_s, interval_s) = (0.5 * last_s, setting.scrape_interval_s);
        Scraped {
            last_s,
            // Half of an answer for who arrives in one, and as much for a first token made in one.
            wait_s: last_s * last_s / 3.0 / (interval_s + mean_s),
            joined: ((mean_s - state.step_s) / (interval_s + mean_s)).clamp(0.0, 0.9),
        }
    }

    /// Wait that first uses of adapters come to, mean over requests: each blocks the API server.
    ///
    /// Where first requests come faster than first uses are done, a queue builds until most of those
    /// who ask often have been seen; it is worked off when all that came by then is done.
    fn startup_wait_s(&self, demand: &Demand, setting: &Setting) -> f64 {
        let own_rps = demand.rate_rps * (1.0 - demand.base_share);
        if setting.warm || own_rps <= 0.0 || demand.adapters <= 0.0 {
            return 0.0;
        }
        let first_use = self.front_end.first_use + demand.disk_load_s;
        let used = FirstUses::until(demand, setting.duration_s).n;
        let own = 1.0 / (demand.rate_rps * setting.duration_s).max(1.0);
        let alone = used * first_use * (0.5 * first_use / setting.duration_s + own);
        if FirstUses::until(demand, 0.0).rate * first_use <= 1.0 {
            return alone;
        }
        let mut peak_at = 0.0;
        for _ in 0..STARTUP_STEPS {
            let uses = FirstUses::until(demand, peak_at);
            peak_at +=
                (uses.rate * first_use - 1.0).max(0.0) / (uses.slowing * first_use).max(1e-12);
        }
        let peak_s = FirstUses::until(demand, peak_at).n * first_use - peak_at;
        let mut done_at = used * first_use;
        for _ in 0..STARTUP_STEPS {
            done_at = FirstUses::until(demand, done_at).n * first_use;
        }
        alone + 0.5 * peak_s * (done_at / setting.duration_s).min(1.0)
    }
}

/// First uses of adapters after a cold start, expected.
struct FirstUses {
    n: f64,
    /// Of further ones, a second.
    rate: f64,
    /// How fast that goes down.
    slowing: f64,
}

impl FirstUses {
    fn until(demand: &Demand, time_s: f64) -> FirstUses {
        let mut uses = FirstUses {
            n: 0.0,
            rate: 0.0,
            slowing: 0.0,
        };
        for group in demand.groups() {
            let own_rps = group.clumps / demand.output_tokens;
            let unseen = group.adapters * (-own_rps * time_s).exp();
            uses.n += group.adapters - unseen;
            uses.rate += unseen * own_rps;
            uses.slowing += unseen * own_rps * own_rps;
        }
        uses
    }
}

/// What scrapes of the metrics come to.
#[derive(Default)]
struct Scraped {
    /// The last answer.
    last_s: f64,
    /// Added to a first token, mean.
    wait_s: f64,
    /// Share of the tokens that reach the client together with the one before.
    joined: f64,
}

impl Setting {
    /// Whether anybody scrapes the metrics within the window.
    pub(super) fn is_scraped(&self) -> bool {
        self.scrape_interval_s < self.duration_s
    }
}

/// Wait of completed requests, mean, in a queue that grows until clients send no more.
fn queue_wait_s(state: &SteadyState, demand: &Demand, setting: &Setting) -> f64 {
    let completed = state.completed_rps.max(1e-9);
    let growth = (1.0 - completed / demand.rate_rps.max(1e-9)).max(0.0);
    let most_s = (setting.max_in_flight - state.running).max(0.0) / completed;
    mean_queue(growth, setting, most_s)
}

/// Wait behind bursts where there is capacity for the mean, mean over requests: the share of those
/// who wait at all, by the free places, and Kingman's wait of those; near capacity a window is too
/// short for all of it.
fn burst_wait_s(state: &SteadyState, demand: &Demand, setting: &Setting) -> f64 {
    let who_wait = (-FEWER_WAIT * state.headroom).exp();
    let variation = 0.5 * (demand.gap_cv_square + 1.0);
    let requests = (state.capacity_rps * setting.duration_s).max(1e-9);
    let room = (1.0 - state.load).max(0.0) + (variation / requests).sqrt();
    (who_wait * variation / (state.capacity_rps * room)).min(LONGEST_BURST * setting.duration_s)
}
