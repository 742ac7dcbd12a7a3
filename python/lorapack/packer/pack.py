"""`lp.pack`: a fleet in, a verified plan out.

The walk: `problem` (headroom, order) -> `split` (too hot, too clumped) -> a method places items ->
`verify` (an hour, fresh seeds, repairs) -> `plan`. Methods decide places and slots only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorapack.errors import Infeasible, InputError, did_you_mean
from lorapack.packer.greedy import SEED_MARGIN, Greedy, HoldsNowhere
from lorapack.packer.methods import METHODS, check_method
from lorapack.packer.problem import GpuKind, Problem
from lorapack.packer.split import Split, split
from lorapack.packer.verify import (
    Judges,
    Proof,
    repair,
    verify,
)
from lorapack.packer.writing import write_down
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS, ServiceLevel, service_level
from lorapack.twin.trial import HOUR, QUARTER, Horizon, TwinJudge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.plan import Plan
    from lorapack.packer.problem import Objective

BURSTY_CV = 1.5
"""Fleets with a client burstier than this are placed on the full hour: clumps come rarely."""

VERIFYING_SEEDS = 3
"""Fresh seeds on which every GPU is verified."""


@dataclass(frozen=True)
class Settings:
    """How to pack, as opposed to what: no answer may depend on `jobs` or on who listens.

    Attributes:
        method: Name of the method.
        n_seeds: Verifying seeds.
        jobs: Threads; None: all cores.
        progress: Told what is going on and how many of how many adapters are done.
    """

    method: str = "greedy"
    n_seeds: int = VERIFYING_SEEDS
    jobs: int | None = None
    progress: Callable[[str, int], None] = lambda _label, _done: None


def pack(
    profile: Profile | Sequence[Profile],
    fleet: Fleet | Iterable[Adapter],
    *,
    slo: str | ServiceLevel = "interactive",
    rate_headroom: float = 0.1,
    gpus: int | None = None,
    objective: Objective = "gpus",
    method: str = "greedy",
    strict: bool = False,
    seed: int = 0,
    n_seeds: int = VERIFYING_SEEDS,
    jobs: int | None = None,
    engine: Mapping[str, Any] | None = None,
) -> Plan:
    """Places a fleet on the fewest GPUs and proves the plan with the twin.

    Args:
        profile: The GPU to use, or a pool of them.
        fleet: The adapters, at the rates they are stated to have.
        slo: A service level or its name.
        rate_headroom: Share by which rates are raised throughout.
        gpus: GPUs to use at most.
        objective: `gpus`, `latency` (on `gpus` of them) or `cost`.
        method: Who places: `greedy`, or one of the baselines.
        strict: Refuse a client whose own clumps break the level, in place of exempting it.
        seed: Of everything random; the same inputs and seed give the same plan.
        n_seeds: Fresh seeds on which each GPU is verified.
        jobs: Threads; None: all cores.
        engine: Engine settings in place of the profile's, of `ENGINE_SETTINGS`.

    Returns:
        The plan, its GPUs in packing order.

    Raises:
        InputError: An argument cannot be used.
        Infeasible: No plan keeps the level within the limits.

    Example:
        >>> import lorapack as lp
        >>> fleet = [lp.Adapter("summaries", rank=16, rate_rps=0.5)]
        >>> plan = lp.pack(lp.Profile.load(), fleet)
        >>> plan.n_gpus, plan.verified
        (1, True)
    """
    profiles = [profile] if isinstance(profile, Profile) else list(profile)
    problem = Problem.build(
        fleet,
        [kind_of(with_engine(entry, engine or {})) for entry in profiles],
        service_level(slo) if isinstance(slo, str) else slo,
        rate_headroom=rate_headroom,
        objective=objective,
        n_gpus=gpus,
        strict=strict,
        seed=seed,
    )
    return solve(problem, Settings(method, n_seeds, jobs))


ENGINE_SETTINGS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "block_size",
)
"""Engine settings that may be given in place of a profile's."""


def with_engine(profile: Profile, settings: Mapping[str, Any]) -> Profile:
    """The profile with engine settings of one's own, by the engine's names.

    Raises:
        InputError: There is no such setting.
    """
    for name in settings:
        if name not in ENGINE_SETTINGS:
            raise InputError("pack", "engine", name, did_you_mean(name, ENGINE_SETTINGS))
    if not settings:
        return profile
    return replace(profile, engine=replace(profile.engine, **settings))


