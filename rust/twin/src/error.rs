//! What a caller can have got wrong, as data with its place.

use std::fmt;

/// A scenario that cannot run: where, what was found, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    /// The field, as a path (`adapters[3].arrivals.rate_rps`).
    pub place: String,
    /// The value found.
    pub value: String,
    /// What would be right.
    pub mend: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.place, self.value, self.mend)
    }
}

impl std::error::Error for ScenarioError {}

/// Why a simulation gave no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimulateError {
    /// The scenario cannot run.
    Scenario(ScenarioError),
    /// A request waits that can never be scheduled, and nothing else is left to happen.
    Stuck {
        /// Its place in the order of arrival, from 0.
        request: u64,
        /// Its adapter.
        adapter: u32,
        /// Its prompt.
        prompt_tokens: u32,
        /// Its output.
        output_tokens: u32,
    },
    /// The caller asked to stop.
    Interrupted,
}

impl fmt::Display for SimulateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SimulateError::Scenario(error) => error.fmt(formatter),
            SimulateError::Stuck {
                request,
                adapter,
                prompt_tokens,
                output_tokens,
            } => write!(
                formatter,
                "request {request} of adapter {adapter} ({prompt_tokens} + {output_tokens} tokens) \
                 can never be scheduled"
            ),
            SimulateError::Interrupted => formatter.write_str("interrupted"),
        }
    }
}

impl std::error::Error for SimulateError {}

impl From<ScenarioError> for SimulateError {
    fn from(error: ScenarioError) -> Self {
        SimulateError::Scenario(error)
    }
}
