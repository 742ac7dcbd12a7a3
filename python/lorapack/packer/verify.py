"""Proof of a plan: every GPU re-simulated for an hour on fresh seeds; a failing one is repaired.

A repair first looks for other slots, then takes the smallest adapters off the failing GPU and finds
room for them where the wait is shortest, or on a GPU more. What changed is verified again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapack.packer.evaluate import SlotSearch, slot_rules
from lorapack.packer.placement import GpuPlacement, Item, may_join

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lorapack.packer.evaluate import Evaluator
    from lorapack.twin.service_level import ServiceLevel
    from lorapack.twin.trial import Verdict

SHED = 0.03
"""Share of a failing GPU's adapters that a round of repair takes off it."""

MAX_ROUNDS = 12
"""Rounds of repair before a plan is given up as it stands."""

MARGINS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Traffic above the planned that a GPU's margin is looked for among."""


@dataclass(frozen=True)
class Proof:
    """A placement and what the twin said of it.

    Attributes:
        gpus: The placement, repaired where that was asked for.
        verdicts: Each GPU's, over all the verifying seeds.
        repaired: GPUs that failed at first and were mended or relieved.
    """

    gpus: tuple[GpuPlacement, ...]
    verdicts: tuple[Verdict, ...]
    repaired: int = 0

    @property
    def verified(self) -> bool:
        """Whether every GPU holds on every seed."""
        return all(verdict.holds for verdict in self.verdicts)


@dataclass(frozen=True)
class Judges:
    """Who judges: by the problem's level, and by `batch` for exempt clients.

    Attributes:
        level: For ordinary GPUs.
        batch: For GPUs with exempt clients.
        slo: The level of the ordinary ones.
        batch_slo: The level of the exempt.
    """

    level: Evaluator
    batch: Evaluator
    slo: ServiceLevel
    batch_slo: ServiceLevel

    def of(self, gpu: GpuPlacement) -> Evaluator:
        """The one for this GPU."""
        return self.batch if gpu.exempt else self.level

    def slo_of(self, gpu: GpuPlacement) -> ServiceLevel:
        """The level this GPU is held to."""
        return self.batch_slo if gpu.exempt else self.slo


def verify(gpus: Sequence[GpuPlacement], judges: Judges) -> Proof:
    """Judges every GPU as it is."""
    return Proof(tuple(gpus), tuple(_judge(gpus, judges)))


def repair(
    gpus: Sequence[GpuPlacement],
    judges: Judges,
    steer: Judges,
    place: Callable[[list[Item], bool], list[GpuPlacement]],
) -> Proof:
    """Judges every GPU, mends those that fail, and judges again until all hold or rounds run out.

    Args:
        gpus: The placement.
        judges: The verifying ones.
        steer: The quicker ones that placed; they choose where a relieved adapter goes.
        place: Puts items, exempt or not, on new GPUs.
    """
    current = list(gpus)
    mended = 0
    for _ in range(MAX_ROUNDS):
        verdicts = _judge(current, judges)
        failing = [i for i, verdict in enumerate(verdicts) if not verdict.holds]
        if not failing:
            return Proof(tuple(current), tuple(verdicts), mended)
        mended += len(failing)
        current = _relieve(current, verdicts, failing, judges, steer, place)
    return replace(verify(current, judges), repaired=mended)


def _judge(gpus: Sequence[GpuPlacement], judges: Judges) -> list[Verdict]:
    """In two calls at most, so that cores are busy."""
    verdicts: dict[int, Verdict] = {}
    for evaluator in (judges.level, judges.batch):
        mine = [i for i, gpu in enumerate(gpus) if judges.of(gpu) is evaluator]
        answers = evaluator.judge([gpus[i].trial() for i in mine])
        verdicts.update(zip(mine, answers, strict=True))
    return [verdicts[i] for i in range(len(gpus))]


