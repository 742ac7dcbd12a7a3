//! Running scenarios: one, or many side by side.

use std::sync::atomic::{AtomicUsize, Ordering};

use lorapack_twin::error::SimulateError;
use lorapack_twin::Records;
use pyo3::prelude::*;

use crate::enter::{enter, Interrupted};
use crate::error::Failure;
use crate::outcome::Outcome;
use crate::scenario::Scenario;

/// Runs one scenario.
#[pyfunction]
#[pyo3(signature = (scenario, *, requests=false, steps=false))]
pub fn simulate(
    py: Python<'_>,
    scenario: &Bound<'_, Scenario>,
    requests: bool,
    steps: bool,
) -> PyResult<Outcome> {
    let scenario = &scenario.get().0;
    let records = Records { requests, steps };
    let work = |interrupted: Interrupted<'_>| {
        lorapack_twin::simulate(scenario, records, &|| interrupted()).map_err(Failure::from)
    };
    enter(py, work, |_| Ok(())).map(Outcome::from)
}

/// Runs many scenarios on up to `threads` threads; outcomes come in the order of the scenarios.
/// `progress` is called now and then with the number of scenarios done so far. If any fails, the
/// error of the first one that did is raised.
#[pyfunction]
#[pyo3(signature = (scenarios, *, threads, progress=None))]
pub fn simulate_many(
    py: Python<'_>,
    scenarios: Vec<Bound<'_, Scenario>>,
    threads: usize,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<Vec<Outcome>> {
    let scenarios: Vec<_> = scenarios.iter().map(|scenario| &scenario.get().0).collect();
    let done = AtomicUsize::new(0);
    let report = |_: Python<'_>| match &progress {
        Some(progress) => progress.call1((done.load(Ordering::Relaxed),)).map(drop),
        None => Ok(()),
    };
    let work = |interrupted: Interrupted<'_>| {
        let mut outcomes = Vec::with_capacity(scenarios.len());
        lorapack_twin::simulate_many(&scenarios, threads, interrupted, |_, outcome| {
            outcomes.push(outcome);
            done.fetch_add(1, Ordering::Relaxed);
        })?;
        let outcomes: Result<Vec<_>, SimulateError> = outcomes.into_iter().collect();
        outcomes.map_err(Failure::from)
    };
    let outcomes = enter(py, work, report)?;
    Ok(outcomes.into_iter().map(Outcome::from).collect())
}
