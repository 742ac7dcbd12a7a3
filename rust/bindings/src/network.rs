//! One row through a trained network, without the price of a graph runtime.
//!
//! The ONNX file is the model, and onnxruntime runs it for many rows; for one row, starting each of
//! its two dozen nodes costs several times the arithmetic. This is the same arithmetic, in the same
//! order of nodes (`lorapack.predictor.export` writes them), with the file's own numbers.

use numpy::{
    PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArrayDyn, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// A trained network with its inputs' scaling and its outputs' last steps.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Network {
    offset: Vec<f32>,
    mean: Vec<f32>,
    scale: Vec<f32>,
    layers: Vec<Dense>,
    physics: Sparse,
    least: f32,
    most: f32,
    draw: Sparse,
    cap: Vec<f32>,
    low: Vec<f32>,
    high: Vec<f32>,
}

type Layer<'py> = (PyReadonlyArray2<'py, f32>, PyReadonlyArray1<'py, f32>);

/// Outputs that are no logarithm: the logit of starvation, the margin, the flag.
const LAST: usize = 3;

#[pymethods]
impl Network {
    /// The graph's constants, by its names; the last of the layers has no activation.
    #[new]
    #[pyo3(signature = (*, offset, mean, scale, layers, physics, least, most, draw, cap, low, high))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        offset: PyReadonlyArray1<'_, f32>,
        mean: PyReadonlyArray1<'_, f32>,
        scale: PyReadonlyArray1<'_, f32>,
        layers: Vec<Layer<'_>>,
        physics: PyReadonlyArray2<'_, f32>,
        least: f32,
        most: f32,
        draw: PyReadonlyArray2<'_, f32>,
        cap: PyReadonlyArray1<'_, f32>,
        low: PyReadonlyArray1<'_, f32>,
        high: PyReadonlyArray1<'_, f32>,
    ) -> PyResult<Self> {
        let network = Network {
            offset: offset.as_slice()?.to_vec(),
            mean: mean.as_slice()?.to_vec(),
            scale: scale.as_slice()?.to_vec(),
            layers: layers.iter().map(Dense::of).collect::<PyResult<_>>()?,
            physics: Sparse::of(&physics)?,
            least,
            most,
            draw: Sparse::of(&draw)?,
            cap: cap.as_slice()?.to_vec(),
            low: low.as_slice()?.to_vec(),
            high: high.as_slice()?.to_vec(),
        };
        if network.fits() {
            Ok(network)
        } else {
            Err(PyValueError::new_err("the constants' shapes do not match"))
        }
    }

    /// The outputs of one row as an array; `None` where a feature has no logarithm.
    fn row<'py>(
        &self,
        py: Python<'py>,
        features: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Option<Bound<'py, PyArray1<f32>>>> {
        Ok(self
            .answer(&features)?
            .map(|outputs| PyArray1::from_vec(py, outputs)))
    }

    /// The outputs of one row as plain numbers; `None` where a feature has no logarithm.
    fn numbers<'py>(
        &self,
        py: Python<'py>,
        features: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.answer(&features)?
            .map(|outputs| PyTuple::new(py, outputs))
            .transpose()
    }
}

impl Network {
    /// Whether each step takes as many numbers as the one before it gives.
    fn fits(&self) -> bool {
        let n = self.offset.len();
        let Some(last) = self.layers.last() else {
            return false;
        };
        let known = last.bias.len();
        let chained = self
            .layers
            .iter()
            .try_fold(n, |width, layer| {
                (layer.inputs == width).then_some(layer.bias.len())
            })
            .is_some();
        let outputs = self.cap.len();
        chained
            && self.least <= self.most
            && [self.mean.len(), self.scale.len()] == [n, n]
            && self.physics.shape == [n, known]
            && self.draw.shape == [3 * known, outputs]
            && self.low.len() <= n
            && self.low.len() == self.high.len()
            && outputs > LAST
    }

    fn answer(&self, features: &PyReadonlyArrayDyn<'_, f32>) -> PyResult<Option<Vec<f32>>> {
        if features.len() != self.offset.len() {
            return Err(PyValueError::new_err(format!(
                "a row holds {} features, not {}",
                self.offset.len(),
                features.len()
            )));
        }
        let logs: Vec<f32> = features
            .as_array()
            .iter()
            .zip(&self.offset)
            .map(|(feature, offset)| (feature + offset).ln())
            .collect();
        Ok(logs
            .iter()
            .all(|log| log.is_finite())
            .then(|| self.outputs(&logs)))
    }

