"""PyTorch's CUDA caching allocator, replayed on sizes alone.

Why, and by which rules: ``rust/twin/src/allocator.rs``, where its one definition is; a start makes
some 700 tensors, and a search over slots asks about some hundred starts.
"""

from __future__ import annotations

from lorapack._native import Block, CachingAllocator

__all__ = ["MIB", "Block", "CachingAllocator"]

MIB = 2**20
