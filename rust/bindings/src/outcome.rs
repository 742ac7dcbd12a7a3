//! What a run came to, out: totals as a dict, columns as Arrow streams that nobody copies.

use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, RecordBatchIterator, UInt32Array,
    UInt64Array, UInt8Array,
};
use lorapack_twin::metrics::{self, Spread};
use lorapack_twin::record::{AdapterColumns, RequestColumns, StepColumns};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

/// Columns of equal length that any Arrow library reads through the PyCapsule interface.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Table(RecordBatch);

#[pymethods]
impl Table {
    /// The stream that `polars.DataFrame`, `pyarrow.table` and their like ask for.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // The interface lets a producer ignore the wish for other types.
        drop(requested_schema);
        let batches = RecordBatchIterator::new([Ok(self.0.clone())], self.0.schema());
        let stream = FFI_ArrowArrayStream::new(Box::new(batches));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }

    fn __len__(&self) -> usize {
        self.0.num_rows()
    }
}

/// All that a run yields.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Outcome {
    summary: metrics::Summary,
    adapters: RecordBatch,
    requests: Option<RecordBatch>,
    steps: Option<RecordBatch>,
}

impl From<metrics::Outcome> for Outcome {
    fn from(outcome: metrics::Outcome) -> Self {
        Outcome {
            summary: outcome.summary,
            adapters: adapters(outcome.adapters),
            requests: outcome.requests.map(requests),
            steps: outcome.steps.map(steps),
        }
    }
}

#[pymethods]
impl Outcome {
    /// Totals by name; times are dicts of mean and quantiles.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let totals = &self.summary;
        let dict = PyDict::new(py);
        dict.set_item("offered", totals.offered)?;
        dict.set_item("offered_prompt_tokens", totals.offered_prompt_tokens)?;
        dict.set_item("offered_output_tokens", totals.offered_output_tokens)?;
        dict.set_item("dropped", totals.dropped)?;
        dict.set_item("completed", totals.completed)?;
        dict.set_item("input_tokens", totals.input_tokens)?;
        dict.set_item("output_tokens", totals.output_tokens)?;
        dict.set_item("unfinished", totals.unfinished)?;
        dict.set_item("ttft_ms", spread(py, &totals.ttft_ms)?)?;
        dict.set_item(
            "ttft_with_unserved_p99_ms",
            totals.ttft_with_unserved_p99_ms,
        )?;
        dict.set_item("tpot_ms", spread(py, &totals.tpot_ms)?)?;
        dict.set_item("itl_ms", spread(py, &totals.itl_ms)?)?;
        dict.set_item("preemptions", totals.preemptions)?;
        dict.set_item("adapter_loads", totals.adapter_loads)?;
        dict.set_item("disk_loads", totals.disk_loads)?;
        dict.set_item("load_s", totals.load_s)?;
        dict.set_item("mean_running", totals.mean_running)?;
        dict.set_item("max_running", totals.max_running)?;
        dict.set_item("mean_waiting", totals.mean_waiting)?;
        dict.set_item("max_waiting", totals.max_waiting)?;
        dict.set_item("mean_distinct_adapters", totals.mean_distinct_adapters)?;
        dict.set_item("kv_usage_mean", totals.kv_usage_mean)?;
        dict.set_item("kv_usage_max", totals.kv_usage_max)?;
        dict.set_item("steps", totals.steps)?;
        dict.set_item("lora_series", totals.lora_series)?;
        dict.set_item("lora_series_adapters", totals.lora_series_adapters)?;
        dict.set_item("busy_s", totals.busy_s)?;
        dict.set_item("makespan_s", totals.makespan_s)?;
        dict.set_item("simulated_s", totals.simulated_s)?;
        Ok(dict)
    }

    /// One row an adapter, in fleet order.
    #[getter]
    fn adapters(&self) -> Table {
        Table(self.adapters.clone())
    }

    /// One row a request, in order of arrival, if asked for.
    #[getter]
    fn requests(&self) -> Option<Table> {
        self.requests.clone().map(Table)
    }

    /// One row a step, if asked for.
    #[getter]
    fn steps(&self) -> Option<Table> {
        self.steps.clone().map(Table)
    }
}

fn spread<'py>(py: Python<'py>, spread: &Spread) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("mean", spread.mean)?;
    dict.set_item("p50", spread.p50)?;
    dict.set_item("p90", spread.p90)?;
    dict.set_item("p99", spread.p99)?;
    Ok(dict)
}

fn adapters(columns: AdapterColumns) -> RecordBatch {
    batch([
        ("offered", u64s(columns.offered)),
        ("offered_tokens", u64s(columns.offered_tokens)),
        ("completed", u64s(columns.completed)),
        ("input_tokens", u64s(columns.input_tokens)),
        ("output_tokens", u64s(columns.output_tokens)),
        ("ttft_sum_ms", f64s(columns.ttft_sum_ms)),
        ("judged_offered", u64s(columns.judged_offered)),
        ("judged_completed", u64s(columns.judged_completed)),
    ])
}

fn requests(columns: RequestColumns) -> RecordBatch {
    batch([
        ("adapter", u32s(columns.adapter)),
        ("arrival_s", f64s(columns.arrival_s)),
        ("engine_arrival_s", f64s(columns.engine_arrival_s)),
        ("ttft_ms", f64s(columns.ttft_ms)),
        ("first_token_s", f64s(columns.first_token_s)),
        ("done_s", f64s(columns.done_s)),
        ("prompt_tokens", u32s(columns.prompt_tokens)),
        ("output_tokens", u32s(columns.output_tokens)),
        ("preemptions", u32s(columns.preemptions)),
        ("status", Arc::new(UInt8Array::from(columns.status))),
    ])
}

fn steps(columns: StepColumns) -> RecordBatch {
    batch([
        ("start_s", f64s(columns.start_s)),
        ("duration_s", f64s(columns.duration_s)),
        ("batched_tokens", u32s(columns.batched_tokens)),
        ("scheduled", u32s(columns.scheduled)),
        ("running", u32s(columns.running)),
        ("waiting", u32s(columns.waiting)),
        ("skipped", u32s(columns.skipped)),
        (
            "is_new_batch",
            Arc::new(BooleanArray::from(columns.is_new_batch)),
        ),
        ("distinct_adapters", u32s(columns.distinct_adapters)),
        ("context_tokens", u64s(columns.context_tokens)),
        ("used_blocks", u32s(columns.used_blocks)),
        ("preempted", u32s(columns.preempted)),
        ("finished", u32s(columns.finished)),
        ("adapter_loads", u32s(columns.adapter_loads)),
        ("load_s", f64s(columns.load_s)),
    ])
}

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("columns of one record are of one length")
}

fn u32s(values: Vec<u32>) -> ArrayRef {
    Arc::new(UInt32Array::from(values))
}

fn u64s(values: Vec<u64>) -> ArrayRef {
    Arc::new(UInt64Array::from(values))
}

fn f64s(values: Vec<f64>) -> ArrayRef {
    Arc::new(Float64Array::from(values))
}
