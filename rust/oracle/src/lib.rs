//! The reference engine: slow, plain, and held to recordings of the real one.
//!
//! It exists so that the fast engine of `lorapack-twin` has something to be compared with that does
//! not share its cleverness: it walks every request in every step and computes every figure from a
//! diary of all that happened. Read in this order: [`scheduler`] (the nine rules), [`residency`]
//! (two caches), [`run`] (the clock, the clients, the prices), [`summary`] (the figures).

pub mod residency;
pub mod run;
pub mod scheduler;
pub mod summary;

use lorapack_twin::metrics::Outcome;
use lorapack_twin::scenario::Scenario;

/// Runs a scenario, with all its records.
///
/// # Errors
/// If a request can never be scheduled.
pub fn simulate(scenario: &Scenario) -> Result<Outcome, run::Stuck> {
    let diary = run::Run::new(scenario).finish()?;
    Ok(summary::outcome(scenario, &diary))
}