def kind_of(profile: Profile) -> GpuKind:
    """A profile as a kind of GPU, at the profile's own price and power."""
    watts = profile.price.power_watts or profile.gpu.power_watts
    price = profile.price.usd_per_hour or profile.gpu.usd_per_hour
    return GpuKind(profile, price_per_hour=price, watts=watts)


def solve(problem: Problem, settings: Settings) -> Plan:
    """Packs, verifies, and writes down what came of it.

    Raises:
        Infeasible: No plan keeps the level within the limits.
    """
    check_method(settings.method)
    steer, judges = judges_of(problem, settings)
    items, gpus = place(problem, steer, settings)
    settings.progress("verifying with the twin", 0)
    if settings.method == "greedy":
        proof = repair(gpus, judges, steer, placer(problem, steer))
    else:
        proof = verify(gpus, judges)
    _check_count(problem, proof)
    return write_down(problem, settings, items, proof, steer, judges)


def judges_of(problem: Problem, settings: Settings) -> tuple[Judges, Judges]:
    """The quick judges that steer and the thorough ones that verify, on seeds apart."""
    batch = replace(SERVICE_LEVELS["batch"], min_served=problem.slo.min_served)
    bursty = any(adapter.cv > BURSTY_CV for adapter in problem.fleet)
    horizon = HOUR if bursty else QUARTER
    steering = (problem.seed,)
    verifying = tuple(problem.seed + 1 + i for i in range(settings.n_seeds))

    def judge(slo: ServiceLevel, horizon: Horizon, seeds: tuple[int, ...]) -> TwinJudge:
        return TwinJudge(slo, horizon, seeds, settings.jobs)

    return (
        Judges(
            judge(problem.slo, horizon, steering),
            judge(batch, HOUR, steering),
            problem.slo,
            batch,
        ),
        Judges(
            judge(problem.slo, HOUR, verifying),
            judge(batch, HOUR, verifying),
            problem.slo,
            batch,
        ),
    )


def place(problem: Problem, steer: Judges, settings: Settings) -> tuple[Split, list[GpuPlacement]]:
    """The fleet as items and where they go; what was found not to hold alone is divided.

    Raises:
        Infeasible: Something holds nowhere, even divided.
    """
    known: frozenset[str] = frozenset()
    while True:
        items = split(problem, steer.level, steer.batch, 1.0 + SEED_MARGIN, known)
        try:
            return items, _place(problem, items, steer, settings)
        except HoldsNowhere as found:
            if found.item.name in known:
                raise
            known |= {found.item.name}


def _place(problem: Problem, items: Split, steer: Judges, settings: Settings) -> list[GpuPlacement]:
    """Ordinary items by the method, exempt ones by greedy under `batch`, base model by model."""
    gpus: list[GpuPlacement] = []
    method = METHODS[settings.method]
    for kinds, group in _by_kinds(problem, items.items):
        gpus += method(problem, kinds, group, steer, settings)
    for kinds, group in _by_kinds(problem, items.exempt):
        greedy = Greedy(kinds, steer.batch, steer.batch_slo, exempt=True)
        gpus += greedy.place(group)
    return gpus


def placer(problem: Problem, steer: Judges) -> Callable[[list[Item], bool], list[GpuPlacement]]:
    """A function that puts what a repair left homeless on GPUs of its own."""

    def place_more(items: list[Item], exempt: bool) -> list[GpuPlacement]:
        evaluator = steer.batch if exempt else steer.level
        slo = steer.batch_slo if exempt else steer.slo
        gpus: list[GpuPlacement] = []
        for kinds, group in _by_kinds(problem, items):
            gpus += Greedy(kinds, evaluator, slo, exempt=exempt).place(group)
        return gpus

    return place_more


def _by_kinds(
    problem: Problem, items: Sequence[Item]
) -> list[tuple[tuple[GpuKind, ...], list[Item]]]:
    """Items grouped by the kinds of GPU that serve their base model."""
    groups: dict[tuple[int, ...], tuple[tuple[GpuKind, ...], list[Item]]] = {}
    for item in items:
        kinds = problem.kinds_for(item.load)
        key = tuple(id(kind) for kind in kinds)
        groups.setdefault(key, (kinds, []))[1].append(item)
    return list(groups.values())


def _check_count(problem: Problem, proof: Proof) -> None:
    if problem.n_gpus is not None and len(proof.gpus) > problem.n_gpus:
        raise Infeasible(
            f"{problem.n_gpus} GPUs do not suffice for slo {problem.slo.name}",
            f"{len(proof.gpus)} GPUs do",
        )
