//! The steady state of one GPU: sums in Python's hands, features out as a row of float32.

use lorapack_twin::physics::features::{FEATURES, N_FEATURES};
use lorapack_twin::physics::work::AdapterWork;
use lorapack_twin::physics::{self, FrontEndPrices, Setting, StepPrices};
use numpy::{PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;

/// Every feature as (name, unit, meaning, whether it is raw), in the order of a row.
#[pyfunction]
pub fn physics_features() -> Vec<(&'static str, &'static str, &'static str, bool)> {
    FEATURES
        .iter()
        .map(|feature| (feature.name, feature.unit, feature.meaning, feature.raw))
        .collect()
}

/// What one adapter asks of a GPU.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Work(AdapterWork);

#[pymethods]
impl Work {
    #[new]
    #[pyo3(signature = (*, is_base, rate_rps, prompt_tokens, output_tokens, prompt_output,
                        output_square, prompt_square, gap_cv_square, rank, gpu_load_s, disk_load_s))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        is_base: bool,
        rate_rps: f64,
        prompt_tokens: f64,
        output_tokens: f64,
        prompt_output: f64,
        output_square: f64,
        prompt_square: f64,
        gap_cv_square: f64,
        rank: f64,
        gpu_load_s: f64,
        disk_load_s: f64,
    ) -> Self {
        Work(AdapterWork {
            is_base,
            rate_rps,
            prompt_tokens,
            output_tokens,
            prompt_output,
            output_square,
            prompt_square,
            gap_cv_square,
            rank,
            gpu_load_s,
            disk_load_s,
        })
    }

    /// An adapter like this one that sends so many requests a second.
    fn sending(&self, rate_rps: f64) -> Self {
        Work(AdapterWork { rate_rps, ..self.0 })
    }

    /// The same adapter with its rate multiplied.
    fn at_rate(&self, factor: f64) -> Self {
        Work(self.faster(factor))
    }
}

impl Work {
    fn faster(&self, factor: f64) -> AdapterWork {
        AdapterWork {
            rate_rps: self.0.rate_rps * factor,
            ..self.0
        }
    }
}

/// What each of many adapters asks of a GPU: of few kinds, at rates of their own.
#[pyclass(frozen, module = "lorapack._native")]
pub struct WorkList(Vec<AdapterWork>);

