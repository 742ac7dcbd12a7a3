//! The inner loop of the memory rule: what the caching allocator reserves for a list of tensors.

use lorapack_twin::allocator::{self, BlockId};
use pyo3::prelude::*;

/// PyTorch's CUDA caching allocator, replayed on sizes alone.
#[pyclass(module = "lorapack._native")]
#[derive(Default)]
pub struct CachingAllocator(allocator::CachingAllocator);

/// What a tensor holds.
#[pyclass(frozen, module = "lorapack._native")]
pub struct Block {
    id: BlockId,
    #[pyo3(get)]
    size: u64,
}

#[pymethods]
impl CachingAllocator {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Makes a tensor of so many bytes and returns the block that it holds.
    fn take(&mut self, size: u64) -> Block {
        let id = self.0.take(size);
        Block {
            id,
            size: self.0.size(id),
        }
    }

    /// Makes tensors that are never given back, in order.
    fn take_all(&mut self, sizes: Vec<u64>) {
        for size in sizes {
            self.0.take(size);
        }
    }

    /// Frees a tensor's block, once; the bytes stay reserved.
    fn give(&mut self, block: &Bound<'_, Block>) {
        self.0.give(block.get().id);
    }

    /// Gives back the segments of which no part is taken.
    fn empty_cache(&mut self) {
        self.0.empty_cache();
    }

    /// Bytes held by tensors, rounding included.
    #[getter]
    fn allocated(&self) -> u64 {
        self.0.allocated()
    }

    /// Bytes of all segments.
    #[getter]
    fn reserved(&self) -> u64 {
        self.0.reserved()
    }
}
