//! A digital twin of one vLLM engine that serves many LoRA adapters on one GPU.

pub mod error;
pub mod front_end;
pub mod metrics;
pub mod record;
pub mod scenario;
pub mod step_time;
pub mod units;
