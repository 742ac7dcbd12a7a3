//! A scenario's parts, in: each a frozen class that holds the twin's own type.

use std::sync::Arc;

use lorapack_twin::scenario as twin;
use lorapack_twin::units::Time;
use numpy::{Element, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// How an adapter's requests arrive.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Arrivals(twin::Arrivals);

#[pymethods]
impl Arrivals {
    /// No generated arrivals.
    #[staticmethod]
    fn none() -> Self {
        Arrivals(twin::Arrivals::None)
    }

    /// Exponential gaps.
    #[staticmethod]
    fn poisson(rate_rps: f64) -> Self {
        Arrivals(twin::Arrivals::Poisson { rate_rps })
    }

    /// Gamma gaps.
    #[staticmethod]
    fn gamma(rate_rps: f64, cv: f64) -> Self {
        Arrivals(twin::Arrivals::Gamma { rate_rps, cv })
    }

    /// Weibull gaps.
    #[staticmethod]
    fn weibull(rate_rps: f64, cv: f64) -> Self {
        Arrivals(twin::Arrivals::Weibull { rate_rps, cv })
    }

    /// Poisson during exponential on-periods, silent between.
    #[staticmethod]
    fn on_off(rate_rps: f64, on_s: f64, off_s: f64) -> Self {
        Arrivals(twin::Arrivals::OnOff {
            rate_rps,
            on_s,
            off_s,
        })
    }

    /// Poisson with a sinusoidal rate.
    #[staticmethod]
    fn diurnal(rate_rps: f64, amplitude: f64, period_s: f64, phase: f64) -> Self {
        Arrivals(twin::Arrivals::Diurnal {
            rate_rps,
            amplitude,
            period_s,
            phase,
        })
    }

    /// Poisson with a rate that is constant between the given times.
    #[staticmethod]
    fn piecewise(starts_s: Vec<f64>, rates_rps: Vec<f64>) -> Self {
        Arrivals(twin::Arrivals::Piecewise {
            starts_s,
            rates_rps,
        })
    }
}

/// A joint distribution of prompt and output lengths.
#[pyclass(frozen, module = "lorapack._native")]
pub struct LengthShape(twin::LengthShape);

#[pymethods]
impl LengthShape {
    /// Every request alike.
    #[staticmethod]
    fn constant(prompt_tokens: u32, output_tokens: u32) -> Self {
        LengthShape(twin::LengthShape::Constant {
            prompt_tokens,
            output_tokens,
        })
    }

    /// Lognormal in both.
    #[staticmethod]
    fn lognormal(
        prompt_mean: f64,
        prompt_sigma: f64,
        output_mean: f64,
        output_sigma: f64,
        correlation: f64,
    ) -> Self {
        LengthShape(twin::LengthShape::Lognormal {
            prompt_mean,
            prompt_sigma,
            output_mean,
            output_sigma,
            correlation,
        })
    }

    /// Rows drawn uniformly.
    #[staticmethod]
    fn pairs(
        prompt_tokens: PyReadonlyArray1<'_, f32>,
        output_tokens: PyReadonlyArray1<'_, f32>,
    ) -> PyResult<Self> {
        Ok(LengthShape(twin::LengthShape::Pairs {
            prompt_tokens: column(&prompt_tokens)?.into(),
            output_tokens: column(&output_tokens)?.into(),
        }))
    }
}

/// One adapter, or the base model.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Adapter(twin::Adapter);

#[pymethods]
impl Adapter {
    #[new]
    #[pyo3(signature = (*, key, is_base, arrivals, length_shape, prompt_scale, output_scale,
                        gpu_load_ps, disk_load_ps))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        key: u64,
        is_base: bool,
        arrivals: &Bound<'_, Arrivals>,
        length_shape: u32,
        prompt_scale: f64,
        output_scale: f64,
        gpu_load_ps: u64,
        disk_load_ps: u64,
    ) -> Self {
        Adapter(twin::Adapter {
            key,
            is_base,
            arrivals: arrivals.get().0.clone(),
            lengths: twin::Lengths {
                shape: length_shape,
                prompt_scale,
                output_scale,
            },
            gpu_load: Time(gpu_load_ps),
            disk_load: Time(disk_load_ps),
        })
    }
}

/// Recorded requests, columns of equal length, ascending in time.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Trace(Arc<twin::Trace>);

#[pymethods]
impl Trace {
    #[new]
    #[pyo3(signature = (*, arrival_ps, adapter, prompt_tokens, output_tokens))]
    fn new(
        arrival_ps: PyReadonlyArray1<'_, u64>,
        adapter: PyReadonlyArray1<'_, u32>,
        prompt_tokens: PyReadonlyArray1<'_, u32>,
        output_tokens: PyReadonlyArray1<'_, u32>,
    ) -> PyResult<Self> {
        Ok(Trace(Arc::new(twin::Trace {
            arrival: times(&arrival_ps)?,
            adapter: column(&adapter)?,
            prompt_tokens: column(&prompt_tokens)?,
            output_tokens: column(&output_tokens)?,
        })))
    }
}

/// The engine's own settings.
#[pyclass(frozen, module = "lorapack._native")]
pub struct EngineSettings(pub(crate) twin::EngineSettings);

