"""The packing methods by name: each says where items go and with how many slots, nothing more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from lorapack.errors import InputError, did_you_mean
from lorapack.packer.balance import Balance
from lorapack.packer.baselines import (
    aibrix_binpack,
    dlora_proactive,
    dynamo_hrw,
    ffd_load,
    latency,
    lpt_load,
    max_backbone,
    production_stack,
    random_places,
    round_robin,
)
from lorapack.packer.baselines.ground import Baseline, Ground
from lorapack.packer.bound import request_prices_s
from lorapack.packer.evaluate import slot_rules
from lorapack.packer.greedy import Greedy
from lorapack.packer.greedy_paper import GreedyPaper
from lorapack.packer.placement import item_order
from lorapack.packer.predicted import PredictedJudge, PredictedSlots
from lorapack.packer.quick_fill import QuickFill, is_plain
from lorapack.packer.verify import clumps_matter, starves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import GpuKind, Problem
    from lorapack.packer.settings import Settings
    from lorapack.packer.verify import Judges

MOST_TIMES_BOUND = 16
"""A baseline's search for its count of GPUs ends at so many times the bound."""


class Method(Protocol):
    """Places the items of one base model on GPUs of the kinds that serve it."""

    def __call__(
        self,
        problem: Problem,
        kinds: Sequence[GpuKind],
        items: Sequence[Item],
        steer: Judges,
        settings: Settings,
    ) -> list[GpuPlacement]:
        """The GPUs; whether they hold is for `verify` to say."""
        ...


def greedy(
    problem: Problem,
    kinds: Sequence[GpuKind],
    items: Sequence[Item],
    steer: Judges,
    settings: Settings,
) -> list[GpuPlacement]:
    """`greedy` (ours): filled to the limit, then spread over the GPUs there are to be.

    For the fewest GPUs those are as many as were filled; for `latency` all of `n_gpus`; and
    `spare_gpus` more, so that what is lost fits in the rest.
    """
    if is_plain(problem, kinds, items):
        placed = _placed_quickly(problem, kinds[0], items, steer, settings)
        if placed is not None:
            return placed
    packer = Greedy(
        kinds,
        steer.level,
        steer.slo,
        margin=settings.seed_margin,
        by_price=problem.objective == "cost",
        advance=lambda done: settings.progress("filling GPUs", done),
    )
    more = settings.more_gpus + problem.spare_gpus
    if problem.objective != "latency" and not more:
        return packer.place(items, problem.n_gpus)
    full = packer.fill(sorted(items, key=item_order), problem.n_gpus)
    fewest = len(full) + more
    wanted = fewest if problem.objective != "latency" else max(fewest, problem.n_gpus or fewest)
    n_gpus = min(wanted, len(items))
    return packer.level(full, n_gpus) or full


def _placed_quickly(
    problem: Problem, kind: GpuKind, items: Sequence[Item], steer: Judges, settings: Settings
) -> list[GpuPlacement] | None:
    """Items that nothing binds, on GPUs of one kind; None where this knows no quicker way."""
    if isinstance(steer.level, PredictedJudge):
        if problem.objective == "latency":
            return None
        slots = PredictedSlots(steer.level, kind.profile, slot_rules(steer.slo))
        fill = QuickFill(kind, slots, settings.seed_margin, steer.lessons.works)
        return fill.place(items, problem.n_gpus, problem.spare_gpus)
    if not is_balanced(problem, (kind,), items):
        return None
    balance = Balance(kind, steer)
    if problem.objective == "latency" and problem.n_gpus is not None:
        return balance.over(items, min(problem.n_gpus, len(items)))
    return balance.fewest(items, problem.n_gpus, settings.more_gpus + problem.spare_gpus)


def is_balanced(problem: Problem, kinds: Sequence[GpuKind], items: Sequence[Item]) -> bool:
    """Whether items are spread by physics, which knows neither clumps nor whom to starve."""
    return is_steady(problem, kinds, items) and not starves(problem.slo)


