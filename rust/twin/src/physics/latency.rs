//! What clients wait for, on top of the steady state, and what the window cuts off.

use super::work::Demand;
use super::{mean_queue, Gpu, Setting, SteadyState};

/// Share of those who wait behind a burst, with each deviation of free places the fewer: bursts are
/// clumps, whose sizes have a longer tail than a normal law's.
const FEWER_WAIT: f64 = 0.5;

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
        let always_full = state.running >= state.running_limit;
        let queue_s = if always_full {
            queue_wait_s(&state, demand, setting).max(slot_s)
        } else {
            slot_s + burst_wait_s
        };
        // Those who come together are prefilled one after another.
        let room = (self.max_num_batched_tokens - state.running).max(1.0);
        let prefills = (demand.clump - 1.0) * demand.prompt_tokens / room;
        let ttft_s = (0.5 * busy + front.first_token_step) * state.step_s
            + chunks * own_step_s
            + server_s
            + queue_s
            + 0.5 * prefills * price(self.max_num_batched_tokens)
            + front.first_token_fixed
            + front.first_token_request * state.running
            + self.startup_wait_s(demand, setting);
        let service_s = demand.output_square / demand.output_tokens * state.step_s;
        let cut = ((ttft_s - slot_s + service_s) / setting.duration_s).clamp(0.0, 0.9);
        let kept = if demand.rate_rps > 0.0 {
            state.completed_rps / demand.rate_rps
        } else {
            1.0
        };
        SteadyState {
            ttft_s: ttft_s.max(1e-4),
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

    /// Wait that first uses of adapters come to, mean over requests: each blocks the API server.
    ///
    /// Where first requests come faster than first uses are done, a queue builds until most adapters
    /// have been seen; with `x` seconds of first uses coming a second at first, and less and less as
    /// adapters have been seen, it peaks at `x - 1 - ln x` gaps of an adapter.
    fn startup_wait_s(&self, demand: &Demand, setting: &Setting) -> f64 {
        let own_rps = demand.rate_rps * (1.0 - demand.base_share) / demand.clump;
        if setting.warm || own_rps <= 0.0 || demand.adapters <= 0.0 {
            return 0.0;
        }
        let first_use = self.front_end.first_use + demand.disk_load_s;
        let gap_s = demand.adapters / own_rps;
        let used = demand.adapters * (1.0 - (-setting.duration_s / gap_s).exp());
        let own = 1.0 / (demand.rate_rps * setting.duration_s).max(1.0);
        let alone = used * first_use * (0.5 * first_use / setting.duration_s + own);
        let rate = own_rps * first_use;
        if rate <= 1.0 {
            return alone;
        }
        let peak_s = gap_s * (rate - 1.0 - rate.ln());
        let busy_s = gap_s * (rate - rate.powf(-1.3));
        alone + 0.5 * peak_s * (busy_s / setting.duration_s).min(1.0)
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
