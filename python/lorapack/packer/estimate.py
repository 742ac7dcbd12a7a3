"""How few GPUs might do: the dual bound of a plan's items on the predicted surface.

An estimate, since the surface is one, and its sets are known to a few per cent only; the true bound
stands beside it. It never exceeds the plan's own number, which fits on the surface.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from lorapack.packer.dual import MOST_EXACT, dual_bound, searched_bound
from lorapack.packer.pricing import search_on_plan
from lorapack.packer.surface import Full, sizes_on_surface

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.problem import Problem
    from lorapack.packer.verify import Judges


def estimated_bound(
    problem: Problem,
    gpus: Sequence[GpuPlacement],
    breaks_at: Sequence[float | None],
    judges: Judges,
    *,
    improve: bool = True,
    thorough: bool = True,
) -> float:
    """The bound, base model by base model; exempt clients are left out.

    Args:
        problem: The pool, the level.
        gpus: A plan.
        breaks_at: On each GPU, the multiple of the planned traffic that is too much; None where it
            is far away or not known.
        judges: For what memory allows.
        improve: Whether prices of large fleets are improved, which takes a tenth of a second.
        thorough: Whether sets are looked for thoroughly then, which takes three times as long.
    """
    by_kinds: dict[tuple[int, ...], list[Full]] = {}
    for gpu, factor in zip(gpus, breaks_at, strict=True):
        busy = tuple(item for item in gpu.items if item.load.rate_rps > 0)
        if busy and not gpu.exempt:
            key = tuple(map(id, problem.kinds_for(busy[0].load)))
            by_kinds.setdefault(key, []).append(Full(replace(gpu, items=busy), factor))
    how = {"improve": improve, "thorough": thorough}
    return sum(_bound(problem, full, judges, **how) for full in by_kinds.values())


def _bound(
    problem: Problem, full: Sequence[Full], judges: Judges, *, improve: bool, thorough: bool
) -> float:
    """The bound for GPUs of one base model."""
    items = [item for entry in full for item in entry.gpu.items]
    kinds = problem.kinds_for(items[0].load)
    if len(items) > MOST_EXACT:
        search = search_on_plan(full, kinds, judges.level, judges.slo, judges.lessons.works)
        bound = searched_bound(search, places_of(full), improve=improve, thorough=thorough)
    else:
        sizes = sizes_on_surface(items, kinds, full, judges.level, judges.slo)
        bound = dual_bound(sizes, places_of(full))
    return min(bound, float(len(full)))


def places_of(full: Sequence[Full]) -> list[range]:
    """The places of what each GPU holds, all items in a row."""
    ends = list(accumulate(len(entry.gpu.items) for entry in full))
    return [range(end - len(entry.gpu.items), end) for entry, end in zip(full, ends, strict=True)]
