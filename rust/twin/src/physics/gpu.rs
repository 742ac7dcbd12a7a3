//! What the steady state is solved from, and what it comes to: plain data in seconds.

use std::sync::Arc;

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
    /// A batch that is another than that of the step before.
    pub mapping: f64,
    /// Further, for each of its requests.
    pub mapping_request: f64,
    /// Share by which steps are longer for each request offered a second (the CPU is shared).
    pub stretch_s: f64,
}

impl StepPrices {
    /// One context token, where this share of the steps has prompts.
    pub(super) fn context_price(&self, with_prompts: f64) -> f64 {
        self.context_token + with_prompts * (self.mixed_context_token - self.context_token)
    }
}

/// Standard deviation of the tokens of a step without prompts, over that of a Poisson number: longer
/// steps let more requests gather, which is why they fluctuate less.
const FLUCTUATION: f64 = 0.5;

/// Tables by tokens, each entry the mean over the entries near it: running requests fluctuate, and
/// prices have jumps (kernels change with the size of a batch) that means do not have.
///
/// # Panics
/// If they are not of one length.
#[must_use]
pub fn over_fluctuations<const N: usize>(tables: [&[f64]; N]) -> [Arc<[f64]>; N] {
    let len = tables.first().map_or(0, |table| table.len());
    assert!(tables.iter().all(|table| table.len() == len), "one length");
    let mut means = tables.map(|_| Vec::with_capacity(len));
    let mut near = Vec::new();
    for tokens in 0..len {
        let deviation = (FLUCTUATION * (tokens as f64).sqrt()).max(FLUCTUATION);
        let reach = (3.0 * deviation) as usize;
        let first = tokens.saturating_sub(reach);
        near.clear();
        near.extend((first..=(tokens + reach).min(len - 1)).map(|at| {
            let score = (at as f64 - tokens as f64) / deviation;
            (-0.5 * score * score).exp()
        }));
        let all: f64 = near.iter().sum();
        for (table, means) in tables.iter().zip(&mut means) {
            let prices = near.iter().zip(&table[first..]);
            let sum: f64 = prices.map(|(weight, price)| weight * price).sum();
            means.push(sum / all);
        }
    }
    means.map(Into::into)
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
    /// API-server time a time series, in an answer to a scrape.
    pub series: f64,
    /// Further, for each adapter that the series names.
    pub series_adapter: f64,
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
    /// From the answer to one scrape of the metrics to the next, seconds; infinite: none.
    pub scrape_interval_s: f64,
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
    /// Whether clients hold back because of those who wait for a slot.
    pub capped: bool,
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
    /// Share of the time that the API server is busy with requests.
    pub front_end_load: f64,
    /// Share of the work whose adapter holds a slot.
    pub held_work: f64,
    /// Requests of its adapter's queue that a token finds beside it in the batch.
    pub crowd: f64,
    /// Share of the steps that compute a chunk in vain.
    pub futile_fraction: f64,
    /// Wait behind bursts, mean over requests.
    pub burst_wait_s: f64,
    /// Answering the last scrape of the window.
    pub scrape_s: f64,
    /// Tokens served over tokens offered in the window.
    pub served_fraction: f64,
}
