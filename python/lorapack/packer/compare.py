"""Every method side by side on one fleet, each checked by the twin as a plan is."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapack.errors import Infeasible
from lorapack.packer.methods import BASELINES
from lorapack.packer.placing import judges_of
from lorapack.packer.solve import prove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings, Slots
    from lorapack.packer.verify import Proof
    from lorapack.twin.result import Result

STARVED_BELOW = 0.9
"""A GPU that serves less of what it is offered is starved: the papers' rule."""

OWN = ("greedy", "greedy-paper")
"""Methods that choose slots themselves, so that there is but one way to run them."""


@dataclass(frozen=True)
class Compared:
    """What one method came to.

    Attributes:
        method: Its name.
        slots: `own`, or `ours`: chosen per GPU as `greedy` does.
        n_gpus: GPUs used; None where the method found no placement.
        verified: Whether all of them hold on every verifying seed.
        failing_gpus: GPUs that break the service level on some seed.
        starved_gpus: GPUs that serve less than 0.9 of what is offered on some seed.
        starved_adapters: Adapters that some GPU serves below 0.9 on some seed, of 8 requests or
            more.
        served_fraction: The least of all GPUs and seeds.
        ttft_p99_ms: The largest of all GPUs and seeds.
        cost_per_hour: Price of the GPUs; None where a price is not known.
        kwh_per_hour: Energy of the GPUs; None where a power is not known.
        wall_s: What it took.
        why: Why there is no placement; else None.
    """

    method: str
    slots: str
    n_gpus: int | None
    verified: bool
    failing_gpus: int = 0
    starved_gpus: int = 0
    starved_adapters: int = 0
    served_fraction: float = 0.0
    ttft_p99_ms: float | None = None
    cost_per_hour: float | None = None
    kwh_per_hour: float | None = None
    wall_s: float = 0.0
    why: str | None = None


def compare(
    problem: Problem,
    settings: Settings,
    methods: Iterable[str] | None = None,
    told: Callable[[Compared], None] = lambda _: None,
) -> list[Compared]:
    """Runs methods on a problem.

    Args:
        problem: With `n_gpus` set, methods that can be told a number use exactly that.
        settings: Seeds and threads; its method and slots are replaced.
        methods: Names; None: all.
        told: Told of each as it is done.

    Returns:
        One row a method and choice of slots.
    """
    rows = []
    for name in methods or (*OWN, *BASELINES):
        choices: tuple[Slots, ...] = ("own",) if name in OWN else ("own", "ours")
        for slots in choices:
            row = _run(problem, replace(settings, method=name, slots=slots))
            rows.append(row)
            told(row)
    return rows


def _run(problem: Problem, settings: Settings) -> Compared:
    started = time.perf_counter()
    steer, judges = judges_of(problem, settings)
    try:
        proof = prove(problem, settings, steer, judges)
    except Infeasible as error:
        wall_s = time.perf_counter() - started
        return Compared(settings.method, settings.slots, None, False, wall_s=wall_s, why=str(error))
    return _row(settings, proof, time.perf_counter() - started)


def _row(settings: Settings, proof: Proof, wall_s: float) -> Compared:
    runs = [run for verdict in proof.verdicts for run in verdict.results]
    prices = [gpu.kind.price_per_hour for gpu in proof.gpus]
    watts = [gpu.kind.watts for gpu in proof.gpus]
    known = [price for price in prices if price is not None]
    drawn = [draw for draw in watts if draw is not None]
    return Compared(
        method=settings.method,
        slots=settings.slots,
        n_gpus=len(proof.gpus),
        verified=proof.verified,
        failing_gpus=sum(not verdict.holds for verdict in proof.verdicts),
        starved_gpus=sum(v.served_fraction < STARVED_BELOW for v in proof.verdicts),
        starved_adapters=sum(
            len({name for run in v.results for name in _starved(run)}) for v in proof.verdicts
        ),
        served_fraction=min((run.served_fraction for run in runs), default=0.0),
        ttft_p99_ms=max((run.ttft_with_unserved_p99_ms for run in runs), default=None),
        cost_per_hour=sum(known) if len(known) == len(prices) else None,
        kwh_per_hour=sum(drawn) / 1000 if len(drawn) == len(watts) else None,
        wall_s=wall_s,
    )


def _starved(run: Result) -> list[str]:
    frame = run.per_adapter
    names: list[str] = frame.filter(frame["starved"])["adapter"].to_list()
    return names
