//! What the scheduler knows of each request in flight: one row each, rows reused.

use super::prefetch::prefetch;

/// No request, no place.
pub(crate) const NONE: u32 = u32::MAX;

/// A request in the engine. Tokens are counted; there is no time here. Half a cache line: rows are
/// met in no order, tens of thousands of them when overloaded.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
pub(crate) struct Request {
    /// Index of its adapter.
    pub(crate) adapter: u32,
    pub(crate) prompt_tokens: u32,
    /// Generated tokens with which it ends.
    pub(crate) output_tokens: u32,
    /// Tokens generated; while it decodes, see [`Request::generated_before`] instead.
    pub(crate) generated: u32,
    /// Tokens computed; while it decodes, the step that makes its last token.
    progress: u32,
    /// Running: place in the running list. Waiting: its number in the queue.
    pub(crate) place: u32,
    /// The next in the same list: requests that end in the same step, or the adapter's queue.
    pub(crate) next: u32,
    /// The one before, in the list of those that end in the same step.
    pub(crate) previous: u32,
}

impl Request {
    pub(crate) fn new(adapter: u32, prompt_tokens: u32, output_tokens: u32) -> Self {
        Request {
            adapter,
            prompt_tokens,
            output_tokens,
            next: NONE,
            previous: NONE,
            ..Request::default()
        }
    }

    /// Of a request that does not decode: tokens computed.
    #[inline]
    pub(crate) fn computed(&self) -> u32 {
        self.progress
    }

    #[inline]
    pub(crate) fn set_computed(&mut self, tokens: u32) {
        self.progress = tokens;
    }

    /// Of a decoding request: the step that makes its last token.
    #[inline]
    pub(crate) fn last_step(&self) -> u32 {
        self.progress
    }

    /// From here on it decodes, until this step.
    #[inline]
    pub(crate) fn set_last_step(&mut self, step: u32) {
        self.progress = step;
    }

    /// Prompt and generated tokens: those there are to compute.
    #[inline]
    pub(crate) fn known(&self) -> u32 {
        self.prompt_tokens + self.generated
    }

    /// Of a decoding request: tokens generated before `step`.
    #[inline]
    pub(crate) fn generated_before(&self, step: u32) -> u32 {
        self.output_tokens - (self.last_step() - step + 1)
    }

    /// Of a decoding request: tokens computed before `step`; all known ones but the last.
    #[inline]
    pub(crate) fn computed_before(&self, step: u32) -> u32 {
        self.prompt_tokens + self.generated_before(step) - 1
    }

    /// Tokens computed when it ends: the last token generated never is.
    #[inline]
    pub(crate) fn computed_at_end(&self) -> u32 {
        self.prompt_tokens + self.output_tokens - 1
    }
}

/// All requests in flight, by number; numbers of finished ones are given out again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    rows: Vec<Request>,
    unused: Vec<u32>,
}

impl Requests {
    /// A row for a request.
    #[inline]
    pub(crate) fn add(&mut self, request: Request) -> u32 {
        match self.unused.pop() {
            Some(id) => {
                self.rows[id as usize] = request;
                id
            }
            None => {
                self.rows.push(request);
                (self.rows.len() - 1) as u32
            }
        }
    }

    /// The row will be needed soon.
    #[inline]
    pub(crate) fn prefetch(&self, id: u32) {
        prefetch(&self.rows, id);
    }

    /// The request is gone; its row may be used again.
    #[inline]
    pub(crate) fn release(&mut self, id: u32) {
        self.unused.push(id);
    }
}

impl std::ops::Index<u32> for Requests {
    type Output = Request;
    #[inline]
    fn index(&self, id: u32) -> &Request {
        &self.rows[id as usize]
    }
}

impl std::ops::IndexMut<u32> for Requests {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Request {
        &mut self.rows[id as usize]
    }
}
