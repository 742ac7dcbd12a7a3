"""Spreading items evenly over a given number of GPUs, in runs of the packing order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorapack.packer.placement import GpuPlacement, compatible, item_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lorapack.packer.evaluate import SlotSearch
    from lorapack.packer.placement import Item
    from lorapack.packer.problem import GpuKind


def spread(
    items: Sequence[Item],
    sizes: Sequence[float],
    n_gpus: int,
    kind: GpuKind,
    search: SlotSearch,
    *,
    exempt: bool = False,
) -> list[GpuPlacement] | None:
    """The items on `n_gpus` GPUs of about equal size, each with its best slots.

    Args:
        items: In packing order.
        sizes: One an item, in any unit.
        n_gpus: How many.
        kind: Of all of them.
        search: Finds slots, and says whether a GPU holds.
        exempt: Whether these are exempt clients.

    Returns:
        The GPUs, or None where one would not hold or rules keep items apart.
    """
    parts = cut_evenly(items, sizes, n_gpus)
    if parts is None:
        return None
    return settle([GpuPlacement(kind, tuple(part), 0, exempt) for part in parts], lambda _: search)


def settle(
    gpus: Sequence[GpuPlacement], search_of: Callable[[GpuPlacement], SlotSearch]
) -> list[GpuPlacement] | None:
    """The same GPUs, each with the slots of the shortest wait; None where one holds with none."""
    settled = []
    for gpu in gpus:
        verdict = search_of(gpu).best(gpu.loads)
        if verdict is None:
            return None
        settled.append(gpu.with_items(gpu.items, verdict.trial.max_loras))
    return settled


def cut_evenly(
    items: Sequence[Item], sizes: Sequence[float], n_gpus: int
) -> list[list[Item]] | None:
    """The ordered list cut in `n_gpus` runs of about equal size; None where rules forbid it."""
    target = sum(sizes) / n_gpus
    if not target > 0:
        return None
    parts: list[list[Item]] = [[] for _ in range(n_gpus)]
    total = 0.0
    for item, size in zip(items, sizes, strict=True):
        index = min(int((total + size / 2) / target), n_gpus - 1)
        parts[index].append(item)
        total += size
    if not all(parts) or any(len(compatible([], part)) < len(part) for part in parts):
        return None
    return [sorted(part, key=item_order) for part in parts]