def _relieve(
    gpus: list[GpuPlacement],
    verdicts: Sequence[Verdict],
    failing: Sequence[int],
    judges: Judges,
    steer: Judges,
    place: Callable[[list[Item], bool], list[GpuPlacement]],
) -> list[GpuPlacement]:
    current = list(gpus)
    shed: list[tuple[Item, bool]] = []
    for index in failing:
        gpu = current[index]
        search = SlotSearch(judges.of(gpu), gpu.kind.profile, list(slot_rules(judges.slo_of(gpu))))
        better = search.best(gpu.loads)
        if better is not None:
            current[index] = gpu.with_items(gpu.items, better.trial.max_loras)
            continue
        kept, off = _smallest_off(gpu)
        current[index] = gpu.with_items(kept)
        shed += [(item, gpu.exempt) for item in off]
    order = sorted(
        (i for i in range(len(gpus)) if i not in set(failing)),
        key=lambda i: (verdicts[i].ttft_p99_ms, i),
    )
    homeless = [pair for pair in shed if not _rehouse(pair, current, order, steer)]
    for exempt in (False, True):
        items = [item for item, is_exempt in homeless if is_exempt is exempt]
        if items:
            current += place(items, exempt)
    return current


def _smallest_off(gpu: GpuPlacement) -> tuple[list[Item], list[Item]]:
    """The items kept and those taken off: the least busy, pinned ones last."""
    n_off = min(math.ceil(SHED * len(gpu.items)), len(gpu.items) - 1)
    by_rate = sorted(
        gpu.items, key=lambda item: (item.load.pin is not None, item.load.rate_rps, item.name)
    )
    off = by_rate[:n_off]
    return [item for item in gpu.items if item not in off], off


def _rehouse(
    pair: tuple[Item, bool], gpus: list[GpuPlacement], order: Sequence[int], steer: Judges
) -> bool:
    """Puts an item on the first GPU, shortest wait first, that still holds with it."""
    item, exempt = pair
    for index in order:
        gpu = gpus[index]
        if gpu.exempt is not exempt or not may_join(gpu, item):
            continue
        slots = gpu.max_loras + 1 if gpu.max_loras == len(gpu.items) else gpu.max_loras
        joined = gpu.with_items([*gpu.items, item], slots)
        if steer.of(joined).judge([joined.trial()])[0].holds:
            gpus[index] = joined
            return True
    return False


def rate_margins(gpus: Sequence[GpuPlacement], judges: Judges) -> list[float]:
    """How much more traffic each GPU was seen to hold, from `MARGINS`; bisected in step.

    Args:
        gpus: The placement.
        judges: The quick ones.
    """
    low = [0] * len(gpus)
    high = [len(MARGINS)] * len(gpus)
    while True:
        open_ = [i for i in range(len(gpus)) if high[i] - low[i] > 1]
        if not open_:
            return [MARGINS[index] for index in low]
        asked = {i: (low[i] + high[i]) // 2 for i in open_}
        for evaluator in (judges.level, judges.batch):
            mine = [i for i in open_ if judges.of(gpus[i]) is evaluator]
            trials = [gpus[i].trial(1.0 + MARGINS[asked[i]]) for i in mine]
            for i, verdict in zip(mine, evaluator.judge(trials), strict=True):
                if verdict.holds:
                    low[i] = asked[i]
                else:
                    high[i] = asked[i]


def failing_probability(verdict: Verdict, slo: ServiceLevel) -> float:
    """Chance that one more seed breaks the level: an estimate from the spread over the seeds.

    Each seed's slack is the smallest logarithm of promise over outcome; one more draw from a normal
    law of unknown mean and spread falls below zero with Student's t.
    """
    slacks = [
        min(
            math.log(max(1.0 - slo.min_served, 1e-6) / max(1.0 - run.served_fraction, 1e-6)),
            math.inf
            if slo.ttft_p99_ms is None
            else math.log(slo.ttft_p99_ms / max(run.ttft_with_unserved_p99_ms, 1e-3)),
        )
        for run in verdict.results
    ]
    n = len(slacks)
    if n < 2 or not all(map(math.isfinite, slacks)):
        return 0.0 if verdict.holds else 1.0
    mean = sum(slacks) / n
    spread = math.sqrt(sum((slack - mean) ** 2 for slack in slacks) / (n - 1))
    if spread == 0.0:
        return 0.0 if mean >= 0 else 1.0
    from scipy.stats import t  # slow to import, and only proofs need it

    return float(t.cdf(-mean / (spread * math.sqrt(1 + 1 / n)), n - 1))
