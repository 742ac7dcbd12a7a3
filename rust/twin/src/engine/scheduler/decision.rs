//! What one step's schedule holds.

use crate::step_time::BatchShape;

/// Tokens of one request in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) id: u32,
    pub(crate) tokens: u32,
}

/// A request that lost its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preempted {
    pub(crate) id: u32,
    /// It got a token in the step before.
    pub(crate) was_decoding: bool,
}

/// What `schedule` decided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    /// All that the step's price depends on, but for `arrivals`, which the engine knows.
    pub(crate) shape: BatchShape,
    /// Running requests that compute one token each, and are not listed in `chunks`.
    pub(crate) decodes: u32,
    /// All others scheduled: running ones in running order, then resumed, then new.
    pub(crate) chunks: Vec<Chunk>,
    /// Of the chunks, how many are of requests that ran already.
    pub(crate) n_continued: usize,
    /// Of the chunks, how many are of requests admitted again after a preemption.
    pub(crate) n_resumed: usize,
    /// In the order preempted: from the last of running.
    pub(crate) preempted: Vec<Preempted>,
}

impl Decision {
    pub(super) fn clear(&mut self) {
        self.shape = BatchShape::default();
        self.decodes = 0;
        self.chunks.clear();
        self.n_continued = 0;
        self.n_resumed = 0;
        self.preempted.clear();
    }

    /// A chunk whose request has `computed` tokens in the cache already.
    #[inline]
    pub(super) fn add_chunk(&mut self, chunk: Chunk, computed: u32) {
        if chunk.tokens > 1 {
            let (tokens, computed) = (u64::from(chunk.tokens), u64::from(computed));
            self.shape.attention_pairs += tokens * computed + tokens * (tokens + 1) / 2;
        }
        self.chunks.push(chunk);
    }

    pub(super) fn add_preempted(&mut self, id: u32, was_decoding: bool) {
        self.preempted.push(Preempted { id, was_decoding });
    }

    /// Admitted again after a preemption, in order.
    pub(crate) fn admitted_again(&self) -> &[Chunk] {
        &self.chunks[self.n_continued..self.n_continued + self.n_resumed]
    }

    /// Admitted for the first time, in order.
    pub(crate) fn admitted_first(&self) -> &[Chunk] {
        &self.chunks[self.n_continued + self.n_resumed..]
    }
}

/// What came of a step, besides one token for each of its decodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Completed {
    /// Requests among the chunks that got a token, in the order scheduled.
    pub(crate) sampled: Vec<u32>,
    /// Requests that ended, in running order.
    pub(crate) finished: Vec<u32>,
}

impl Completed {
    pub(super) fn clear(&mut self) {
        self.sampled.clear();
        self.finished.clear();
    }
}