    fn outputs(&self, logs: &[f32]) -> Vec<f32> {
        let mut every = self.hidden(logs);
        let known = every.len();
        self.physics.add(logs, &mut every);
        for value in &mut every {
            *value = value.clamp(self.least, self.most);
        }
        every.resize(3 * known, 0.0);
        for i in 0..known {
            every[known + i] = every[i].exp();
            every[2 * known + i] = every[i].max(0.0);
        }
        let mut drawn = vec![0.0; self.cap.len()];
        self.draw.add(&every, &mut drawn);
        for (value, cap) in drawn.iter_mut().zip(&self.cap) {
            *value = value.min(*cap);
        }
        let (figures, last) = drawn.split_at_mut(self.cap.len() - LAST);
        for figure in figures {
            *figure = figure.exp();
        }
        last[0] = 1.0 / (1.0 + (-last[0]).exp());
        last[2] = self.outside(logs);
        drawn
    }

    fn hidden(&self, logs: &[f32]) -> Vec<f32> {
        let mut values: Vec<f32> = logs
            .iter()
            .zip(self.mean.iter().zip(&self.scale))
            .map(|(log, (mean, scale))| (log - mean) / scale)
            .collect();
        for (i, layer) in self.layers.iter().enumerate() {
            // Between layers stands the rectifier: what is not above 0 need not be multiplied.
            let active = (0..layer.inputs).filter(|&at| i == 0 || values[at] > 0.0);
            let active: Vec<usize> = active.collect();
            values = layer.of_active(&values, &active);
        }
        values
    }

    /// 1 where a raw feature (they come first) lies outside the range of training, else 0.
    fn outside(&self, logs: &[f32]) -> f32 {
        let beyond = logs
            .iter()
            .zip(self.low.iter().zip(&self.high))
            .any(|(log, (low, high))| log < low || log > high);
        f32::from(u8::from(beyond))
    }
}

/// A layer: weights of input after input.
struct Dense {
    inputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Dense {
    fn of((weights, bias): &Layer<'_>) -> PyResult<Self> {
        let (inputs, outputs) = (weights.shape()[0], weights.shape()[1]);
        if bias.len() != outputs {
            return Err(PyValueError::new_err("a layer's bias has another width"));
        }
        Ok(Dense {
            inputs,
            weights: weights.as_slice()?.to_vec(),
            bias: bias.as_slice()?.to_vec(),
        })
    }

    fn of_active(&self, values: &[f32], active: &[usize]) -> Vec<f32> {
        let mut sums = self.bias.clone();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what the function is compiled for.
            unsafe { add_rows_wide(&self.weights, values, active, &mut sums) };
            return sums;
        }
        add_rows(&self.weights, values, active, &mut sums, |x, y, sum| {
            x * y + sum
        });
        sums
    }
}

/// [`add_rows`] for processors with eight lanes and fused multiply-add.
///
/// # Safety
/// The processor must have both.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_rows_wide(weights: &[f32], values: &[f32], active: &[usize], sums: &mut [f32]) {
    add_rows(weights, values, active, sums, f32::mul_add);
}

/// Adds the weights' rows of the active inputs, each times its value; four inputs at a time, so that
/// the sums are loaded and stored a quarter as often.
#[inline(always)]
fn add_rows(
    weights: &[f32],
    values: &[f32],
    active: &[usize],
    sums: &mut [f32],
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) {
    let n = sums.len();
    let row = |at: usize| &weights[at * n..(at + 1) * n];
    let fours = active.chunks_exact(4);
    for &at in fours.remainder() {
        for (sum, &weight) in sums.iter_mut().zip(row(at)) {
            *sum = multiply_add(values[at], weight, *sum);
        }
    }
    for four in fours {
        let [a, b, c, d] = [four[0], four[1], four[2], four[3]];
        let [x, y, z, w] = [values[a], values[b], values[c], values[d]];
        let rows = row(a).iter().zip(row(b)).zip(row(c).iter().zip(row(d)));
        for (sum, ((&a, &b), (&c, &d))) in sums.iter_mut().zip(rows) {
            let one = multiply_add(x, a, y * b);
            *sum += multiply_add(z, c, multiply_add(w, d, one));
        }
    }
}

/// A matrix that is mostly zeros: what is not, by its row and column.
struct Sparse {
    shape: [usize; 2],
    entries: Vec<(usize, usize, f32)>,
}

impl Sparse {
    fn of(matrix: &PyReadonlyArray2<'_, f32>) -> PyResult<Self> {
        let shape = [matrix.shape()[0], matrix.shape()[1]];
        let entries = matrix
            .as_slice()?
            .iter()
            .enumerate()
            .filter(|(_, &value)| value != 0.0)
            .map(|(at, &value)| (at / shape[1], at % shape[1], value))
            .collect();
        Ok(Sparse { shape, entries })
    }

    /// Adds the product of a row and the matrix.
    fn add(&self, row: &[f32], to: &mut [f32]) {
        for &(from, column, value) in &self.entries {
            to[column] += row[from] * value;
        }
    }
}
