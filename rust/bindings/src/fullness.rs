//! How full a GPU is, for packing: settings that stay the same held once, floats out.

use lorapack_twin::physics::{self, Gpu, Setting};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use crate::physics::{warm, GpuPhysics, WorkSums};

/// How full a GPU is over an hour, warm, with any number of slots of one rank.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Fullness {
    gpu: Gpu,
    max_lora_rank: f64,
    load: f64,
    kv_cache_tokens: Vec<u32>,
}

/// What packing plans for, seconds.
const HOUR: f64 = 3600.0;

#[pymethods]
impl Fullness {
    /// `load` is the load of a full GPU, `kv_cache_tokens` the KV capacity by slots, from none to the
    /// most.
    #[new]
    #[pyo3(signature = (gpu, *, max_lora_rank, load, kv_cache_tokens))]
    fn new(
        gpu: &Bound<'_, GpuPhysics>,
        max_lora_rank: f64,
        load: f64,
        kv_cache_tokens: PyReadonlyArray1<'_, u32>,
    ) -> PyResult<Self> {
        let kv_cache_tokens = kv_cache_tokens.as_slice()?.to_vec();
        if kv_cache_tokens.is_empty() {
            return Err(PyIndexError::new_err("give the capacity without slots"));
        }
        Ok(Fullness {
            gpu: gpu.get().0.clone(),
            max_lora_rank,
            load,
            kv_cache_tokens,
        })
    }

    /// With so many slots; 1 is full.
    fn of(&self, sums: &Bound<'_, WorkSums>, max_loras: usize) -> PyResult<f64> {
        let Some(&kv_cache_tokens) = self.kv_cache_tokens.get(max_loras) else {
            return Err(PyIndexError::new_err("no engine starts with so many slots"));
        };
        let sums = &sums.borrow().0;
        let setting = Setting {
            max_loras: max_loras as f64,
            kv_cache_tokens: f64::from(kv_cache_tokens),
            ..self.setting(sums)
        };
        Ok(self.gpu.fullness(&sums.demand(), &setting, self.load))
    }

    /// With the best number of slots, and that number.
    fn least(&self, sums: &Bound<'_, WorkSums>) -> (f64, usize) {
        let sums = &sums.borrow().0;
        let setting = self.setting(sums);
        self.gpu
            .least_full(&sums.demand(), &setting, self.load, &self.kv_cache_tokens)
    }
}

impl Fullness {
    /// All but the slots and the KV capacity that goes with them.
    fn setting(&self, sums: &physics::work::WorkSums) -> Setting {
        warm(sums, 0.0, self.max_lora_rank, 0.0, HOUR)
    }
}
