//! PyTorch's CUDA caching allocator, replayed on sizes alone: the inner loop of the memory rule.
//!
//! Why: an engine's KV cache gets what is left once weights and LoRA slots are *reserved*, and what
//! is reserved differs from the sum of the tensors by up to several per cent of the KV left: sizes
//! are rounded, small tensors share segments, and what is left of a segment is kept, not given back.
//!
//! The rules (`c10/cuda/CUDACachingAllocator.cpp`, PyTorch 2.6):
//!
//! 1. A size is rounded up to 512 bytes.
//! 2. Up to 1 MiB a tensor lives in the small pool, else in the large one.
//! 3. The smallest free block of the pool that holds it is taken (the lowest address among equals).
//! 4. If none does, a segment is reserved: 2 MiB for the small pool; 20 MiB for tensors under
//!    10 MiB; larger ones get their own, rounded up to 2 MiB.
//! 5. What a block is too large by is split off and stays free, if it is at least 512 bytes (small
//!    pool) or more than 1 MiB (large pool); otherwise the tensor holds the whole block.
//! 6. A tensor given back merges with free neighbours of its segment; a segment that is free as a
//!    whole goes back to the GPU only when the cache is emptied.

use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const SMALLEST_BLOCK: u64 = 512;
const SMALL_TENSOR: u64 = MIB;
const SMALL_SEGMENT: u64 = 2 * MIB;
const MEDIUM_TENSOR: u64 = 10 * MIB;
const MEDIUM_SEGMENT: u64 = 20 * MIB;
const LARGE_ROUNDING: u64 = 2 * MIB;

/// A tensor's block, by its place in [`CachingAllocator`]'s list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId(usize);

