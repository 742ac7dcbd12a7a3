"""What the loss of GPUs does: their adapters on the rest, which must not starve anybody.

A lost GPU's adapters go, the busiest first, to the GPUs with the least traffic and the least crowd
that their slots' rank allows, engines as they run; so all slots are made for the largest rank, and
there are some more than without. A level is not kept then; nobody may be starved
(served below 0.9), which is judged by the twin, or predicted where a plan is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from lorapack.packer.placement import Running, may_join
from lorapack.packer.predicted import PredictedJudge
from lorapack.twin.service_level import SERVICE_LEVELS
from lorapack.twin.trial import QUARTER, TwinJudge, n_adapters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings

MOST_LOSSES = 200
"""Sets of lost GPUs tried: all of them for one spare, a sample in order beyond."""

NOT_STARVED = replace(SERVICE_LEVELS["papers"], adapter_min_served=0.9)
"""What is asked of the rest: no GPU and no adapter served below 0.9."""


def judge_after_loss(problem: Problem, settings: Settings) -> Evaluator:
    """Who says whether the rest of a plan starves anybody."""
    if settings.verify:
        return TwinJudge(NOT_STARVED, QUARTER, (problem.seed,), settings.jobs)
    return PredictedJudge(NOT_STARVED, settings.predictors)


def losses_that_starve(
    gpus: Sequence[GpuPlacement], n_lost: int, judge: Evaluator
) -> list[tuple[int, ...]]:
    """The sets of `n_lost` GPUs whose loss starves the rest.

    Args:
        gpus: A placement.
        n_lost: GPUs lost at once.
        judge: Says whether a GPU starves nobody.

    Returns:
        Places in `gpus` of what was lost; empty: any loss is borne.
    """
    started = [_as_running(i, gpu) for i, gpu in enumerate(gpus)]
    bad = []
    for lost in _losses(len(gpus), n_lost):
        rest = _redistributed(started, lost)
        trials = None if rest is None else [gpu.trial() for gpu in rest if gpu.items]
        if trials is None or not all(verdict.holds for verdict in judge.judge(trials)):
            bad.append(lost)
    return bad


def _losses(n_gpus: int, n_lost: int) -> Iterator[tuple[int, ...]]:
    for number, lost in enumerate(combinations(range(n_gpus), min(n_lost, n_gpus))):
        if number == MOST_LOSSES:
            return
        yield lost


def _as_running(index: int, gpu: GpuPlacement) -> GpuPlacement:
    """The GPU with its engine fixed; its CPU cache is not what a loss should fail by."""
    running = gpu.running or Running(f"gpu-{index}", gpu.max_lora_rank, 1_000_000)
    return replace(gpu, running=running)


def _redistributed(
    gpus: Sequence[GpuPlacement], lost: tuple[int, ...]
) -> list[GpuPlacement] | None:
    """The GPUs that are left, with the lost ones' items; None where an item fits nowhere."""
    rest = {i: gpu for i, gpu in enumerate(gpus) if i not in lost}
    rates = {i: sum(load.rate_rps for load in gpu.loads) for i, gpu in rest.items()}
    mean = sum(rates.values()) / max(len(rates), 1) or 1.0

    def strain(place: int) -> tuple[float, int]:
        """Traffic over the mean, and adapters over the slots they share."""
        gpu = rest[place]
        crowd = n_adapters(gpu.loads) / max(gpu.max_loras, 1)
        return (rates[place] / mean + max(0.0, crowd - 1.0), place)

    homeless = [item for i in lost for item in gpus[i].items]
    for item in sorted(homeless, key=lambda item: (-item.load.rate_rps, item.name)):
        place = min((i for i in rest if may_join(rest[i], item)), key=strain, default=None)
        if place is None:
            return None
        rest[place] = rest[place].with_items([*rest[place].items, item])
        rates[place] += item.load.rate_rps
    return list(rest.values())


def with_room(gpus: Sequence[GpuPlacement], n_lost: int, judge: Evaluator) -> list[GpuPlacement]:
    """The GPUs with slots, and slots' rank, for what the loss of others would bring them.

    A GPU with little traffic is brought more than its share of adapters: it has slots at least as
    if all of them were spread evenly over who is left.
    """
    highest = max((gpu.max_lora_rank for gpu in gpus if gpu.max_loras), default=0)
    share = 1.0 + n_lost / max(len(gpus) - n_lost, 1)
    even = sum(gpu.max_loras for gpu in gpus) / max(len(gpus) - n_lost, 1)
    roomy = []
    for index, gpu in enumerate(gpus):
        if not gpu.max_loras:
            roomy.append(gpu)
            continue
        limit = judge.slot_limit(gpu.kind.profile, highest)
        slots = min(math.ceil(max(share * gpu.max_loras, even)), limit)
        running = Running(f"gpu-{index}", highest, math.ceil(2 * share * len(gpu.items)))
        roomy.append(replace(gpu, max_loras=slots, running=running))
    return roomy
