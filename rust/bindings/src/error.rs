//! The twin's errors as Python's: what a caller got wrong is `lorapack.errors.InputError`.

use lorapack_twin::error::{ScenarioError, SimulateError};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

/// An error of the twin on its way to Python.
pub struct Failure(SimulateError);

impl From<SimulateError> for Failure {
    fn from(error: SimulateError) -> Self {
        Failure(error)
    }
}

impl From<ScenarioError> for Failure {
    fn from(error: ScenarioError) -> Self {
        Failure(error.into())
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure.0 {
            SimulateError::Scenario(error) => input_error(&error.place, &error.value, &error.mend),
            SimulateError::Stuck {
                request,
                prompt_tokens,
                output_tokens,
                ..
            } => input_error(
                &format!("request {request}"),
                &format!("{prompt_tokens} prompt and {output_tokens} output tokens"),
                "can never be scheduled: give the engine more KV cache, or shorter requests",
            ),
            // Only a signal's exception stops a run, and that is what is raised: never seen.
            SimulateError::Interrupted => PyKeyboardInterrupt::new_err("interrupted"),
        }
    }
}

/// `InputError("scenario", place, value, mend)`.
fn input_error(place: &str, value: &str, mend: &str) -> PyErr {
    Python::attach(|py| {
        let raised = py
            .import("lorapack.errors")
            .and_then(|errors| errors.getattr("InputError"))
            .and_then(|kind| kind.call1(("scenario", place, value, mend)));
        match raised {
            Ok(instance) => PyErr::from_value(instance),
            Err(failure) => failure,
        }
    })
}
