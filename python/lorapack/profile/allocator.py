"""PyTorch's CUDA caching allocator, replayed on sizes alone.

Why: an engine's KV cache gets what is left once weights and LoRA slots are *reserved*, and what is
reserved differs from the sum of the tensors by up to several per cent of the KV left: sizes are
rounded, small tensors share segments, and what is left of a segment is kept, not given back.

The rules (c10/cuda/CUDACachingAllocator.cpp, PyTorch 2.6):

1. A size is rounded up to 512 bytes.
2. Up to 1 MiB a tensor lives in the small pool, else in the large one.
3. The smallest free block of the pool that holds it is taken (the lowest address among equals).
4. If none does, a segment is reserved: 2 MiB for the small pool; 20 MiB for tensors under 10 MiB;
   larger ones get their own, rounded up to 2 MiB.
5. What a block is too large by is split off and stays free, if it is at least 512 bytes (small
   pool) or more than 1 MiB (large pool); otherwise the tensor holds the whole block.
6. A tensor given back merges with free neighbours of its segment; a segment that is free as a whole
   goes back to the GPU only when the cache is emptied.
"""

from __future__ import annotations

import bisect

MIB = 2**20
SMALLEST_BLOCK = 512
SMALL_TENSOR = MIB
SMALL_SEGMENT = 2 * MIB
MEDIUM_TENSOR = 10 * MIB
MEDIUM_SEGMENT = 20 * MIB
LARGE_ROUNDING = 2 * MIB

_SEGMENT_STRIDE = 1 << 48
"""Distance of two segments' addresses: further than any segment is long."""


class Block:
    """A piece of a segment: taken by a tensor, or free."""

    __slots__ = ("address", "free", "large", "next", "previous", "size")

    def __init__(self, address: int, size: int, *, large: bool) -> None:
        self.address = address
        self.size = size
        self.large = large
        self.free = False
        self.previous: Block | None = None
        self.next: Block | None = None


class CachingAllocator:
    """The allocator's state: its free blocks, and the bytes that tensors and segments take.

    Attributes:
        allocated: Bytes held by tensors, rounding included (PyTorch's ``memory_allocated``).
        reserved: Bytes of all segments (PyTorch's ``memory_reserved``).

    Example:
        >>> allocator = CachingAllocator()
        >>> tensor = allocator.take(3 * MIB)
        >>> allocator.allocated // MIB, allocator.reserved // MIB
        (3, 20)
    """

    def __init__(self) -> None:
        self.allocated = 0
        self.reserved = 0
        self._segments = 0
        self._free: tuple[list[tuple[int, int, Block]], list[tuple[int, int, Block]]] = ([], [])

    def take(self, size: int) -> Block:
        """Makes a tensor of ``size`` bytes and returns the block that it holds."""
        size = max(SMALLEST_BLOCK, _rounded_up(size, SMALLEST_BLOCK))
        large = size > SMALL_TENSOR
        free = self._free[large]
        index = bisect.bisect_left(free, (size, -1))
        block = free.pop(index)[2] if index < len(free) else self._reserve(size, large=large)
        block.free = False
        self._split(block, size)
        self.allocated += block.size
        return block

    def give(self, block: Block) -> None:
        """Frees a tensor's block; the bytes stay reserved."""
        self.allocated -= block.size
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.free:
                self._remove(neighbour)
                block = _merged(block, neighbour)
        self._insert(block)

    def empty_cache(self) -> None:
        """Gives back the segments of which no part is taken."""
        for free in self._free:
            whole = [entry for entry in free if not (entry[2].previous or entry[2].next)]
            self.reserved -= sum(size for size, _, _ in whole)
            free[:] = [entry for entry in free if entry[2].previous or entry[2].next]

    def _reserve(self, size: int, *, large: bool) -> Block:
        if not large:
            length = SMALL_SEGMENT
        elif size < MEDIUM_TENSOR:
            length = MEDIUM_SEGMENT
        else:
            length = _rounded_up(size, LARGE_ROUNDING)
        self.reserved += length
        self._segments += 1
        return Block(self._segments * _SEGMENT_STRIDE, length, large=large)

    def _split(self, block: Block, size: int) -> None:
        spare = block.size - size
        if spare <= SMALL_TENSOR if block.large else spare < SMALLEST_BLOCK:
            return
        rest = Block(block.address + size, spare, large=block.large)
        rest.previous, rest.next = block, block.next
        if block.next is not None:
            block.next.previous = rest
        block.next, block.size = rest, size
        self._insert(rest)

    def _insert(self, block: Block) -> None:
        block.free = True
        bisect.insort(self._free[block.large], (block.size, block.address, block))

    def _remove(self, block: Block) -> None:
        free = self._free[block.large]
        del free[bisect.bisect_left(free, (block.size, block.address))]


def _merged(block: Block, neighbour: Block) -> Block:
    first, second = sorted((block, neighbour), key=lambda part: part.address)
    first.size += second.size
    first.next = second.next
    if second.next is not None:
        second.next.previous = first
    return first


def _rounded_up(size: int, step: int) -> int:
    return -(-size // step) * step
