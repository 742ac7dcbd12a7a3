"""Proof of a plan: every GPU re-simulated for an hour on fresh seeds; a failing one is repaired.

A repair first looks for other slots, then moves a few per cent of the failing GPU's load to where
the wait is shortest, and where there is no room halves the GPU. What changed is verified again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from lorapack.packer.evaluate import SlotSearch, slot_rules
from lorapack.packer.placement import GpuPlacement, Item, alone_holding, may_join, with_one_more
from lorapack.packer.spread import cut_evenly, spread
from lorapack.packer.works import Works
from lorapack.twin.trial import n_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.evaluate import Evaluator
    from lorapack.twin.service_level import ServiceLevel
    from lorapack.twin.trial import Verdict

PROOF_MARGIN = 0.02
"""A repaired plan holds on the verifying seeds at rates this much higher, too: of GPUs that just
hold on three seeds one in twelve fails on a fourth."""

BURSTY_CV = 1.3
"""Traffic burstier than this on the whole makes a GPU's wait a matter of clumps."""

SHED = 0.03
"""Share of a failing GPU's load that a round of repair takes off it."""

MAX_ROUNDS = 12
"""Rounds of repair before a plan is given up as it stands."""

CROWDED_MARGIN = 0.05
"""The same where slots are short: a queue for them may build up on one seed and not on the next,
and then lasts. What such a GPU holds varies twice as much from seed to seed."""

SAFE = 0.08
"""A GPU with a slot for each adapter that was seen to hold with this much more traffic is proven
without that margin: a search's quarter of an hour on one seed is a few per cent off."""


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


@dataclass
class Lessons:
    """What a search learns from its judges as it goes, and need not ask again.

    Attributes:
        believed: Item, by its key -> by how much more it counts than physics says.
        changes: Item -> the logarithm by which that was last corrected.
        n_gpus: Profile -> the fewest GPUs on which its items were found to hold.
        hands: Profile and rank -> in how many hands its items are dealt.
        filled: Profiles and numbers of GPUs that were found to do.
        works: What adapters ask of GPUs.
    """

    believed: dict[tuple[str, float], float] = field(default_factory=dict)
    changes: dict[tuple[str, float], float] = field(default_factory=dict)
    n_gpus: dict[str, int] = field(default_factory=dict)
    hands: dict[tuple[str, int], int] = field(default_factory=dict)
    filled: set[tuple[str, int]] = field(default_factory=set)
    works: Works = field(default_factory=Works, repr=False)


@dataclass(frozen=True)
class Judges:
    """Who judges: by the problem's level, and by `batch` for exempt clients.

    Attributes:
        level: For ordinary GPUs.
        batch: For GPUs with exempt clients.
        slo: The level of the ordinary ones.
        batch_slo: The level of the exempt.
        thorough: The same over the window of the proof; None: these judge by it already.
        lessons: What was learnt from their answers.
        rungs: GPU -> the rungs of `margins.LADDER` between which it was seen to break.
    """

    level: Evaluator
    batch: Evaluator
    slo: ServiceLevel
    batch_slo: ServiceLevel
    thorough: Judges | None = None
    lessons: Lessons = field(default_factory=Lessons, repr=False)
    rungs: dict[GpuPlacement, tuple[int, int]] = field(default_factory=dict, repr=False)

    @property
    def of_hour(self) -> Judges:
        """These judges over the window of the proof."""
        return self.thorough or self

    def of(self, gpu: GpuPlacement) -> Evaluator:
        """The one for this GPU."""
        return self.batch if gpu.exempt else self.level

    def slo_of(self, gpu: GpuPlacement) -> ServiceLevel:
        """The level this GPU is held to."""
        return self.batch_slo if gpu.exempt else self.slo


class Healer(Protocol):
    """What a repair needs of whoever knows the problem."""

    def place(self, items: list[Item]) -> list[GpuPlacement]:
        """Puts items on GPUs of their own."""
        ...

    def exempt(self, items: list[Item], at_least: int) -> list[GpuPlacement]:
        """Puts exempt clients on so many GPUs or more."""
        ...

    def clumped(self, gpu: GpuPlacement) -> list[Item]:
        """The items of a GPU whose own clumps break the level on the verifying seeds."""
        ...


def verify(gpus: Sequence[GpuPlacement], judges: Judges) -> Proof:
    """Judges every GPU as it is."""
    return Proof(tuple(gpus), tuple(_judge(gpus, judges, [1.0] * len(gpus))))


