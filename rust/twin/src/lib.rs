//! A digital twin of one vLLM engine that serves many LoRA adapters on one GPU.

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
