//! A digital twin of one vLLM engine that serves many LoRA adapters on one GPU: a [`Scenario`] in, an
//! [`Outcome`] out. Pure: no clock of its own, no files, no Python; the same bytes for the same
//! scenario on any machine and any number of threads.
//!
//! # Reading guide
//!
//! A request's way through the crate is the order to read it in:
//!
//! 1. [`scenario`]: all that a run depends on, checked once ([`error`]). Profiles in floats and the
//!    memory rule live above, in Python; what arrives here is integers and tables.
//! 2. [`streams`], `arrivals`, `lengths`, [`requests`]: each adapter's own random streams, and all
//!    adapters' requests as one sequence.
//! 3. `engine`: the loop. Clients and API server (`clients`, with the constants of [`front_end`]) ->
//!    THE RULES (`scheduler`, which asks `waiting`, `running`, `kv_cache`) -> the batch's adapters
//!    (`lora_slots`) -> the price of the step ([`step_time`]) -> or, when steps are alike, many of them
//!    at once (`jump`).
//! 4. [`record`], [`metrics`]: columns a request and a step, if asked for; and the summary, counted
//!    as things happen, so that memory is O(requests in flight).
//! 5. [`conform`]: a real engine's recorded decisions through the same rules; [`sweep`]: many scenarios
//!    on many threads. [`physics`] is apart: a steady state in microseconds, without simulating; and so
//!    is [`allocator`], the inner loop of the memory rule.
//!
//! Time is integer picoseconds ([`units`]), so that the engine can be held to the bit to the plain
//! one of `lorapack-oracle`, which walks every request in every step and shares nothing with it but
//! the types and the request sequence.
//!
//! ```
//! use lorapack_twin::front_end::FrontEnd;
//! use lorapack_twin::scenario::{
//!     Adapter, Arrivals, EngineSettings, LengthShape, Lengths, RuleSet, Scenario,
//! };
//! use lorapack_twin::step_time::StepTime;
//! use lorapack_twin::units::Time;
//! use lorapack_twin::{simulate, Records};
//!
//! let millisecond = Time(1_000_000_000);
//! let adapter = Adapter {
//!     key: 1,
//!     is_base: false,
//!     arrivals: Arrivals::Poisson { rate_rps: 2.0 },
//!     lengths: Lengths { shape: 0, prompt_scale: 1.0, output_scale: 1.0 },
//!     gpu_load: millisecond * 7,
//!     disk_load: millisecond * 80,
//! };
//! let scenario = Scenario {
//!     adapters: vec![adapter],
//!     length_shapes: vec![LengthShape::Constant { prompt_tokens: 200, output_tokens: 100 }],
//!     trace: None,
//!     engine: EngineSettings {
//!         rule_set: RuleSet::Vllm085,
//!         block_size: 16,
//!         num_blocks: 1000,
//!         max_loras: 1,
//!         max_cpu_loras: 1,
//!         max_num_seqs: 64,
//!         max_num_batched_tokens: 512,
//!         max_model_len: 2048,
//!         long_prefill_token_threshold: 0,
//!     },
//!     step_time: StepTime {
//!         base: vec![millisecond * 10; 513].into(),
//!         distinct_adapter: vec![Time::ZERO; 513].into(),
//!         request: Time::ZERO,
//!         context_token: Time::ZERO,
//!         mixed_context_token: Time::ZERO,
//!         attention_pair: Time::ZERO,
//!         mapping: Time::ZERO,
//!         mapping_request: Time::ZERO,
//!         skipped: Time::ZERO,
//!         waiting: Time::ZERO,
//!     },
//!     front_end: FrontEnd::none(),
//!     duration: Some(Time::from_seconds(60.0)),
//!     warmup: Time::ZERO,
//!     judge_until: Time::from_seconds(60.0),
//!     seed: 0,
//!     max_in_flight: None,
//!     warm: true,
//!     scrape_interval: None,
//! };
//! let outcome = simulate(&scenario, Records::default(), &|| false)?;
//! assert!(outcome.summary.completed > 90);
//! assert!((outcome.summary.tpot_ms.mean - 10.0).abs() < 0.1);
//! # Ok::<(), lorapack_twin::error::SimulateError>(())
//! ```
//!
//! [`Scenario`]: scenario::Scenario
//! [`Outcome`]: metrics::Outcome

pub mod allocator;
mod arrivals;
pub mod conform;
mod engine;
pub mod error;
pub mod front_end;
mod lengths;
pub mod metrics;
pub mod physics;
pub mod record;
pub mod requests;
pub mod scenario;
pub mod step_time;
pub mod streams;
pub mod sweep;
pub mod units;

pub use engine::{simulate, Records};
pub use sweep::simulate_many;