def repair(
    gpus: Sequence[GpuPlacement],
    judges: Judges,
    steer: Judges,
    healer: Healer,
) -> Proof:
    """Judges every GPU, mends those that fail, and judges again until all hold or rounds run out.

    Args:
        gpus: The placement.
        judges: The verifying ones.
        steer: The quicker ones that placed; they choose where a relieved adapter goes.
        healer: Puts what was taken off on GPUs of its own.
    """
    current = list(gpus)
    mended = 0
    for _ in range(MAX_ROUNDS):
        verdicts = _judge_with_margin(current, judges, steer)
        failing = [i for i, verdict in enumerate(verdicts) if not verdict.holds]
        if not failing:
            break
        mended += len(failing)
        relieved = _relieve(current, verdicts, failing, judges, steer, healer)
        if relieved == current:
            break
        current = relieved
    return replace(verify(current, judges), repaired=mended)


def fragile(gpus: Sequence[GpuPlacement], judges: Judges, steer: Judges) -> list[GpuPlacement]:
    """Ordinary GPUs that do not hold, or would not with `PROOF_MARGIN` more traffic."""
    verdicts = _judge_with_margin(gpus, judges, steer)
    return [
        gpu
        for gpu, verdict in zip(gpus, verdicts, strict=True)
        if not verdict.holds and not gpu.exempt
    ]


def _judge_with_margin(
    gpus: Sequence[GpuPlacement], judges: Judges, steer: Judges
) -> list[Verdict]:
    """Judges every GPU, those that are not safe with `PROOF_MARGIN` more traffic."""
    held = [verdict.holds for verdict in _judge(gpus, steer, [1.0 + SAFE] * len(gpus))]
    factors = [
        1.0 + _margin(gpu, judges.slo_of(gpu), held=holds)
        for gpu, holds in zip(gpus, held, strict=True)
    ]
    return _judge(gpus, judges, factors)


def _margin(gpu: GpuPlacement, slo: ServiceLevel, *, held: bool) -> float:
    """What a GPU is to hold above its traffic, given whether it was seen to hold `SAFE` above."""
    if short_of_slots(gpu) and not starves(slo):
        return CROWDED_MARGIN
    return 0.0 if held else PROOF_MARGIN


def short_of_slots(gpu: GpuPlacement) -> bool:
    """Whether a GPU has fewer slots than adapters."""
    return gpu.max_loras < n_adapters(gpu.loads)


def _judge(
    gpus: Sequence[GpuPlacement], judges: Judges, rate_factors: Sequence[float]
) -> list[Verdict]:
    """In two calls at most, so that cores are busy."""
    verdicts: dict[int, Verdict] = {}
    for evaluator in (judges.level, judges.batch):
        mine = [i for i, gpu in enumerate(gpus) if judges.of(gpu) is evaluator]
        answers = evaluator.judge([gpus[i].trial(rate_factors[i]) for i in mine])
        verdicts.update(zip(mine, answers, strict=True))
    return [verdicts[i] for i in range(len(gpus))]


def _relieve(
    gpus: list[GpuPlacement],
    verdicts: Sequence[Verdict],
    failing: Sequence[int],
    judges: Judges,
    steer: Judges,
    healer: Healer,
) -> list[GpuPlacement]:
    """The GPUs after one round: other slots, clumped ones apart, some load moved, or one more."""
    current = list(gpus)
    order = sorted(
        (i for i, gpu in enumerate(gpus) if i not in set(failing) and not gpu.exempt),
        key=lambda i: (verdicts[i].ttft_p99_ms, i),
    )
    asked = [gpu.trial() for gpu in gpus]
    # A bursty GPU that holds is left alone: what breaks it with more traffic is no lack of room.
    spared = [
        clumps_matter(gpu.loads) and judges.of(gpu).judge([trial])[0].holds
        for gpu, trial in zip(gpus, asked, strict=True)
    ]
    apart: list[Item] = []
    for index in failing:
        if _other_slots(index, current, judges) or current[index].exempt:
            continue
        clumped = [] if spared[index] else healer.clumped(current[index])
        if clumped:
            kept = [item for item in current[index].items if item not in clumped]
            current[index] = current[index].with_items(kept)
            apart += clumped
        elif not _move_some(index, current, order, steer) and not spared[index]:
            current += _in_two(index, current, judges, healer)
    sick = [
        i
        for i in failing
        if current[i].exempt
        and current[i] == gpus[i]
        and not spared[i]
        and _mendable(gpus[i], judges)
    ]
    if apart or sick:
        exempt = [gpu for gpu in current if gpu.exempt]
        items = [*apart, *(item for gpu in exempt for item in gpu.items)]
        more = len(exempt) + 1 if sick else 1
        current = [gpu for gpu in current if not gpu.exempt] + healer.exempt(items, more)
    return [gpu for gpu in current if gpu.items]