#[pymethods]
impl WorkList {
    /// `kind` says which of `kinds` each is like, `rates_rps` at which rate.
    #[new]
    fn new(
        kinds: Vec<PyRef<'_, Work>>,
        kind: PyReadonlyArray1<'_, i64>,
        rates_rps: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<Self> {
        let (kind, rates_rps) = (kind.as_slice()?, rates_rps.as_slice()?);
        if kind.len() != rates_rps.len() {
            return Err(PyValueError::new_err("give each its kind and its rate"));
        }
        kind.iter()
            .zip(rates_rps)
            .map(|(&kind, &rate_rps)| {
                let alike = usize::try_from(kind).ok().and_then(|kind| kinds.get(kind));
                let alike = alike.ok_or_else(|| PyIndexError::new_err("there is no such kind"))?;
                Ok(AdapterWork {
                    rate_rps,
                    ..alike.0
                })
            })
            .collect::<PyResult<_>>()
            .map(WorkList)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// What one of them asks for.
    fn __getitem__(&self, place: usize) -> PyResult<Work> {
        self.at(&[place])?
            .next()
            .map(Work)
            .ok_or_else(no_such_place)
    }
}

impl WorkList {
    fn at<'a>(&'a self, places: &'a [usize]) -> PyResult<impl Iterator<Item = AdapterWork> + 'a> {
        if places.iter().any(|&place| place >= self.0.len()) {
            return Err(no_such_place());
        }
        Ok(places.iter().map(|&place| self.0[place]))
    }
}

fn no_such_place() -> PyErr {
    PyIndexError::new_err("there is no such place")
}

/// Sums over the adapters on a GPU; exact, so their order leaves no trace.
#[pyclass(module = "lorapack._native")]
#[derive(Clone, Default)]
pub struct WorkSums(pub(crate) physics::work::WorkSums);

#[pymethods]
impl WorkSums {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Counts an adapter in.
    fn add(&mut self, work: &Bound<'_, Work>) {
        self.0.add(&work.get().0);
    }

    /// Counts an adapter out that was counted in.
    fn remove(&mut self, work: &Bound<'_, Work>) {
        self.0.remove(&work.get().0);
    }

    /// Counts in adapters with so many times their traffic.
    fn add_all(&mut self, works: Vec<PyRef<'_, Work>>, factor: f64) {
        for work in works {
            self.0.add(&work.faster(factor));
        }
    }

    /// Counts in some of a list.
    fn add_of(&mut self, works: &Bound<'_, WorkList>, places: Vec<usize>) -> PyResult<()> {
        for work in works.get().at(&places)? {
            self.0.add(&work);
        }
        Ok(())
    }

    /// Counts out some of a list that were counted in.
    fn remove_of(&mut self, works: &Bound<'_, WorkList>, places: Vec<usize>) -> PyResult<()> {
        for work in works.get().at(&places)? {
            self.0.remove(&work);
        }
        Ok(())
    }

    /// Independent sums of the same adapters.
    fn copy(&self) -> Self {
        self.clone()
    }

    /// Requests a second of all that are counted in.
    #[getter]
    fn rate_rps(&self) -> f64 {
        self.0.rate_rps()
    }

    /// Adapters counted in, the base model not among them.
    #[getter]
    fn n_adapters(&self) -> u32 {
        self.0.adapters()
    }

    /// All that are counted in, the base model's own traffic among them.
    fn __len__(&self) -> usize {
        self.0.loads() as usize
    }

    fn __eq__(&self, other: &Bound<'_, WorkSums>) -> bool {
        self.0 == other.borrow().0
    }
}

/// A GPU with its engine: what does not change as adapters come and go.
#[pyclass(frozen, module = "lorapack._native")]
pub struct GpuPhysics(pub(crate) physics::Gpu);

#[pymethods]
impl GpuPhysics {
    /// Prices of a step by tokens in picoseconds, with LoRA off, with one slot and with two (a slot
    /// costs the difference); the front end in seconds.
    #[new]
    #[pyo3(signature = (*, without_lora_ps, one_slot_ps, two_slots_ps, distinct_adapter_ps,
                        cpu_lora_ps, request_ps, context_token_ps, mixed_context_token_ps,
                        attention_pair_ps, skipped_ps, waiting_ps, mapping_ps, mapping_request_ps,
                        stretch_s, front_end_request_s, first_use_s, first_token_fixed_s,
                        first_token_request_s, first_token_step, series_s, series_adapter_s,
                        block_size, max_num_seqs,
                        max_num_batched_tokens))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        without_lora_ps: PyReadonlyArray1<'_, u64>,
        one_slot_ps: PyReadonlyArray1<'_, u64>,
        two_slots_ps: PyReadonlyArray1<'_, u64>,
        distinct_adapter_ps: PyReadonlyArray1<'_, u64>,
        cpu_lora_ps: f64,
        request_ps: u64,
        context_token_ps: u64,
        mixed_context_token_ps: u64,
        attention_pair_ps: u64,
        skipped_ps: u64,
        waiting_ps: u64,
        mapping_ps: u64,
        mapping_request_ps: u64,
        stretch_s: f64,
        front_end_request_s: f64,
        first_use_s: f64,
        first_token_fixed_s: f64,
        first_token_request_s: f64,
        first_token_step: f64,
        series_s: f64,
        series_adapter_s: f64,
        block_size: u32,
        max_num_seqs: u32,
        max_num_batched_tokens: u32,
    ) -> PyResult<Self> {
        let one_slot = seconds_of(&one_slot_ps)?;
        let two_slots = seconds_of(&two_slots_ps)?;
        let slot: Vec<f64> = one_slot
            .iter()
            .zip(&two_slots)
            .map(|(one, two)| two - one)
            .collect();
        let with_lora: Vec<f64> = one_slot
            .iter()
            .zip(slot.iter())
            .map(|(one, slot)| one - slot)
            .collect();
        let tables = [
            &without_lora_ps,
            &one_slot_ps,
            &two_slots_ps,
            &distinct_adapter_ps,
        ];
        if tables
            .iter()
            .any(|table| table.len().ok() != Some(max_num_batched_tokens as usize + 1))
        {
            return Err(PyValueError::new_err(
                "step tables must hold max_num_batched_tokens + 1",
            ));
        }
        let [without_lora, with_lora, slot, distinct_adapter] = physics::over_fluctuations([
            &seconds_of(&without_lora_ps)?,
            &with_lora,
            &slot,
            &seconds_of(&distinct_adapter_ps)?,
        ]);
        Ok(GpuPhysics(physics::Gpu {
            step: StepPrices {
                without_lora,
                with_lora,
                slot,
                distinct_adapter,
                cpu_lora: cpu_lora_ps * 1e-12,
                request: seconds(request_ps),
                context_token: seconds(context_token_ps),
                mixed_context_token: seconds(mixed_context_token_ps),
                attention_pair: seconds(attention_pair_ps),
                skipped: seconds(skipped_ps),
                waiting: seconds(waiting_ps),
                mapping: seconds(mapping_ps),
                mapping_request: seconds(mapping_request_ps),
                stretch_s,
            },
            front_end: FrontEndPrices {
                request: front_end_request_s,
                first_use: first_use_s,
                first_token_fixed: first_token_fixed_s,
                first_token_request: first_token_request_s,
                first_token_step,
                series: series_s,
                series_adapter: series_adapter_s,
            },
            block_size: f64::from(block_size),
            max_num_seqs: f64::from(max_num_seqs),
            max_num_batched_tokens: f64::from(max_num_batched_tokens),
        }))
    }

    /// The features of these adapters on this GPU: one row, float32, in the order of
    /// `physics_features`.
    #[expect(
        clippy::too_many_arguments,
        reason = "positional for speed; Python wraps it"
    )]
    fn features<'py>(
        &self,
        py: Python<'py>,
        sums: &Bound<'py, WorkSums>,
        max_loras: f64,
        max_lora_rank: f64,
        max_cpu_loras: f64,
        kv_cache_tokens: f64,
        duration_s: f64,
        warm: bool,
        max_in_flight: f64,
        scrape_interval_s: f64,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let setting = Setting {
            max_loras,
            max_lora_rank,
            max_cpu_loras,
            kv_cache_tokens,
            duration_s,
            warm,
            max_in_flight,
            scrape_interval_s,
        };
        let demand = sums.borrow().0.demand();
        let row = self.0.features(&demand, &setting);
        let array = PyArray2::<f32>::zeros(py, [1, N_FEATURES], false);
        // SAFETY: the array was made on the line above; nobody else holds it.
        unsafe { array.as_slice_mut()? }.copy_from_slice(&row);
        Ok(array)
    }

    /// Share of the requests that find all slots in use when their adapter comes for one, at most.
    fn queued_share(
        &self,
        sums: &Bound<'_, WorkSums>,
        max_loras: f64,
        max_lora_rank: f64,
        kv_cache_tokens: f64,
        duration_s: f64,
    ) -> f64 {
        let sums = &sums.borrow().0;
        let setting = warm(sums, max_loras, max_lora_rank, kv_cache_tokens, duration_s);
        self.0.queued_share(&sums.demand(), &setting)
    }

    /// The fewest slots with which it is no more than so much; `max_loras` where fewer do not do.
    fn fewest_slots(
        &self,
        sums: &Bound<'_, WorkSums>,
        most_queued: f64,
        max_loras: f64,
        max_lora_rank: f64,
        kv_cache_tokens: f64,
        duration_s: f64,
    ) -> f64 {
        let sums = &sums.borrow().0;
        let setting = warm(sums, max_loras, max_lora_rank, kv_cache_tokens, duration_s);
        self.0.fewest_slots(&sums.demand(), &setting, most_queued)
    }
}

/// Requests in flight that stand for no cap.
const UNLIMITED: f64 = 1e9;

/// A GPU on which every adapter was used before and clients send all they have.
pub(crate) fn warm(
    sums: &physics::work::WorkSums,
    max_loras: f64,
    max_lora_rank: f64,
    kv_cache_tokens: f64,
    duration_s: f64,
) -> Setting {
    Setting {
        max_loras,
        max_lora_rank,
        max_cpu_loras: f64::from(sums.adapters()),
        kv_cache_tokens,
        duration_s,
        warm: true,
        max_in_flight: UNLIMITED,
        scrape_interval_s: f64::INFINITY,
    }
}

fn seconds(picoseconds: u64) -> f64 {
    picoseconds as f64 * 1e-12
}

fn seconds_of(table: &PyReadonlyArray1<'_, u64>) -> PyResult<Vec<f64>> {
    Ok(table
        .as_slice()?
        .iter()
        .map(|&price| seconds(price))
        .collect())
}
