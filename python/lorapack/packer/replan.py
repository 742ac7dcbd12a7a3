"""A plan carried over to changed rates with few moves.

Engines that run keep their slots, which only a restart would change. A GPU that no longer holds
gives up its busiest adapters, as few as do; they and new adapters go where there is room, or on a
new GPU. Moves left over close the emptiest GPU. What a plan from scratch would need is told beside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapack.errors import Infeasible, InputError
from lorapack.packer.greedy import Greedy
from lorapack.packer.local_search import close_gpus
from lorapack.packer.placement import (
    GpuPlacement,
    Item,
    Running,
    item_order,
    may_join,
    with_one_more,
)
from lorapack.packer.settings import SEED_MARGIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.plan import Plan, PlannedGpu
    from lorapack.packer.problem import GpuKind, Problem
    from lorapack.packer.verify import Judges

TRIES = 6
"""GPUs on which a moved adapter is tried before a new one is started."""

ROUNDS = 6
"""Times the verifying judge is asked, and what fails moved on."""


@dataclass(frozen=True)
class Replanned:
    """The placement for the new rates.

    Attributes:
        gpus: The GPUs; those that ran keep their engines.
        moves: Adapters taken from a GPU that ran and put on another; new adapters do not count.
    """

    gpus: tuple[GpuPlacement, ...]
    moves: int


def replan(
    problem: Problem, old: Plan, steer: Judges, judges: Judges, max_moves: int | None
) -> Replanned:
    """Carries a plan over to a problem with other rates, adapters gone and adapters come.

    Args:
        problem: The fleet as it is now.
        old: The plan that runs.
        steer: Quick judges.
        judges: The verifying ones; what fails them is moved on.
        max_moves: Moves allowed; None: as many as it takes.

    Raises:
        Infeasible: More moves are needed than allowed.
        InputError: The plan runs a profile that the pool lacks.
    """
    gpus, homeless = carried_over(problem, old)
    moves = 0
    for by, factor in [(steer, 1.0 + SEED_MARGIN), *[(judges, 1.0)] * ROUNDS]:
        off = [_give_up(i, gpus, by, factor) for i in range(len(gpus))]
        taken = [item for items in off for item in items]
        moves += len(taken)
        gpus = _settle(problem, gpus, [*homeless, *taken], steer)
        homeless = []
        if by is judges and not taken:
            break
    if max_moves is not None and moves > max_moves:
        raise Infeasible(
            f"{moves} moves are needed to keep slo {problem.slo.name}, {max_moves} are allowed",
            f"--max-moves {moves}",
        )
    left = math.inf if max_moves is None else max_moves - moves
    gpus, closing = _close(gpus, steer, left)
    kept = [gpu for gpu in gpus if gpu.items]
    return Replanned(tuple(kept), moves + closing)


def carried_over(problem: Problem, old: Plan) -> tuple[list[GpuPlacement], list[Item]]:
    """The old plan's GPUs with the loads of now, and the items that no GPU holds yet."""
    kinds = {kind.profile.name: kind for kind in problem.pool}
    fleet = {adapter.adapter: adapter for adapter in problem.fleet}
    shares: dict[str, float] = {}
    gpus = []
    for gpu in old.gpus:
        if gpu.profile not in kinds:
            raise InputError("plan", f"{gpu.gpu}.profile", gpu.profile, "name it with --profile")
        items = [
            Item(_shared(fleet[row.adapter], row.share), row.share)
            for row in gpu.adapters
            if row.adapter in fleet
        ]
        for item in items:
            shares[item.name] = shares.get(item.name, 0.0) + item.share
        gpus.append(_running(gpu, kinds[gpu.profile], items))
    homeless = [Item(adapter) for name, adapter in fleet.items() if name not in shares]
    return gpus, sorted(homeless, key=item_order)


def _running(gpu: PlannedGpu, kind: GpuKind, items: list[Item]) -> GpuPlacement:
    pins = {item.load.pin for item in items} - {None}
    return GpuPlacement(
        kind,
        tuple(sorted(items, key=item_order)),
        gpu.engine["max_loras"],
        exempt=gpu.exempt,
        label=gpu.gpu if pins else None,
        running=Running(gpu.gpu, gpu.engine["max_lora_rank"], gpu.engine["max_cpu_loras"]),
    )


def _shared(adapter: Adapter, share: float) -> Adapter:
    if share == 1.0:
        return adapter
    cv = math.sqrt(share * adapter.cv**2 + (1.0 - share))
    return replace(adapter, rate_rps=adapter.rate_rps * share, cv=cv)


def _give_up(index: int, gpus: list[GpuPlacement], judges: Judges, factor: float) -> list[Item]:
    """Takes off a GPU the fewest of its busiest items without which it holds."""
    gpu = gpus[index]
    if not gpu.items or judges.of(gpu).judge([gpu.trial(factor)])[0].holds:
        return []
    free = sorted(
        (item for item in gpu.items if item.load.pin is None),
        key=lambda item: (-item.load.rate_rps, item.name),
    )

    def without(n: int) -> GpuPlacement:
        off = set(free[:n])
        return gpu.with_items([item for item in gpu.items if item not in off])

    def holds(n: int) -> bool:
        rest = without(n)
        return not rest.items or judges.of(rest).judge([rest.trial(factor)])[0].holds

    few, enough = 0, 1
    while enough < len(free) and not holds(enough):
        few, enough = enough, min(2 * enough, len(free))
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if holds(middle) else (middle, enough)
    gpus[index] = without(enough)
    return free[:enough]


def _settle(
    problem: Problem, gpus: list[GpuPlacement], items: Sequence[Item], steer: Judges
) -> list[GpuPlacement]:
    """Puts items where there is room, the least busy GPU first, and the rest on new GPUs."""
    current = list(gpus)
    homeless: list[Item] = []
    for item in sorted(items, key=item_order):
        kinds = problem.kinds_for(item.load)
        order = sorted(
            (i for i, gpu in enumerate(current) if gpu.kind in kinds and not gpu.exempt),
            key=lambda i: (sum(load.rate_rps for load in current[i].loads), i),
        )
        tries = [i for i in order if may_join(current[i], item)][:TRIES]
        for index in tries:
            joined = with_one_more(current[index], item)
            if steer.of(joined).judge([joined.trial(1.0 + SEED_MARGIN)])[0].holds:
                current[index] = joined
                break
        else:
            homeless.append(item)
    if homeless:
        kinds = problem.kinds_for(homeless[0].load)
        current += Greedy(kinds, steer.level, steer.slo).place(homeless)
    return current


def _close(
    gpus: list[GpuPlacement], steer: Judges, moves_left: float
) -> tuple[list[GpuPlacement], int]:
    """Closes the emptiest GPUs while their items are no more than the moves left."""
    current, moves = gpus, 0
    while True:
        fewer = close_gpus(current, steer, 1.0 + SEED_MARGIN, at_most=1)
        moved = _moved(current, fewer)
        if len(fewer) == len(current) or moves + moved > moves_left:
            return current, moves
        current, moves = fewer, moves + moved


def _moved(before: Sequence[GpuPlacement], after: Sequence[GpuPlacement]) -> int:
    n_before = sum(len(gpu.items) for gpu in before)
    stayed = sum(
        len(set(old.items) & set(new.items))
        for new in after
        for old in before
        if old.running is not None and old.running == new.running
    )
    running = sum(len(gpu.items) for gpu in before if gpu.running is not None)
    return min(n_before, running) - min(stayed, running)
