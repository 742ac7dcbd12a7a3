//! What stands between the client and the engine: an API server that handles requests one by one,
//! and what the client sees of the tokens.

use crate::units::Time;

/// Constants of the API server and of the client's view.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// API-server time to render one time series of `vllm:lora_requests_info` in a scrape.
    pub series: Time,
    /// Further time for each adapter that the series names.
    pub series_adapter: Time,
}

/// Outputs that the API server hands out before it yields (`VLLM_V1_OUTPUT_PROC_CHUNK_SIZE`).
const OUTPUTS_A_SLICE: u32 = 128;

impl FrontEnd {
    /// No front end: what the engine did is what the client sees.
    #[must_use]
    pub fn none() -> Self {
        FrontEnd::default()
    }

    /// Slices of equal size in which the outputs of a step of so many requests are worked off.
    ///
    /// The server yields to those who stream between the slices of a step, but not after its last
    /// one. So when steps have piled up, what came in one slice a step reaches clients in one piece.
    #[must_use]
    pub fn slices(scheduled: u32) -> u32 {
        scheduled.div_ceil(OUTPUTS_A_SLICE).max(1)
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
