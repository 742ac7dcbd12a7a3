//! Running scenarios: one, or many side by side.

use std::sync::atomic::{AtomicUsize, Ordering};

use lorapack_twin::error::ScenarioError;
use pyo3::prelude::*;

use crate::enter::enter;
use crate::error::input_error;
use crate::outcome::Outcome;
use crate::scenario::Scenario;

struct Failure(ScenarioError);

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        input_error(&failure.0)
    }
}

fn run(
    scenario: &lorapack_twin::scenario::Scenario,
    requests: bool,
    steps: bool,
) -> Result<lorapack_twin::metrics::Outcome, Failure> {
    scenario.check().map_err(Failure)?;
    let mut outcome = lorapack_oracle::simulate(scenario).map_err(|stuck| {
        Failure(ScenarioError {
            place: format!("request {}", stuck.request),
            value: "can never be scheduled".to_owned(),
            mend: "give the engine more KV cache, or shorter requests".to_owned(),
        })
    })?;
    if !requests {
        outcome.requests = None;
    }
    if !steps {
        outcome.steps = None;
    }
    Ok(outcome)
}

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
    let outcome = enter(py, |_| run(scenario, requests, steps), |_| Ok(()))?;
    Ok(outcome.into())
}

/// Runs many scenarios on up to `threads` threads; outcomes come in the order of the scenarios.
/// `progress` is called now and then with the number of scenarios done so far.
#[pyfunction]
#[pyo3(signature = (scenarios, *, threads, progress=None))]
pub fn simulate_many(
    py: Python<'_>,
    scenarios: Vec<Bound<'_, Scenario>>,
    threads: usize,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<Vec<Outcome>> {
    let _ = threads;
    let scenarios: Vec<_> = scenarios.iter().map(|scenario| &scenario.get().0).collect();
    let done = AtomicUsize::new(0);
    let report = |_: Python<'_>| match &progress {
        Some(progress) => progress.call1((done.load(Ordering::Relaxed),)).map(drop),
        None => Ok(()),
    };
    let outcomes = enter(
        py,
        |interrupted| {
            let mut outcomes = Vec::new();
            for scenario in scenarios {
                if interrupted() {
                    break;
                }
                outcomes.push(run(scenario, false, false)?);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failure>(outcomes)
        },
        report,
    )?;
    Ok(outcomes.into_iter().map(Outcome::from).collect())
}
