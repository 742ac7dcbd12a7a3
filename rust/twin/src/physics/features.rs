//! The predictor's features: their only list of names, units, meanings and formulas.
//!
//! All are finite and not negative. What is *raw* describes the question (what is asked of the GPU
//! and how it is set); the rest is the answer of [`Gpu::solve`] in which physics alone puts it.

use super::work::Demand;
use super::{Gpu, Setting, SteadyState};

/// All that a feature may be made of.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The GPU and its engine.
    pub gpu: &'a Gpu,
    /// What is asked of it.
    pub demand: &'a Demand,
    /// How it is set.
    pub setting: &'a Setting,
    /// What physics says.
    pub state: &'a SteadyState,
}

/// One feature.
pub struct Feature {
    /// Its name, unit last.
    pub name: &'static str,
    /// `s`, `1/s`, `tokens`, `requests/s`, `count`, or `1` when it has none.
    pub unit: &'static str,
    /// One line for people.
    pub meaning: &'static str,
    /// Whether it describes the question, so that its range in training can be left.
    pub raw: bool,
    value: fn(&Inputs<'_>) -> f64,
}

/// How many features there are.
pub const N_FEATURES: usize = FEATURES.len();

const fn raw(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    value: fn(&Inputs<'_>) -> f64,
) -> Feature {
    Feature {
        name,
        unit,
        meaning,
        raw: true,
        value,
    }
}

const fn solved(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    value: fn(&Inputs<'_>) -> f64,
) -> Feature {
    Feature {
        name,
        unit,
        meaning,
        raw: false,
        value,
    }
}

/// Every feature, in the order of the model's input.
#[rustfmt::skip]
pub const FEATURES: &[Feature] = &[
    raw("n_adapters", "count", "adapters on the GPU, the base model not counted", |i| i.demand.adapters),
    raw("rate_rps", "requests/s", "offered rate, all adapters", |i| i.demand.rate_rps),
    raw("offered_tps", "tokens/s", "offered prompt and output tokens", |i| {
        i.demand.rate_rps * (i.demand.prompt_tokens + i.demand.output_tokens)
    }),
    raw("prompt_tokens", "tokens", "mean prompt", |i| i.demand.prompt_tokens),
    raw("output_tokens", "tokens", "mean output", |i| i.demand.output_tokens),
    raw("prompt_square_ratio", "1", "mean squared prompt over squared mean", |i| {
        ratio(i.demand.prompt_square, i.demand.prompt_tokens * i.demand.prompt_tokens)
    }),
    raw("output_square_ratio", "1", "mean squared output over squared mean", |i| {
        ratio(i.demand.output_square, i.demand.output_tokens * i.demand.output_tokens)
    }),
    raw("prompt_output_ratio", "1", "mean of prompt x output over the product of the means", |i| {
        ratio(i.demand.prompt_output, i.demand.prompt_tokens * i.demand.output_tokens)
    }),
    raw("prompt_spread", "1", "variance of prompt means between adapters over squared mean", |i| i.demand.prompt_spread),
    raw("output_spread", "1", "variance of output means between adapters over squared mean", |i| i.demand.output_spread),
    raw("gap_cv_square", "1", "squared variation of gaps between an adapter's requests, by generated tokens", |i| i.demand.gap_cv_square),
    raw("clump", "count", "requests of an adapter that come together, mean over clumps", |i| i.demand.clump),
    raw("effective_adapters", "count", "equal adapters among which decode work would be as concentrated", |i| i.demand.effective_adapters),
    raw("hottest_share", "1", "share of decode work of one adapter of the busiest bin", |i| i.demand.hottest_share),
    raw("base_share", "1", "share of requests that are the base model's", |i| i.demand.base_share),
    raw("mean_rank", "1", "mean rank over adapters", |i| i.demand.rank),
    raw("max_loras", "count", "LoRA slots", |i| i.setting.max_loras),
    raw("max_lora_rank", "1", "rank that slots are made for", |i| i.setting.max_lora_rank),
    raw("kv_cache_tokens", "tokens", "KV capacity", |i| i.setting.kv_cache_tokens),
    raw("cpu_share", "1", "share of the adapters that the CPU cache holds", |i| {
        (i.setting.max_cpu_loras / i.demand.adapters.max(1.0)).min(1.0)
    }),
    raw("max_num_seqs", "count", "requests that may run at once", |i| i.gpu.max_num_seqs),
    raw("max_num_batched_tokens", "tokens", "tokens a step may hold", |i| i.gpu.max_num_batched_tokens),
    raw("duration_s", "s", "length of the window", |i| i.setting.duration_s),
    raw("warm", "1", "1 if every adapter was used before, else 0", |i| f64::from(u8::from(i.setting.warm))),
    raw("queue_room", "1", "share of the window's requests that clients keep in the system at most", |i| {
        (i.setting.max_in_flight / (i.demand.rate_rps * i.setting.duration_s).max(1.0)).min(1.0)
    }),
    raw("scrape_hz", "1/s", "scrapes of the metrics a second, were they answered at once; 0: none", |i| {
        if i.setting.is_scraped() { 1.0 / i.setting.scrape_interval_s } else { 0.0 }
    }),
    raw("requests_per_adapter", "count", "requests of an adapter in the window, mean", |i| {
        i.demand.rate_rps * (1.0 - i.demand.base_share) * i.setting.duration_s / i.demand.adapters.max(1.0)
    }),
    solved("load", "1", "offered rate over capacity", |i| i.state.load),
    solved("capacity_rps", "requests/s", "largest rate that can be completed", |i| i.state.capacity_rps),
    solved("running", "count", "running requests", |i| i.state.running),
    solved("running_limit", "count", "most requests that can run", |i| i.state.running_limit),
    solved("token_room", "1", "requests that the tokens of a step allow, over running_limit", |i| i.state.token_room),
    solved("batched_tokens", "tokens", "tokens in a step", |i| i.state.batched_tokens),
    solved("distinct_adapters", "count", "distinct adapters in a step", |i| i.state.distinct_adapters),
    solved("step_s", "s", "a step, adapter loads included", |i| i.state.step_s),
    solved("itl_s", "s", "between two tokens, as a client sees it", |i| i.state.itl_s),
    solved("prefill_step_s", "s", "a step with a large prefill in it", |i| i.state.prefill_step_s),
    solved("load_fraction", "1", "share of a step that adapter loads take", |i| i.state.load_fraction),
    solved("slot_pressure", "1", "LoRA slots wanted over slots kept busy", |i| i.state.slot_pressure),
    solved("slot_wait_s", "s", "wait for a LoRA slot, mean over requests", |i| i.state.slot_wait_s),
    solved("slot_served", "1", "share of the work for which a slot comes free within the window", |i| i.state.slot_served),
    solved("kv_usage", "1", "share of the KV cache held", |i| i.state.kv_usage),
    solved("headroom", "1", "free places over the deviation of running requests", |i| i.state.headroom),
    solved("waiting", "count", "requests waiting, mean over the window", |i| i.state.waiting),
    solved("ttft_s", "s", "time to first token, as a client sees it, mean", |i| i.state.ttft_s),
    solved("service_fraction", "1", "time in the engine of the request a token belongs to, over the window", |i| i.state.service_fraction),
    solved("held_work", "1", "share of the adapters' work whose adapter holds a slot", |i| i.state.held_work),
    solved("crowd", "count", "requests of its adapter's queue that a token finds beside it in the batch", |i| i.state.crowd),
    solved("futile_fraction", "1", "share of the steps that compute a chunk in vain in a full KV cache", |i| i.state.futile_fraction),
    solved("burst_wait_s", "s", "wait behind bursts, mean over requests", |i| i.state.burst_wait_s),
    solved("scrape_s", "s", "answering the last scrape of the window; 0: none", |i| i.state.scrape_s),
    solved("served_fraction", "1", "tokens served over tokens offered", |i| i.state.served_fraction),
];

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 {
        numerator / denominator
    } else {
        1.0
    }
}

impl Gpu {
    /// Solves for the steady state and lays it out for the model.
    #[must_use]
    pub fn features(&self, demand: &Demand, setting: &Setting) -> [f32; N_FEATURES] {
        let state = &self.solve(demand, setting);
        let inputs = Inputs {
            gpu: self,
            demand,
            setting,
            state,
        };
        std::array::from_fn(|index| (FEATURES[index].value)(&inputs).clamp(0.0, 1e12) as f32)
    }
}
