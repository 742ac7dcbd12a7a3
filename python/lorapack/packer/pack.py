"""`lp.pack`: a fleet in, a verified plan out.

The walk: `problem` (headroom, order) -> `split` (too hot, too clumped) -> a method places items ->
`verify` (an hour, fresh seeds, repairs) -> `plan`. Methods decide places and slots only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lorapack.errors import Infeasible, InputError, did_you_mean
from lorapack.packer.greedy import SEED_MARGIN, Greedy, HoldsNowhere
from lorapack.packer.local_search import close_gpus
from lorapack.packer.methods import METHODS, can_take_more, check_method
from lorapack.packer.problem import GpuKind, Problem
from lorapack.packer.split import CLUMPED_CV, Alone, Split, clump_size, split
from lorapack.packer.verify import Judges, Proof, join, repair, verify
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

MORE_TRIES = 6
"""Times a baseline that fails verification is tried with more GPUs."""

MORE_SHARE = 0.02
"""Share of its GPUs that it is given more each time, one at least."""

JOIN_TRIES = 4
"""GPUs on which a clumped client is tried before it is exempt."""

Slots = Literal["own", "ours"]
"""Whose choice of slots a baseline runs with."""

BURSTY_CV = 1.3
"""Fleets burstier than this on the whole are placed on the full hour: clumps come rarely."""

BURSTY_SEEDS = 2
"""Further seeds on which such fleets are placed."""

VERIFYING_SEEDS = 3
"""Fresh seeds on which every GPU is verified."""


@dataclass(frozen=True)
class Settings:
    """How to pack, as opposed to what: no answer may depend on `jobs` or on who listens.

    Attributes:
        method: Name of the method.
        slots: `own`: a baseline's own; `ours`: chosen per GPU as `greedy` chooses them.
        more_gpus: GPUs a baseline takes beyond the fewest that hold on the placing seed.
        n_seeds: Verifying seeds.
        jobs: Threads; None: all cores.
        progress: Told what is going on and how many of how many adapters are done.
    """

    method: str = "greedy"
    slots: Slots = "own"
    more_gpus: int = 0
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
    return solve(problem, Settings(method, n_seeds=n_seeds, jobs=jobs))


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
    proof = prove(problem, settings, steer, judges)
    _check_limits(problem, proof)
    return write_down(problem, settings, proof, steer, judges)


def prove(problem: Problem, settings: Settings, steer: Judges, judges: Judges) -> Proof:
    """Places, verifies, and repairs (`greedy`) or takes more GPUs (baselines told no number)."""
    gpus = place(problem, steer, settings)
    settings.progress("verifying with the twin", 0)
    if settings.method == "greedy":
        placer = Placer(problem, steer, judges)
        proof = repair(gpus, judges, steer, placer)
        closed = close_gpus(proof.gpus, steer, 1.0 + SEED_MARGIN / 3)
        if proof.verified and len(closed) == len(proof.gpus):
            return proof
        fewer = repair(closed, judges, steer, placer)
        better = fewer.verified and len(fewer.gpus) < len(proof.gpus)
        return fewer if better else proof
    proof = verify(gpus, judges)
    if problem.n_gpus is not None or not can_take_more(settings.method):
        return proof
    for tries in range(1, MORE_TRIES + 1):
        if proof.verified:
            break
        more = math.ceil(tries * max(1.0, MORE_SHARE * len(gpus)))
        proof = verify(place(problem, steer, replace(settings, more_gpus=more)), judges)
    return proof


def judges_of(problem: Problem, settings: Settings) -> tuple[Judges, Judges]:
    """The quick judges that steer and the thorough ones that verify, on seeds apart."""
    batch = replace(SERVICE_LEVELS["batch"], min_served=problem.slo.min_served)
    bursty = is_bursty(problem)
    horizon = HOUR if bursty else QUARTER
    first = problem.seed + 1
    verifying = tuple(range(first, first + settings.n_seeds))
    later = verifying[-1] + 1
    steering = (problem.seed, *range(later, later + BURSTY_SEEDS)) if bursty else (problem.seed,)

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


def is_bursty(problem: Problem) -> bool:
    """Whether clumps matter to the fleet as a whole: its variation, weighted by traffic."""
    traffic = sum(adapter.rate_rps for adapter in problem.fleet)
    varied = sum(adapter.rate_rps * adapter.cv**2 for adapter in problem.fleet)
    return varied > BURSTY_CV**2 * traffic


def place(problem: Problem, steer: Judges, settings: Settings) -> list[GpuPlacement]:
    """Where everything goes; what is found not to hold alone is divided and placed anew.

    Raises:
        Infeasible: Something holds nowhere, even divided.
    """
    known: frozenset[str] = frozenset()
    while True:
        items = split(problem, steer.level, 1.0 + SEED_MARGIN, known)
        try:
            return _place(problem, items, steer, settings)
        except HoldsNowhere as found:
            if found.item.name in known:
                raise
            known |= {found.item.name}


def _place(problem: Problem, items: Split, steer: Judges, settings: Settings) -> list[GpuPlacement]:
    """Items by the method, base model by base model; then the clumped, where they may be."""
    gpus: list[GpuPlacement] = []
    method = METHODS[settings.method]
    for kinds, group in _by_kinds(problem, items.items):
        gpus += method(problem, kinds, group, steer, settings)
    left: list[Item] = []
    for item in items.clumped:
        if settings.method != "greedy" or not _joins(item, gpus, steer):
            left.append(item)
    return gpus + Placer(problem, steer, steer).exempt(left, 1)


def _joins(item: Item, gpus: list[GpuPlacement], steer: Judges) -> bool:
    """Puts a clumped item on one of the GPUs with the least traffic, if that still holds."""
    order = sorted(
        range(len(gpus)), key=lambda i: (sum(load.rate_rps for load in gpus[i].loads), i)
    )
    for index in order[:JOIN_TRIES]:
        joined = join(gpus[index], item, steer)
        if joined is not None:
            gpus[index] = joined
            return True
    return False


@dataclass(frozen=True)
class Placer:
    """Puts what a repair took off its GPU on GPUs of its own."""

    problem: Problem
    steer: Judges
    judges: Judges

    def place(self, items: list[Item]) -> list[GpuPlacement]:
        """Ordinary items, by greedy."""
        gpus: list[GpuPlacement] = []
        for kinds, group in _by_kinds(self.problem, items):
            gpus += Greedy(kinds, self.steer.level, self.steer.slo).place(group)
        return gpus

    def exempt(self, items: list[Item], at_least: int) -> list[GpuPlacement]:
        """Exempt clients, evenly over the fewest GPUs that hold under `batch`."""
        gpus: list[GpuPlacement] = []
        for kinds, group in _by_kinds(self.problem, items):
            greedy = Greedy(kinds, self.judges.batch, self.judges.batch_slo, exempt=True)
            gpus += greedy.over(group, at_least)
        return gpus

    def clumped(self, gpu: GpuPlacement) -> list[Item]:
        """The worst of a GPU's items that break the level alone on the verifying seeds."""
        alone = Alone(self.problem, self.judges.level)
        found = [
            item for item in gpu.items if item.load.cv > CLUMPED_CV and not alone.holds(item.load)
        ]
        return sorted(found, key=clump_size)[-1:]


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


def _check_limits(problem: Problem, proof: Proof) -> None:
    if problem.n_gpus is not None and len(proof.gpus) > problem.n_gpus:
        raise Infeasible(
            f"{problem.n_gpus} GPUs do not suffice for slo {problem.slo.name}",
            f"{len(proof.gpus)} GPUs do",
        )
    exempt = [item.name for gpu in proof.gpus if gpu.exempt for item in gpu.items]
    if exempt and problem.strict:
        raise Infeasible(
            f"{len(set(exempt))} clients break slo {problem.slo.name} by their own clumps, even "
            f"alone on a GPU: {', '.join(sorted(set(exempt))[:5])}",
            "leave out --strict to plan them as exempt, or choose --slo batch",
        )
