//! What a caller can have got wrong, as data with its place.

use std::fmt;

use crate::scenario::Scenario;

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

pub(crate) fn check_scenario(_scenario: &Scenario) -> Result<(), ScenarioError> {
    Ok(()) // written with the engine
}