def _mendable(gpu: GpuPlacement, judges: Judges) -> bool:
    """Whether more GPUs may help: what does not even hold alone holds nowhere."""
    holding = alone_holding(gpu.items, gpu.kind, judges.of(gpu))
    return len(holding) == len(gpu.items)


def clumps_matter(loads: Sequence[Adapter]) -> bool:
    """Whether traffic is bursty on the whole: its variation, weighted by rate."""
    traffic = sum(load.rate_rps for load in loads)
    return sum(load.rate_rps * load.cv**2 for load in loads) > BURSTY_CV**2 * traffic


def starves(slo: ServiceLevel) -> bool:
    """Whether a level lets adapters starve and requests queue: GPUs are then filled past their end.

    Short windows say too little of what such a GPU serves: their end cuts off as much in flight.
    """
    return slo.adapter_min_served is None and slo.ttft_p99_ms is None


def _other_slots(index: int, gpus: list[GpuPlacement], judges: Judges) -> bool:
    gpu = gpus[index]
    if gpu.running is not None:
        return False
    better = _search(gpu, judges).best(gpu.loads)
    if better is not None:
        gpus[index] = gpu.with_items(gpu.items, better.trial.max_loras)
    return better is not None


def _search(gpu: GpuPlacement, judges: Judges) -> SlotSearch:
    rules = list(slot_rules(judges.slo_of(gpu)))
    return SlotSearch(judges.of(gpu), gpu.kind.profile, rules, 1.0 + PROOF_MARGIN)


def _move_some(index: int, gpus: list[GpuPlacement], order: Sequence[int], steer: Judges) -> bool:
    """Moves a few per cent of a GPU's load to others; changes nothing where there is no room."""
    before = list(gpus)
    kept, off = _some_off(gpus[index])
    gpus[index] = gpus[index].with_items(kept)
    if off and all(_rehouse(item, gpus, order, steer) for item in off):
        return True
    gpus[:] = before
    return False


def _in_two(
    index: int,
    gpus: list[GpuPlacement],
    judges: Judges,
    healer: Healer,
) -> list[GpuPlacement]:
    """Halves a GPU's load over itself and a new one; the GPUs to be added."""
    gpu = gpus[index]
    if len(gpu.items) < 2:
        return []
    fixed = [item for item in gpu.items if item.load.pin is not None]
    free = [item for item in gpu.items if item.load.pin is None]
    sizes = [item.load.rate_rps + 1e-9 for item in free]
    halves = spread(free, sizes, 2, gpu.kind, _search(gpu, judges), exempt=gpu.exempt)
    if halves is not None and not fixed:
        gpus[index] = halves[0]
        return [halves[1]]
    parts = cut_evenly(free, sizes, 2)
    if parts is None:
        return []
    gpus[index] = gpu.with_items([*fixed, *parts[0]])
    return healer.place(parts[1])


def _some_off(gpu: GpuPlacement) -> tuple[list[Item], list[Item]]:
    """The items kept and those taken off: about `SHED` of the load, in as few items as do."""
    total = sum(item.load.rate_rps for item in gpu.items)
    free = sorted(
        (item for item in gpu.items if item.load.pin is None),
        key=lambda item: (abs(item.load.rate_rps - SHED * total), item.name),
    )
    off: list[Item] = []
    while free and len(off) < len(gpu.items) - 1:
        if sum(item.load.rate_rps for item in off) >= SHED * total:
            break
        off.append(free.pop(0))
    return [item for item in gpu.items if item not in off], off


def _rehouse(item: Item, gpus: list[GpuPlacement], order: Sequence[int], steer: Judges) -> bool:
    """Puts an item on the first GPU, shortest wait first, that still holds with it."""
    for index in order:
        joined = join(gpus[index], item, steer)
        if joined is not None:
            gpus[index] = joined
            return True
    return False


def join(gpu: GpuPlacement, item: Item, steer: Judges) -> GpuPlacement | None:
    """The GPU with an item more, a slot more if it had one each; None where that does not hold."""
    if not may_join(gpu, item):
        return None
    joined = with_one_more(gpu, item)
    return joined if steer.of(joined).judge([joined.trial()])[0].holds else None


def failing_probability(verdict: Verdict, slo: ServiceLevel) -> float:
    """Chance that one more seed breaks the level: an estimate from the spread over the seeds.

    Each seed's slack is the smallest logarithm of promise over outcome; one more draw from a normal
    law of unknown mean and spread falls below zero with Student's t.
    """
    from scipy.special import stdtr  # slow to import, and only plans with proof need it

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
    return float(stdtr(n - 1, -mean / (spread * math.sqrt(1 + 1 / n))))
