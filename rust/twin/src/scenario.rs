//! One GPU, one fleet, one engine setting, one seed: everything a run depends on, checked once.
//!
//! Plain data. File formats, profiles in floats and the memory rule live above, in Python; what
//! arrives here is already integers and tables. [`Scenario::check`] refuses what the engine could
//! not run; after it, nothing is checked again.

mod check;

use std::sync::Arc;

use crate::error::ScenarioError;
use crate::front_end::FrontEnd;
use crate::step_time::StepTime;
use crate::units::Time;

/// Which engine version's scheduling rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleSet {
    /// vLLM 0.8.5 (V1 engine): a first chunk's blocks suffice for admission.
    Vllm085,
    /// vLLM 0.33: all tokens known so far must fit in the free blocks for admission.
    Vllm033,
}

/// The engine's own settings, under the engine's own names.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// Scheduling rules.
    pub rule_set: RuleSet,
    /// Tokens a KV block holds.
    pub block_size: u32,
    /// KV blocks, the null block included: `num_blocks - 1` are usable.
    pub num_blocks: u32,
    /// Distinct adapters a batch may hold (LoRA slots on the GPU); 0 means LoRA is off.
    pub max_loras: u32,
    /// Adapters the CPU cache holds.
    pub max_cpu_loras: u32,
    /// Requests that may run at once.
    pub max_num_seqs: u32,
    /// Tokens a step may hold.
    pub max_num_batched_tokens: u32,
    /// A request ends when prompt + generated reaches this.
    pub max_model_len: u32,
    /// Cap on the tokens of one prefill chunk; 0 means none (the engine's own convention).
    pub long_prefill_token_threshold: u32,
}

/// How an adapter's requests arrive. Rates in requests per second.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// No generated arrivals (the scenario's trace may still hold some).
    None,
    /// Exponential gaps.
    Poisson {
        /// Mean rate.
        rate_rps: f64,
    },
    /// Gamma gaps of the given coefficient of variation.
    Gamma {
        /// Mean rate.
        rate_rps: f64,
        /// Standard deviation of the gaps over their mean.
        cv: f64,
    },
    /// Weibull gaps of the given coefficient of variation.
    Weibull {
        /// Mean rate.
        rate_rps: f64,
        /// Standard deviation of the gaps over their mean.
        cv: f64,
    },
    /// Poisson at `rate_rps * (on_s + off_s) / on_s` during exponential on-periods, silent between.
    OnOff {
        /// Mean rate over on and off.
        rate_rps: f64,
        /// Mean length of an on-period, seconds.
        on_s: f64,
        /// Mean length of an off-period, seconds.
        off_s: f64,
    },
    /// Poisson with rate `rate_rps * (1 + amplitude * sin(2 pi (t / period_s + phase)))`.
    Diurnal {
        /// Mean rate.
        rate_rps: f64,
        /// 0..1.
        amplitude: f64,
        /// Seconds.
        period_s: f64,
        /// 0..1, as a share of the period.
        phase: f64,
    },
    /// Poisson whose rate is `rates_rps[i]` from `starts_s[i]` to the next start (the last holds on).
    Piecewise {
        /// Ascending, first is 0.
        starts_s: Vec<f64>,
        /// One rate a start.
        rates_rps: Vec<f64>,
    },
}

/// A joint distribution of prompt and output lengths, shared by many adapters.
#[derive(Clone, Debug, PartialEq)]
pub enum LengthShape {
    /// Every request alike.
    Constant {
        /// Tokens.
        prompt_tokens: u32,
        /// Tokens.
        output_tokens: u32,
    },
    /// Lognormal in both, with a correlation of the logarithms.
    Lognormal {
        /// Mean of the prompt's tokens.
        prompt_mean: f64,
        /// Standard deviation of the logarithm.
        prompt_sigma: f64,
        /// Mean of the output's tokens.
        output_mean: f64,
        /// Standard deviation of the logarithm.
        output_sigma: f64,
        /// Correlation of the two logarithms, -1..1.
        correlation: f64,
    },
    /// Rows drawn uniformly: an empirical sample, or any joint law laid out as one.
    Pairs {
        /// Tokens of each row.
        prompt_tokens: Arc<[f32]>,
        /// Tokens of each row.
        output_tokens: Arc<[f32]>,
    },
}

/// An adapter's lengths: a shape, stretched, rounded to the nearest token, at least 1 each, then cut
/// so that prompt + output <= `max_model_len` (the prompt at most `max_model_len - 1` first).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    /// Index into [`Scenario::length_shapes`].
    pub shape: u32,
    /// Factor on the prompt's tokens.
    pub prompt_scale: f64,
    /// Factor on the output's tokens.
    pub output_scale: f64,
}

/// One adapter, or the base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Names the adapter's random streams; the same whatever else is in the fleet.
    pub key: u64,
    /// The base model itself: takes no slot, is never loaded.
    pub is_base: bool,
    /// When its requests come.
    pub arrivals: Arrivals,
    /// How long they are.
    pub lengths: Lengths,
    /// CPU to GPU slot.
    pub gpu_load: Time,
    /// Disk to CPU cache.
    pub disk_load: Time,
}

/// Recorded requests: columns of equal length, ascending in time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Client's send time.
    pub arrival: Vec<Time>,
    /// Index into [`Scenario::adapters`].
    pub adapter: Vec<u32>,
    /// Tokens.
    pub prompt_tokens: Vec<u32>,
    /// Tokens.
    pub output_tokens: Vec<u32>,
}

/// Everything a run depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The fleet on this GPU.
    pub adapters: Vec<Adapter>,
    /// Length laws the adapters point to.
    pub length_shapes: Vec<LengthShape>,
    /// Recorded requests, besides the generated ones.
    pub trace: Option<Arc<Trace>>,
    /// Engine settings.
    pub engine: EngineSettings,
    /// What a step costs; tables cover `0..=max_num_batched_tokens`.
    pub step_time: StepTime,
    /// What stands between client and engine.
    pub front_end: FrontEnd,
    /// End of arrivals and of the window; `None`: until every request of the trace is done.
    pub duration: Option<Time>,
    /// Start of the window in which things are counted.
    pub warmup: Time,
    /// Requests that arrive from here to the end do not count towards an adapter's judged share.
    pub judge_until: Time,
    /// Seed of every stream.
    pub seed: u64,
    /// An arrival that finds this many requests in the system is dropped; `None`: no cap.
    pub max_in_flight: Option<u32>,
    /// Start with every adapter already added once (in fleet order), as a warm engine has them, and
    /// no first-use cost; otherwise both caches start empty.
    pub warm: bool,
    /// From the answer to one scrape of the engine's metrics to the next; `None`: nobody scrapes.
    pub scrape_interval: Option<Time>,
}

impl Scenario {
    /// Refuses what cannot run.
    ///
    /// # Errors
    /// The first thing wrong, with its place and value.
    pub fn check(&self) -> Result<(), ScenarioError> {
        check::check_scenario(self)
    }
}