#[pymethods]
impl EngineSettings {
    #[new]
    #[pyo3(signature = (*, rule_set, block_size, num_blocks, max_loras, max_cpu_loras, max_num_seqs,
                        max_num_batched_tokens, max_model_len, long_prefill_token_threshold))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        rule_set: &str,
        block_size: u32,
        num_blocks: u32,
        max_loras: u32,
        max_cpu_loras: u32,
        max_num_seqs: u32,
        max_num_batched_tokens: u32,
        max_model_len: u32,
        long_prefill_token_threshold: u32,
    ) -> PyResult<Self> {
        Ok(EngineSettings(twin::EngineSettings {
            rule_set: rule_set_named(rule_set)?,
            block_size,
            num_blocks,
            max_loras,
            max_cpu_loras,
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            long_prefill_token_threshold,
        }))
    }
}

fn rule_set_named(name: &str) -> PyResult<twin::RuleSet> {
    match name {
        "vllm-0.8.5" => Ok(twin::RuleSet::Vllm085),
        "vllm-0.33" => Ok(twin::RuleSet::Vllm033),
        _ => Err(PyValueError::new_err(format!("no rule set {name:?}"))),
    }
}

/// Prices of a step.
#[pyclass(frozen, module = "lorapack._native")]
pub struct StepTime(lorapack_twin::step_time::StepTime);

#[pymethods]
impl StepTime {
    #[new]
    #[pyo3(signature = (*, base_ps, distinct_adapter_ps, request_ps, context_token_ps,
                        mixed_context_token_ps, attention_pair_ps, skipped_ps, waiting_ps,
                        mapping_ps, mapping_request_ps))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        base_ps: PyReadonlyArray1<'_, u64>,
        distinct_adapter_ps: PyReadonlyArray1<'_, u64>,
        request_ps: u64,
        context_token_ps: u64,
        mixed_context_token_ps: u64,
        attention_pair_ps: u64,
        skipped_ps: u64,
        waiting_ps: u64,
        mapping_ps: u64,
        mapping_request_ps: u64,
    ) -> PyResult<Self> {
        Ok(StepTime(lorapack_twin::step_time::StepTime {
            base: times(&base_ps)?.into(),
            distinct_adapter: times(&distinct_adapter_ps)?.into(),
            request: Time(request_ps),
            context_token: Time(context_token_ps),
            mixed_context_token: Time(mixed_context_token_ps),
            attention_pair: Time(attention_pair_ps),
            skipped: Time(skipped_ps),
            waiting: Time(waiting_ps),
            mapping: Time(mapping_ps),
            mapping_request: Time(mapping_request_ps),
        }))
    }
}

/// What stands between the client and the engine.
#[pyclass(frozen, module = "lorapack._native")]
pub struct FrontEnd(lorapack_twin::front_end::FrontEnd);

#[pymethods]
impl FrontEnd {
    #[new]
    #[pyo3(signature = (*, request_ps, first_use_ps, first_token_fixed_ps, first_token_request_ps,
                        first_token_step_ppm, series_ps, series_adapter_ps))]
    fn new(
        request_ps: u64,
        first_use_ps: u64,
        first_token_fixed_ps: i64,
        first_token_request_ps: u64,
        first_token_step_ppm: u64,
        series_ps: u64,
        series_adapter_ps: u64,
    ) -> Self {
        FrontEnd(lorapack_twin::front_end::FrontEnd {
            request: Time(request_ps),
            first_use: Time(first_use_ps),
            first_token_fixed_ps,
            first_token_request: Time(first_token_request_ps),
            first_token_step_ppm,
            series: Time(series_ps),
            series_adapter: Time(series_adapter_ps),
        })
    }
}

/// Everything a run depends on.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Scenario(pub(crate) twin::Scenario);

#[pymethods]
impl Scenario {
    #[new]
    #[pyo3(signature = (*, adapters, length_shapes, trace, engine, step_time, front_end, duration_ps,
                        warmup_ps, judge_until_ps, seed, max_in_flight, warm,
                        scrape_interval_ps))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        adapters: Vec<Bound<'_, Adapter>>,
        length_shapes: Vec<Bound<'_, LengthShape>>,
        trace: Option<Bound<'_, Trace>>,
        engine: &Bound<'_, EngineSettings>,
        step_time: &Bound<'_, StepTime>,
        front_end: &Bound<'_, FrontEnd>,
        duration_ps: Option<u64>,
        warmup_ps: u64,
        judge_until_ps: u64,
        seed: u64,
        max_in_flight: Option<u32>,
        warm: bool,
        scrape_interval_ps: Option<u64>,
    ) -> Self {
        Scenario(twin::Scenario {
            adapters: adapters
                .iter()
                .map(|adapter| adapter.get().0.clone())
                .collect(),
            length_shapes: length_shapes
                .iter()
                .map(|shape| shape.get().0.clone())
                .collect(),
            trace: trace.map(|trace| Arc::clone(&trace.get().0)),
            engine: engine.get().0.clone(),
            step_time: step_time.get().0.clone(),
            front_end: front_end.get().0.clone(),
            duration: duration_ps.map(Time),
            warmup: Time(warmup_ps),
            judge_until: Time(judge_until_ps),
            seed,
            max_in_flight,
            warm,
            scrape_interval: scrape_interval_ps.map(Time),
        })
    }
}

fn column<T: Element + Copy>(array: &PyReadonlyArray1<'_, T>) -> PyResult<Vec<T>> {
    Ok(array.as_slice()?.to_vec())
}

fn times(array: &PyReadonlyArray1<'_, u64>) -> PyResult<Vec<Time>> {
    Ok(array
        .as_slice()?
        .iter()
        .map(|&picoseconds| Time(picoseconds))
        .collect())
}
