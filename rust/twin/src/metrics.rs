//! Records to summary. The window is `[warmup, duration]`: an arrival in it is offered, a completion
//! in it is counted, running, waiting and KV are averaged over it, weighted by time.

mod histogram;
mod tally;

pub(crate) use tally::{AlikeSteps, Done, Tally};

use crate::record::{AdapterColumns, RequestColumns, StepColumns};

/// Mean and quantiles of a time, milliseconds; NaN when nothing was counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Arithmetic mean, exact.
    pub mean: f64,
    /// Median; quantiles come from a histogram with buckets of 0.4 % or finer.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Requests that arrived in the window, dropped ones included.
    pub offered: u64,
    /// Their prompt tokens.
    pub offered_prompt_tokens: u64,
    /// Their output tokens.
    pub offered_output_tokens: u64,
    /// Of the offered, those the cap on requests in flight turned away.
    pub dropped: u64,
    /// Requests completed in the window.
    pub completed: u64,
    /// Their prompt tokens.
    pub input_tokens: u64,
    /// Their output tokens.
    pub output_tokens: u64,
    /// Accepted but not completed when the run ended.
    pub unfinished: u64,
    /// Client's TTFT over completed requests.
    pub ttft_ms: Spread,
    /// 99th percentile of TTFT over all offered requests: one still without a token counts with
    /// its age at the end, a dropped one as infinite.
    pub ttft_with_unserved_p99_ms: f64,
    /// (done - first token) / (output - 1) over completed requests with two or more tokens.
    pub tpot_ms: Spread,
    /// Gaps between tokens as the client sees them: the mean is the sum of (done - first token) over
    /// the sum of gaps left after merging, over completed requests; the quantiles are of the gaps.
    pub itl_ms: Spread,
    /// Preemptions in the window.
    pub preemptions: u64,
    /// Copies into a GPU slot in the window.
    pub adapter_loads: u64,
    /// Reads from disk in the window.
    pub disk_loads: u64,
    /// Time they took, seconds.
    pub load_s: f64,
    /// Time-weighted mean of running requests.
    pub mean_running: f64,
    /// Most requests running in a step.
    pub max_running: u32,
    /// Time-weighted mean of waiting requests.
    pub mean_waiting: f64,
    /// Most requests waiting in a step.
    pub max_waiting: u32,
    /// Time-weighted mean of distinct adapters in the batch.
    pub mean_distinct_adapters: f64,
    /// Time-weighted mean share of usable KV blocks in use.
    pub kv_usage_mean: f64,
    /// Largest share of usable KV blocks in use.
    pub kv_usage_max: f64,
    /// Steps in the window.
    pub steps: u64,
    /// Time series of `vllm:lora_requests_info` at the end; 0 unless somebody scrapes.
    pub lora_series: u64,
    /// Adapters that they name, each as often as it is named.
    pub lora_series_adapters: u64,
    /// Time the engine spent in steps, seconds (the rest it was idle).
    pub busy_s: f64,
    /// End of the last step that ended inside the run, seconds.
    pub makespan_s: f64,
    /// Simulated seconds: duration, or the makespan when there is none.
    pub simulated_s: f64,
}

/// All that a run yields.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Totals.
    pub summary: Summary,
    /// Per adapter.
    pub adapters: AdapterColumns,
    /// Per request, when asked for.
    pub requests: Option<RequestColumns>,
    /// Per step, when asked for.
    pub steps: Option<StepColumns>,
}
