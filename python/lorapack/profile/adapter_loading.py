"""What it costs to bring an adapter in: from disk to the CPU cache, from there into a GPU slot.

Both are synchronous and lengthen the step that needs them. A copy into a slot is linear in the
adapter's rank, and dearer by a constant where the rank is below the slot's (the rows are then
copied piece by piece, not as one span). Reading from disk is linear in the rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorapack.profile.section import number


@dataclass(frozen=True)
class AdapterLoading:
    """Constants of adapter loading, measured on one machine.

    Attributes:
        gpu_fixed_ms: CPU cache to GPU slot, whatever the rank.
        gpu_rank_ms: Further, a unit of the adapter's rank.
        gpu_partial_ms: Further, where the adapter's rank is below `max_lora_rank`.
        disk_fixed_ms: Disk to CPU cache, whatever the rank.
        disk_rank_ms: Further, a unit of the adapter's rank.
    """

    gpu_fixed_ms: float = number()
    gpu_rank_ms: float = number()
    gpu_partial_ms: float = number()
    disk_fixed_ms: float = number()
    disk_rank_ms: float = number()

    def gpu_load_ms(self, rank: int, max_lora_rank: int) -> float:
        """Milliseconds to copy an adapter of ``rank`` into a slot; none for rank 0, the base."""
        if rank == 0:
            return 0.0
        partial = self.gpu_partial_ms if rank < max_lora_rank else 0.0
        return self.gpu_fixed_ms + self.gpu_rank_ms * rank + partial

    def disk_load_ms(self, rank: int) -> float:
        """Milliseconds to read an adapter of ``rank`` from disk; none for rank 0, the base."""
        return self.disk_fixed_ms + self.disk_rank_ms * rank if rank > 0 else 0.0

    def gpu_load_ps(self, rank: int, max_lora_rank: int) -> int:
        """:meth:`gpu_load_ms` in whole picoseconds."""
        return round(self.gpu_load_ms(rank, max_lora_rank) * 1e9)

    def disk_load_ps(self, rank: int) -> int:
        """:meth:`disk_load_ms` in whole picoseconds."""
        return round(self.disk_load_ms(rank) * 1e9)
