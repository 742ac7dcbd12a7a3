//! The price of one engine step from the batch's shape, in integers.
//!
//! The physical form (weights, compute, LoRA kernels, CUDA graphs) and its floats live in Python
//! (`profile/step_time.py`); here it is two tables by batched tokens and a few prices a unit.

use std::sync::Arc;

use crate::units::Time;

/// Prices, each rounded to picoseconds once.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// By tokens in the step (0..=`max_num_batched_tokens`): all that depends on tokens alone.
    pub base: Arc<[Time]>,
    /// By tokens in the step: one distinct adapter in the batch.
    pub distinct_adapter: Arc<[Time]>,
    /// One request scheduled in the step.
    pub request: Time,
    /// One context token (KV already there before the step) that a scheduled request reads.
    pub context_token: Time,
    /// The same in a step that also has a request with more than one token: the attention kernel
    /// then computes a whole tile of queries for each request's one.
    pub mixed_context_token: Time,
    /// One (query, key) pair of a prefill chunk's attention.
    pub attention_pair: Time,
    /// One waiting request passed over because its adapter had no slot.
    pub skipped: Time,
    /// One request left waiting after scheduling.
    pub waiting: Time,
    /// Mapping the batch to LoRA slots anew, where it is not that of the step before.
    pub mapping: Time,
    /// Further, for each request scheduled.
    pub mapping_request: Time,
}

/// The shape of a scheduled batch: all that its price depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// Tokens scheduled.
    pub batched_tokens: u32,
    /// Requests scheduled.
    pub scheduled: u32,
    /// Distinct adapters among them, the base model not counted.
    pub distinct_adapters: u32,
    /// Sum of computed tokens (before the step) over the scheduled requests.
    pub context_tokens: u64,
    /// Sum over requests given more than one token of `tokens * computed + tokens * (tokens + 1) / 2`.
    pub attention_pairs: u64,
    /// Waiting requests passed over for lack of a slot.
    pub skipped: u32,
    /// Requests waiting after scheduling, the skipped included.
    pub waiting: u32,
    /// Whether the batch is another than that of the step before: it is not, where both are one
    /// token of each of the same requests.
    pub is_new: bool,
}

impl StepTime {
    /// The price of a step, adapter loads not included.
    #[inline]
    #[must_use]
    pub fn price(&self, shape: &BatchShape) -> Time {
        let tokens = shape.batched_tokens as usize;
        let context_token = if shape.attention_pairs > 0 {
            self.mixed_context_token
        } else {
            self.context_token
        };
        let mapping = if shape.is_new {
            self.mapping.0 + self.mapping_request.0 * u64::from(shape.scheduled)
        } else {
            0
        };
        Time(
            self.base[tokens].0
                + self.distinct_adapter[tokens].0 * u64::from(shape.distinct_adapters)
                + self.request.0 * u64::from(shape.scheduled)
                + context_token.0 * shape.context_tokens
                + self.attention_pair.0 * shape.attention_pairs
                + self.skipped.0 * u64::from(shape.skipped)
                + self.waiting.0 * u64::from(shape.waiting)
                + mapping,
        )
    }
}
