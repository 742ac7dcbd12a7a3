//! Recordings of a real engine, in as flat arrays; the first difference, out.

use std::collections::HashMap;

use lorapack_twin::conform::{
    replay_residency, replay_schedule, Difference, Lists, RecordedResidency, RecordedSchedule,
};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

use crate::enter::{enter, Interrupted};
use crate::error::Failure;
use crate::scenario::EngineSettings;

/// Step, field, recorded, simulated.
type Found = Option<(i64, String, String, String)>;

/// Columns by name: one number a request or a step, or, for lists, all values, with how many each
/// step has under the name with `_sizes` behind it.
struct Columns(HashMap<String, Vec<u32>>);

impl Columns {
    fn new(columns: HashMap<String, PyReadonlyArray1<'_, u32>>) -> PyResult<Self> {
        let copy = |(name, column): (String, PyReadonlyArray1<'_, u32>)| {
            Ok((name, column.as_slice()?.to_vec()))
        };
        columns
            .into_iter()
            .map(copy)
            .collect::<PyResult<_>>()
            .map(Columns)
    }

    fn get(&self, name: &str) -> PyResult<&[u32]> {
        let column = self
            .0
            .get(name)
            .ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
        Ok(column)
    }

    fn lists(&self, name: &str) -> PyResult<Lists<'_>> {
        Ok(Lists {
            values: self.get(name)?,
            sizes: self.get(&format!("{name}_sizes"))?,
        })
    }
}

/// Replays recorded scheduling decisions.
#[pyfunction]
#[pyo3(signature = (settings, columns, *, completed))]
pub fn conform_schedule(
    py: Python<'_>,
    settings: &Bound<'_, EngineSettings>,
    columns: HashMap<String, PyReadonlyArray1<'_, u32>>,
    completed: bool,
) -> PyResult<Found> {
    let columns = Columns::new(columns)?;
    let recorded = RecordedSchedule {
        arrival_step: columns.get("arrival_step")?,
        adapter: columns.get("adapter")?,
        prompt_tokens: columns.get("prompt_tokens")?,
        output_tokens: columns.get("output_tokens")?,
        completed,
        step: columns.get("step")?,
        scheduled: columns.lists("scheduled")?,
        scheduled_tokens: columns.get("scheduled_tokens")?,
        new: columns.lists("new")?,
        resumed: columns.lists("resumed")?,
        preempted: columns.lists("preempted")?,
        finished: columns.lists("finished")?,
        waiting: columns.get("waiting")?,
        running: columns.get("running")?,
        free_blocks: columns.get("free_blocks")?,
        free_blocks_end: columns.get("free_blocks_end")?,
        distinct_adapters: columns.get("distinct_adapters")?,
        skipped: columns.get("skipped")?,
    };
    let settings = &settings.get().0;
    let work = |_: Interrupted<'_>| replay_schedule(settings, &recorded).map_err(Failure::from);
    enter(py, work, |_| Ok(())).map(found)
}

/// Replays recorded adapter residency.
#[pyfunction]
#[pyo3(signature = (columns, step, *, max_loras, max_cpu_loras))]
pub fn conform_residency(
    py: Python<'_>,
    columns: HashMap<String, PyReadonlyArray1<'_, u32>>,
    step: PyReadonlyArray1<'_, i32>,
    max_loras: u32,
    max_cpu_loras: u32,
) -> PyResult<Found> {
    let columns = Columns::new(columns)?;
    let step = step.as_slice()?.to_vec();
    let recorded = RecordedResidency {
        max_loras,
        max_cpu_loras,
        step: &step,
        batch: columns.lists("batch")?,
        events: columns.lists("events")?,
        event_kinds: columns.get("event_kinds")?,
    };
    let work = |_: Interrupted<'_>| replay_residency(&recorded).map_err(Failure::from);
    enter(py, work, |_| Ok(())).map(found)
}

fn found(difference: Option<Difference>) -> Found {
    let Difference {
        step,
        field,
        recorded,
        simulated,
    } = difference?;
    Some((step, field.to_owned(), recorded, simulated))
}
