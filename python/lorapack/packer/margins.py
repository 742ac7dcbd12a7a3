"""How much traffic a GPU holds, as a multiple of what is planned: found by the twin, in step."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from lorapack.packer.verify import starves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.verify import Judges
    from lorapack.twin.service_level import ServiceLevel

NOISE = 0.05
"""Where a GPU breaks varies from seed to seed by this over the square root of its requests per
second: the deviation, as a share of its traffic. Slots and ranks hardly matter (`benches/noise.py`
measures it)."""

SERVED_NOISE = 0.03
"""The same where requests may queue, and only what is served counts."""

HEADROOM = 2.2
"""Deviations that a GPU is to hold above its traffic on every verifying seed."""

WORST_OF_SEEDS = 0.85
"""Deviations by which a GPU breaks below its mean on the worst of three seeds, in the mean."""

MOST_HEADROOM = 0.12
"""A share of its traffic above which no GPU need hold: so few requests are no steady traffic."""

ALONE = 1.025
"""Times its traffic that an item is to hold alone on a GPU, if it is not to be divided: less than
it was tried with before."""

STEP = 0.005
"""From rung to rung where headrooms are."""

LADDER = (
    *(percent / 100 for percent in range(60, 100, 2)),
    *(1.0 + STEP * step for step in range(12)),
    *(percent / 100 for percent in range(106, 131)),
    *(1.35, 1.4, 1.5, 1.75, 2.0),
)
"""Multiples of the planned traffic that are asked about."""

TOP = len(LADDER) - 1
"""The highest rung."""

UNKNOWN = (-1, len(LADDER))
"""Between the rung that held and the one that broke, of a GPU nobody asked about."""

GUESS = 1.05
"""The multiple asked about first, where nothing better is known."""

WITHIN = 2
"""Rungs between which it is known well enough where a GPU breaks: from seed to seed that varies as
much."""

TINY = 1e-9
"""Any rate above zero."""

FIRST_STEP = 4
"""Rungs of the first step away from a guess; doubled with each."""


def noise(gpu: GpuPlacement, slo: ServiceLevel) -> float:
    """By which share of its traffic the traffic at which a GPU breaks varies: a deviation."""
    of_one_rps = SERVED_NOISE if starves(slo) else NOISE
    rate_rps = sum(load.rate_rps for load in gpu.loads)
    return min(of_one_rps / math.sqrt(max(rate_rps, TINY)), MOST_HEADROOM / HEADROOM)


def must_hold(gpu: GpuPlacement, slo: ServiceLevel) -> float:
    """Times its traffic that a GPU is to hold on every verifying seed: the nearest of `LADDER`."""
    if len(gpu.items) == 1:
        return ALONE
    return LADDER[bisect_left(LADDER, 1.0 + HEADROOM * noise(gpu, slo) - STEP / 2.0)]


def must_hold_on_one(gpu: GpuPlacement, slo: ServiceLevel) -> float:
    """Times its traffic that a GPU holds on one seed if it is to hold enough on the worst."""
    return must_hold(gpu, slo) * worse_on_all(gpu, slo)


def worse_on_all(gpu: GpuPlacement, slo: ServiceLevel) -> float:
    """How many times more traffic a GPU holds on one seed than on the worst, in the mean."""
    return 1.0 + WORST_OF_SEEDS * noise(gpu, slo)


def most_traffic(
    gpus: Sequence[GpuPlacement], judges: Judges, guess: float = GUESS, within: int = 1
) -> list[int]:
    """The highest rung of `LADDER` on which each GPU was seen to hold; -1: on none.

    Galloping from a guess, then bisection, for all GPUs in step, so that cores are busy. What is
    known of a GPU from before is not asked again.

    Args:
        gpus: A placement.
        judges: The quick ones, who remember.
        guess: The multiple of the planned traffic asked about first.
        within: How near, in rungs.
    """
    known = [judges.rungs.get(gpu, UNKNOWN) for gpu in gpus]
    first = max(bisect_right(LADDER, guess) - 1, 0)
    step = FIRST_STEP
    while True:
        asked = {
            i: _next_rung(held, broke, first, step)
            for i, (held, broke) in enumerate(known)
            if broke - held > within and held < TOP and broke > 0
        }
        if not asked:
            break
        for i, holds in zip(asked, _hold(gpus, judges, asked), strict=True):
            held, broke = known[i]
            known[i] = (asked[i], broke) if holds else (held, asked[i])
        step *= 2
    judges.rungs.update(zip(gpus, known, strict=True))
    return [held for held, _ in known]


def hold_at(gpus: Sequence[GpuPlacement], judges: Judges, factors: Sequence[float]) -> list[bool]:
    """Whether each GPU holds with so many times its traffic, a number of `LADDER`.

    What is known of a GPU from before is not asked again.
    """
    known = [judges.rungs.get(gpu, UNKNOWN) for gpu in gpus]
    rungs = [LADDER.index(factor) for factor in factors]
    asked = {
        i: rung
        for i, (rung, (held, broke)) in enumerate(zip(rungs, known, strict=True))
        if held < rung < broke
    }
    for i, holds in zip(asked, _hold(gpus, judges, asked), strict=True):
        held, broke = known[i]
        known[i] = (asked[i], broke) if holds else (held, asked[i])
    judges.rungs.update(zip(gpus, known, strict=True))
    return [held >= rung for rung, (held, _) in zip(rungs, known, strict=True)]


def _next_rung(held: int, broke: int, first: int, step: int) -> int:
    if (held, broke) == UNKNOWN:
        return first
    if broke > TOP:
        return min(held + step, TOP)
    return (held + broke) // 2 if held >= 0 else max(broke - step, 0)


def _hold(gpus: Sequence[GpuPlacement], judges: Judges, rungs: Mapping[int, int]) -> list[bool]:
    """Whether each of some GPUs holds on its rung; in two calls at most."""
    holds: dict[int, bool] = {}
    for evaluator in (judges.level, judges.batch):
        mine = [i for i in rungs if judges.of(gpus[i]) is evaluator]
        verdicts = evaluator.judge([gpus[i].trial(LADDER[rungs[i]]) for i in mine])
        holds.update({i: v.holds for i, v in zip(mine, verdicts, strict=True)})
    return [holds[i] for i in rungs]


def next_rung(held: int) -> float | None:
    """The traffic on the rung after the last that held; None where all did."""
    return None if held == TOP else LADDER[held + 1]


def breaks_at(gpu: GpuPlacement, judges: Judges) -> float | None:
    """At about which multiple of the planned traffic a GPU that was asked about breaks.

    None where it held on the highest rung.
    """
    held, broke = judges.rungs[gpu]
    if held == TOP:
        return None
    return LADDER[0] if held < 0 else (LADDER[held] + LADDER[min(broke, TOP)]) / 2


def filled(gpus: Sequence[GpuPlacement], judges: Judges) -> float:
    """How many full GPUs the GPUs come to: sizes are nearly additive.

    Hardly any plan needs fewer: what cannot be gained need not be searched for.
    """
    return sum(1.0 / LADDER[max(rung, 0)] for rung in most_traffic(gpus, judges))
