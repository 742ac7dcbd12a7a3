"""`lp.pack`: a fleet in, a verified plan out.

The walk: `problem` (headroom, order) -> `split` (too hot, too clumped) -> a method places items ->
`verify` (an hour, fresh seeds, repairs) -> `plan`. Methods decide places and slots only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorapack.errors import Infeasible, InputError, did_you_mean
from lorapack.packer.bound import true_bound
from lorapack.packer.greedy import SEED_MARGIN, Greedy
from lorapack.packer.methods import METHODS, check_method
from lorapack.packer.plan import ENGINE_KEYS, Plan, PlannedAdapter, PlannedGpu
from lorapack.packer.problem import GpuKind, Problem, base_model
from lorapack.packer.split import Split, split
from lorapack.packer.verify import (
    Judges,
    Proof,
    failing_probability,
    rate_margins,
    repair,
    verify,
)
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS, ServiceLevel, service_level
from lorapack.twin.trial import HOUR, Horizon, TwinJudge, scenario_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import Objective
    from lorapack.twin.trial import Verdict

STEERING = Horizon(duration_s=600.0, warmup_s=60.0)
"""The short window on which trials are made while placing."""

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
    settings.progress("looking at the fleet", 0)
    items = split(problem, steer.level, steer.batch, 1.0 + SEED_MARGIN)
    gpus = _place(problem, items, steer, settings)
    settings.progress("verifying with the twin", 0)
    if settings.method == "greedy":
        proof = repair(gpus, judges, steer, _placer(problem, steer))
    else:
        proof = verify(gpus, judges)
    _check_count(problem, proof)
    return _written(problem, settings, items, proof, steer, judges)


def judges_of(problem: Problem, settings: Settings) -> tuple[Judges, Judges]:
    """The quick judges that steer and the thorough ones that verify, on seeds apart."""
    batch = replace(SERVICE_LEVELS["batch"], min_served=problem.slo.min_served)
    bursty = any(adapter.cv > BURSTY_CV for adapter in problem.fleet)
    horizon = HOUR if bursty else STEERING
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


def _placer(problem: Problem, steer: Judges) -> Callable[[list[Item], bool], list[GpuPlacement]]:
    """Puts what a repair left homeless on GPUs of its own."""

    def place(items: list[Item], exempt: bool) -> list[GpuPlacement]:
        evaluator = steer.batch if exempt else steer.level
        slo = steer.batch_slo if exempt else steer.slo
        gpus: list[GpuPlacement] = []
        for kinds, group in _by_kinds(problem, items):
            gpus += Greedy(kinds, evaluator, slo, exempt=exempt).place(group)
        return gpus

    return place


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


def _written(
    problem: Problem,
    settings: Settings,
    items: Split,
    proof: Proof,
    steer: Judges,
    judges: Judges,
) -> Plan:
    margins = rate_margins(proof.gpus, steer)
    predicted = [steer.of(gpu).judge([gpu.trial()])[0] for gpu in proof.gpus]
    bound = true_bound(problem, steer.level)
    gpus = tuple(
        _planned(problem, settings, index, gpu, judges, proof.verdicts[index], expected, margin)
        for index, (gpu, expected, margin) in enumerate(
            zip(proof.gpus, predicted, margins, strict=True)
        )
    )
    return Plan(
        n_gpus=len(gpus),
        lower_bound=bound,
        bound={"true": bound},
        slo=problem.slo.name,
        service_level=problem.slo.to_dict(),
        rate_headroom=problem.rate_headroom,
        method=settings.method,
        objective=problem.objective,
        seed=problem.seed,
        verified=proof.verified,
        gpus=gpus,
        exempt=tuple(_exempt(problem, items, proof)),
        cost_per_hour=_total([gpu.kind.price_per_hour for gpu in proof.gpus]),
        kwh_per_hour=_total([_kilo(gpu.kind.watts) for gpu in proof.gpus]),
    )


def _planned(
    problem: Problem,
    settings: Settings,
    index: int,
    gpu: GpuPlacement,
    judges: Judges,
    verdict: Verdict,
    expected: Verdict,
    margin: float,
) -> PlannedGpu:
    seeds = tuple(problem.seed + 1 + i for i in range(settings.n_seeds))
    scenario = scenario_of(gpu.trial(), HOUR, seeds[0])
    memory = gpu.kind.profile.memory_plan(scenario.engine.max_loras, scenario.engine.max_lora_rank)
    return PlannedGpu(
        gpu=gpu.label or f"gpu-{index}",
        profile=gpu.kind.profile.name,
        base_model=base_model(gpu.kind.profile),
        engine={key: getattr(scenario.engine, key) for key in ENGINE_KEYS},
        adapters=tuple(_planned_adapter(problem, item) for item in gpu.items),
        exempt=gpu.exempt,
        memory={
            "kv_cache_tokens": memory.kv_cache_tokens,
            "parts_gib": dict(memory.parts_gib),
            "host_gib": memory.host_gib(load.rank for load in gpu.loads),
        },
        predicted=figures(expected),
        twin=figures(verdict),
        seeds=seeds,
        margin=margin,
        failing_probability=failing_probability(verdict, judges.slo_of(gpu)),
    )


def _planned_adapter(problem: Problem, item: Item) -> PlannedAdapter:
    load = item.load
    names = ("prompt_tokens", "output_tokens", "gaps", "model", "pin", "keep_apart")
    extra = {name: getattr(load, name) for name in names if getattr(load, name) is not None}
    if load.lengths != "profile":
        laws = ("lengths", "prompt_sigma", "output_sigma", "correlation")
        extra |= {name: getattr(load, name) for name in laws if getattr(load, name) is not None}
    return PlannedAdapter(
        adapter=item.name,
        share=item.share,
        rank=load.rank,
        rate_rps=problem.rate_stated_rps(item.name) * item.share,
        path=load.path,
        load={"cv": load.cv, **extra},
    )


def figures(verdict: Verdict) -> dict[str, Any]:
    """What a verdict says, as plans write it: the worst over seeds, means where said so."""
    runs = verdict.results
    n = max(len(runs), 1)
    return {
        "served_fraction": verdict.served_fraction,
        "ttft_p99_ms": verdict.ttft_p99_ms,
        "throughput_tps": verdict.throughput_tps,
        "tpot_mean_ms": sum(run.tpot_ms.mean for run in runs) / n,
        "mean_running": sum(run.mean_running for run in runs) / n,
        "kv_usage_max": max((run.kv_usage.max for run in runs), default=0.0),
        "preemptions": sum(run.preemptions for run in runs),
        "adapter_loads": sum(run.adapter_loads for run in runs),
        "by_seed": [
            {
                "served_fraction": run.served_fraction,
                "ttft_p99_ms": run.ttft_with_unserved_p99_ms,
            }
            for run in runs
        ],
        "violations": [str(violation) for violation in verdict.violations],
    }


def _exempt(problem: Problem, items: Split, proof: Proof) -> list[dict[str, Any]]:
    """Each exempt client once, with the p99 of the worst GPU that holds it."""
    found: dict[str, dict[str, Any]] = {}
    for index, (gpu, verdict) in enumerate(zip(proof.gpus, proof.verdicts, strict=True)):
        if not gpu.exempt:
            continue
        for item in gpu.items:
            entry = found.setdefault(
                item.name,
                {
                    "adapter": item.name,
                    "cv": item.load.cv,
                    "ttft_p99_ms": 0.0,
                    "gpus": [],
                    "reason": f"its own clumps break slo {problem.slo.name} alone on a GPU",
                },
            )
            entry["ttft_p99_ms"] = max(entry["ttft_p99_ms"], verdict.ttft_p99_ms)
            entry["gpus"].append(gpu.label or f"gpu-{index}")
    assert set(found) == {item.name for item in items.exempt}, "an exempt client has no GPU"
    return [found[name] for name in sorted(found)]


def _total(parts: Iterable[float | None]) -> float | None:
    """The sum, or None where a part is not known."""
    known = list(parts)
    return None if any(part is None for part in known) else float(sum(p for p in known if p))


def _kilo(watts: float | None) -> float | None:
    return None if watts is None else watts / 1000.0
