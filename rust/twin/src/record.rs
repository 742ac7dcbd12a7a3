//! The columns kept per request, per step and per adapter: their only list of names and units.

use crate::requests::Request;
use crate::step_time::BatchShape;
use crate::units::Time;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// All its tokens were made inside the run.
    Completed = 0,
    /// Cut off by the end of the run.
    Unfinished = 1,
    /// Never entered: the cap on requests in flight was reached.
    Dropped = 2,
}

/// One row a request, in order of arrival (time, adapter, number).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestColumns {
    /// Adapter index.
    pub adapter: Vec<u32>,
    /// Client's send time, seconds.
    pub arrival_s: Vec<f64>,
    /// When the engine could see it, seconds; NaN if dropped.
    pub engine_arrival_s: Vec<f64>,
    /// Client's TTFT, milliseconds; NaN without a first token.
    pub ttft_ms: Vec<f64>,
    /// End of the step that made the first token, seconds; NaN without one.
    pub first_token_s: Vec<f64>,
    /// End of the step that made the last token, seconds; NaN unless completed.
    pub done_s: Vec<f64>,
    /// Prompt tokens.
    pub prompt_tokens: Vec<u32>,
    /// Output tokens asked for.
    pub output_tokens: Vec<u32>,
    /// Times it was preempted.
    pub preemptions: Vec<u32>,
    /// [`Status`] as a number.
    pub status: Vec<u8>,
}

impl RequestColumns {
    /// A row for a request that has just arrived.
    pub(crate) fn push(&mut self, request: &Request, engine_arrival_s: f64, status: Status) {
        self.adapter.push(request.adapter);
        self.arrival_s.push(request.arrival.seconds());
        self.engine_arrival_s.push(engine_arrival_s);
        self.ttft_ms.push(f64::NAN);
        self.first_token_s.push(f64::NAN);
        self.done_s.push(f64::NAN);
        self.prompt_tokens.push(request.prompt_tokens);
        self.output_tokens.push(request.output_tokens);
        self.preemptions.push(0);
        self.status.push(status as u8);
    }

    pub(crate) fn set_first_token(&mut self, row: usize, ttft: Time, first_token: Time) {
        self.ttft_ms[row] = ttft.milliseconds();
        self.first_token_s[row] = first_token.seconds();
    }
}

/// What one step, or several alike ones, did: counted if it ended in the window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepCounts {
    pub(crate) steps: u64,
    pub(crate) running: u32,
    pub(crate) waiting: u32,
    pub(crate) used_blocks: u32,
    pub(crate) preempted: u32,
    pub(crate) gpu_loads: u32,
    pub(crate) disk_loads: u32,
    pub(crate) load: Time,
}

/// One row a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepColumns {
    /// Start, seconds.
    pub start_s: Vec<f64>,
    /// Duration, loads included, seconds.
    pub duration_s: Vec<f64>,
    /// Tokens scheduled.
    pub batched_tokens: Vec<u32>,
    /// Requests scheduled.
    pub scheduled: Vec<u32>,
    /// Requests in the running list after scheduling.
    pub running: Vec<u32>,
    /// Requests waiting after scheduling.
    pub waiting: Vec<u32>,
    /// Waiting requests passed over for lack of a slot.
    pub skipped: Vec<u32>,
    /// Whether the batch is another than that of the step before.
    pub is_new_batch: Vec<bool>,
    /// Distinct adapters scheduled.
    pub distinct_adapters: Vec<u32>,
    /// Context tokens read.
    pub context_tokens: Vec<u64>,
    /// KV blocks in use after scheduling (null block not counted).
    pub used_blocks: Vec<u32>,
    /// Requests preempted by this step.
    pub preempted: Vec<u32>,
    /// Requests finished at its end.
    pub finished: Vec<u32>,
    /// Adapters copied into a slot.
    pub adapter_loads: Vec<u32>,
    /// Time those copies and disk reads took, seconds.
    pub load_s: Vec<f64>,
}

impl StepColumns {
    /// A row for a step that has ended.
    pub(crate) fn push(
        &mut self,
        start: Time,
        took: Time,
        shape: &BatchShape,
        counts: &StepCounts,
        finished: u32,
    ) {
        self.start_s.push(start.seconds());
        self.duration_s.push(took.seconds());
        self.batched_tokens.push(shape.batched_tokens);
        self.scheduled.push(shape.scheduled);
        self.running.push(counts.running);
        self.waiting.push(counts.waiting);
        self.skipped.push(shape.skipped);
        self.is_new_batch.push(shape.is_new);
        self.distinct_adapters.push(shape.distinct_adapters);
        self.context_tokens.push(shape.context_tokens);
        self.used_blocks.push(counts.used_blocks);
        self.preempted.push(counts.preempted);
        self.finished.push(finished);
        self.adapter_loads.push(counts.gpu_loads);
        self.load_s.push(counts.load.seconds());
    }
}

/// One row an adapter, in fleet order. Counts are of the window (see [`crate::metrics`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterColumns {
    /// Requests that arrived in the window, dropped ones included.
    pub offered: Vec<u64>,
    /// Their prompt + output tokens.
    pub offered_tokens: Vec<u64>,
    /// Requests completed in the window.
    pub completed: Vec<u64>,
    /// Their prompt tokens.
    pub input_tokens: Vec<u64>,
    /// Their output tokens.
    pub output_tokens: Vec<u64>,
    /// Sum of client's TTFT over them, milliseconds.
    pub ttft_sum_ms: Vec<f64>,
    /// Of the offered: those that arrived before `judge_until`.
    pub judged_offered: Vec<u64>,
    /// Of those: completed by the end.
    pub judged_completed: Vec<u64>,
}