def is_steady(problem: Problem, kinds: Sequence[GpuKind], items: Sequence[Item]) -> bool:
    """Whether GPUs may be evened out: nothing binds items to one, and traffic has no clumps."""
    return is_plain(problem, kinds, items) and not clumps_matter(problem.fleet)


def greedy_paper(
    problem: Problem,
    kinds: Sequence[GpuKind],
    items: Sequence[Item],
    steer: Judges,
    settings: Settings,
) -> list[GpuPlacement]:
    """`greedy-paper`: as in the papers, on the first kind of GPU."""
    del problem, settings
    return GreedyPaper(kinds[0], steer.level).place(items)


def baseline(method: Baseline) -> Method:
    """A baseline on as many GPUs as asked for, as it takes itself, or as few as hold."""

    def place(
        problem: Problem,
        kinds: Sequence[GpuKind],
        items: Sequence[Item],
        steer: Judges,
        settings: Settings,
    ) -> list[GpuPlacement]:
        names = {item.name for item in items}
        ground = Ground(
            kind=kinds[0],
            items=tuple(sorted(items, key=lambda item: item.name)),
            whole={a.adapter: a for a in problem.fleet if a.adapter in names},
            evaluator=steer.level,
            slo=steer.slo,
            seed=problem.seed,
        )
        ours = settings.slots == "ours"
        if method.n_gpus is not None:
            return method.place(ground, method.n_gpus(ground), our_slots=ours)
        if problem.n_gpus is not None:
            return method.place(ground, problem.n_gpus, our_slots=ours)
        n_gpus = _fewest(method, ground, our_slots=ours)
        return method.place(ground, n_gpus + settings.more_gpus, our_slots=ours)

    return place


def _fewest(method: Baseline, ground: Ground, *, our_slots: bool) -> int:
    """The fewest GPUs on which the method's placement holds: galloping, then bisection."""

    def holds(n_gpus: int) -> bool:
        gpus = method.place(ground, n_gpus, our_slots=our_slots)
        return all(
            ground.evaluator.judge([gpu.trial()])[0].holds
            for gpu in sorted(gpus, key=lambda gpu: -sum(load.rate_rps for load in gpu.loads))
        )

    loads = [item.load for item in ground.items]
    prices = request_prices_s(ground.kind.profile, loads, ground.evaluator, ground.slo.min_served)
    bound = max(1, math.ceil(float((prices @ [load.rate_rps for load in loads]).max())))
    broke, held = bound - 1, bound
    while not holds(held):
        if held >= MOST_TIMES_BOUND * bound:
            return held
        broke, held = held, min(math.ceil(1.5 * held), MOST_TIMES_BOUND * bound)
    while held - broke > 1:
        middle = (broke + held) // 2
        broke, held = (broke, middle) if holds(middle) else (middle, held)
    return held


BASELINES: Mapping[str, Baseline] = {
    module.BASELINE.name: module.BASELINE
    for module in (
        random_places,
        round_robin,
        ffd_load,
        lpt_load,
        max_backbone,
        latency,
        dlora_proactive,
        dynamo_hrw,
        aibrix_binpack,
        production_stack,
    )
}
"""Name -> baseline."""

METHODS: Mapping[str, Method] = {
    "greedy": greedy,
    "greedy-paper": greedy_paper,
    **{name: baseline(method) for name, method in BASELINES.items()},
}
"""Name -> method."""


def check_method(name: str) -> None:
    """Refuses a name that is no method's.

    Raises:
        InputError: With the nearest name.
    """
    if name not in METHODS:
        raise InputError("pack", "method", name, did_you_mean(name, METHODS))


def can_take_more(name: str) -> bool:
    """Whether a method is one that is told how many GPUs to use."""
    return name in BASELINES and BASELINES[name].n_gpus is None
