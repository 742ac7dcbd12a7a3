//! What stands between the client and the engine: an API server that handles requests one by one,
//! and what the client sees of the tokens.

use std::sync::Arc;

use crate::units::Time;

/// Constants of the API server and of the client's view.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontEnd {
    /// API-server time a request, serial: a request reaches the engine at
    /// `max(arrival, server free) + first_use (if so) + request`.
    pub request: Time,
    /// Further serial time at an adapter's first request (its tokenizer is loaded); none if warm.
    pub first_use: Time,
    /// Added to every TTFT, picoseconds; may be negative (the sum is never below zero).
    pub first_token_fixed_ps: i64,
    /// Added to a TTFT for each request scheduled in the step that made the token.
    pub first_token_request: Time,
    /// Added to a TTFT: this many millionths of that step's duration.
    pub first_token_step_ppm: u64,
    /// By requests scheduled in a step (0..=`max_num_seqs`): the share, in millionths, of tokens
    /// that reach the client merged with the token before, so that it sees one gap fewer.
    pub merged_ppm: Arc<[u32]>,
}

impl FrontEnd {
    /// No front end: what the engine did is what the client sees.
    #[must_use]
    pub fn none(max_num_seqs: u32) -> Self {
        FrontEnd {
            request: Time::ZERO,
            first_use: Time::ZERO,
            first_token_fixed_ps: 0,
            first_token_request: Time::ZERO,
            first_token_step_ppm: 0,
            merged_ppm: vec![0; max_num_seqs as usize + 1].into(),
        }
    }

    /// TTFT as the client sees it, from the engine's own (arrival to end of step).
    #[must_use]
    pub fn ttft(&self, engine_ttft: Time, scheduled: u32, step: Time) -> Time {
        // The product fits 64 bits for steps of up to 18 s; 128-bit division is many times slower.
        let of_step = match step.0.checked_mul(self.first_token_step_ppm) {
            Some(product) => product / 1_000_000,
            None => (u128::from(step.0) * u128::from(self.first_token_step_ppm) / 1_000_000) as u64,
        };
        let extra = self.first_token_fixed_ps
            + (self.first_token_request.0 * u64::from(scheduled)) as i64
            + of_step as i64;
        Time(engine_ttft.0.saturating_add_signed(extra))
    }
}