/// A piece of a segment: taken by a tensor, or free.
#[derive(Clone, Debug)]
struct Block {
    segment: usize,
    offset: u64,
    size: u64,
    is_large: bool,
    is_free: bool,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Free blocks of a pool: size, segment and offset (which is the order of addresses), block.
type Pool = BTreeSet<(u64, usize, u64, usize)>;

/// The allocator's state.
#[derive(Clone, Debug, Default)]
pub struct CachingAllocator {
    allocated: u64,
    reserved: u64,
    segments: usize,
    blocks: Vec<Block>,
    small: Pool,
    large: Pool,
}

impl CachingAllocator {
    /// Bytes held by tensors, rounding included (PyTorch's `memory_allocated`).
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Bytes of all segments (PyTorch's `memory_reserved`).
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Makes a tensor of so many bytes and returns the block that it holds.
    pub fn take(&mut self, bytes: u64) -> BlockId {
        let size = bytes.max(SMALLEST_BLOCK).next_multiple_of(SMALLEST_BLOCK);
        let is_large = size > SMALL_TENSOR;
        let found = self.pool(is_large).range((size, 0, 0, 0)..).next().copied();
        let block = match found {
            Some(entry) => {
                self.pool(is_large).remove(&entry);
                entry.3
            }
            None => self.reserve(size, is_large),
        };
        self.blocks[block].is_free = false;
        self.split(block, size);
        self.allocated += self.blocks[block].size;
        BlockId(block)
    }

    /// Frees a tensor's block; the bytes stay reserved.
    ///
    /// # Panics
    /// If it is free already, or of another allocator.
    pub fn give(&mut self, BlockId(block): BlockId) {
        assert!(!self.blocks[block].is_free, "a tensor is given back once");
        self.allocated -= self.blocks[block].size;
        let mut block = block;
        for neighbour in [self.blocks[block].previous, self.blocks[block].next] {
            if let Some(neighbour) = neighbour.filter(|&at| self.blocks[at].is_free) {
                let entry = self.entry(neighbour);
                let is_large = self.blocks[neighbour].is_large;
                self.pool(is_large).remove(&entry);
                block = self.merged(block, neighbour);
            }
        }
        self.set_free(block);
    }

    /// Gives back the segments of which no part is taken.
    pub fn empty_cache(&mut self) {
        let CachingAllocator {
            reserved,
            blocks,
            small,
            large,
            ..
        } = self;
        for pool in [small, large] {
            pool.retain(|&(size, _, _, block)| {
                let is_part = blocks[block].previous.is_some() || blocks[block].next.is_some();
                if !is_part {
                    *reserved -= size;
                }
                is_part
            });
        }
    }

    /// Bytes of a tensor's block.
    #[must_use]
    pub fn size(&self, BlockId(block): BlockId) -> u64 {
        self.blocks[block].size
    }

    fn reserve(&mut self, size: u64, is_large: bool) -> usize {
        let length = if !is_large {
            SMALL_SEGMENT
        } else if size < MEDIUM_TENSOR {
            MEDIUM_SEGMENT
        } else {
            size.next_multiple_of(LARGE_ROUNDING)
        };
        self.reserved += length;
        self.segments += 1;
        self.blocks.push(Block {
            segment: self.segments,
            offset: 0,
            size: length,
            is_large,
            is_free: false,
            previous: None,
            next: None,
        });
        self.blocks.len() - 1
    }

    fn split(&mut self, block: usize, size: u64) {
        let whole = self.blocks[block].clone();
        let spare = whole.size - size;
        let is_kept = if whole.is_large {
            spare <= SMALL_TENSOR
        } else {
            spare < SMALLEST_BLOCK
        };
        if is_kept {
            return;
        }
        let rest = self.blocks.len();
        self.blocks.push(Block {
            offset: whole.offset + size,
            size: spare,
            previous: Some(block),
            ..whole
        });
        if let Some(next) = whole.next {
            self.blocks[next].previous = Some(rest);
        }
        self.blocks[block].next = Some(rest);
        self.blocks[block].size = size;
        self.set_free(rest);
    }

    /// Two neighbours as one block: the first of them.
    fn merged(&mut self, one: usize, other: usize) -> usize {
        let is_first = self.blocks[one].offset < self.blocks[other].offset;
        let (first, second) = if is_first { (one, other) } else { (other, one) };
        self.blocks[first].size += self.blocks[second].size;
        let next = self.blocks[second].next;
        self.blocks[first].next = next;
        if let Some(next) = next {
            self.blocks[next].previous = Some(first);
        }
        first
    }

    fn set_free(&mut self, block: usize) {
        self.blocks[block].is_free = true;
        let entry = self.entry(block);
        let is_large = self.blocks[block].is_large;
        self.pool(is_large).insert(entry);
    }

    fn entry(&self, block: usize) -> (u64, usize, u64, usize) {
        let Block {
            size,
            segment,
            offset,
            ..
        } = self.blocks[block];
        (size, segment, offset, block)
    }

    fn pool(&mut self, is_large: bool) -> &mut Pool {
        if is_large {
            &mut self.large
        } else {
            &mut self.small
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_in_any_order_leaves_nothing() {
        let mut allocator = CachingAllocator::default();
        let sizes = [1, 513, MIB, 3 * MIB, 9 * MIB, 11 * MIB, 30 * MIB, 4096];
        let blocks: Vec<BlockId> = sizes.iter().map(|&size| allocator.take(size)).collect();
        let held: u64 = blocks.iter().map(|&block| allocator.size(block)).sum();
        assert_eq!(allocator.allocated(), held);
        assert!(allocator.reserved() >= held);
        for at in [3, 0, 6, 1, 7, 2, 5, 4] {
            allocator.give(blocks[at]);
        }
        allocator.empty_cache();
        assert_eq!((allocator.allocated(), allocator.reserved()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn a_tensor_given_back_twice_is_a_bug() {
        let mut allocator = CachingAllocator::default();
        let block = allocator.take(1);
        allocator.give(block);
        allocator.give(block);
    }
}
