"""How much traffic a GPU holds, as a multiple of what is planned: found by the twin, in step."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.verify import Judges

HEADROOM, CROWDED_HEADROOM = 0.025, 0.045
"""What the GPUs of a plan are to hold above their traffic on every verifying seed, those short of
slots in the second place: where such a GPU breaks varies twice as much from seed to seed."""

LADDER = (
    *(percent / 100 for percent in range(60, 100, 2)),
    *sorted([*(percent / 100 for percent in range(100, 131)), 1 + HEADROOM, 1 + CROWDED_HEADROOM]),
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

WORST_OF_SEEDS = 0.01
"""On the worst of three seeds a GPU breaks at so much less traffic than on one, in the mean."""

FIRST_STEP = 4
"""Rungs of the first step away from a guess; doubled with each."""


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
