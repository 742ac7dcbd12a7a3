//! The twin's errors as Python's: what a caller got wrong is `lorapack.errors.InputError`.

use lorapack_twin::error::ScenarioError;
use pyo3::prelude::*;

/// `InputError(None, place, value, mend)`.
pub fn input_error(error: &ScenarioError) -> PyErr {
    Python::attach(|py| {
        let arguments = (None::<&str>, &error.place, &error.value, &error.mend);
        let raised = py
            .import("lorapack.errors")
            .and_then(|errors| errors.getattr("InputError"))
            .and_then(|kind| kind.call1(arguments));
        match raised {
            Ok(instance) => PyErr::from_value(instance),
            Err(failure) => failure,
        }
    })
}
