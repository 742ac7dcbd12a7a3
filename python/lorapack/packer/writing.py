"""From a proven placement to a plan: the figures, the margins, the bound, the money."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from lorapack.packer.bound import true_bound
from lorapack.packer.estimate import estimated_bound
from lorapack.packer.margins import LADDER, WITHIN, breaks_at, most_traffic, worse_on_all
from lorapack.packer.plan import ENGINE_KEYS, Plan, PlannedAdapter, PlannedGpu
from lorapack.packer.problem import base_model
from lorapack.packer.verify import failing_probability, verify
from lorapack.twin.run import run
from lorapack.twin.trial import HOUR, scenario_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings
    from lorapack.packer.verify import Judges, Proof
    from lorapack.profile.memory import MemoryPlan
    from lorapack.twin.scenario import Scenario
    from lorapack.twin.trial import Verdict


def write_down(
    problem: Problem,
    settings: Settings,
    proof: Proof,
    steer: Judges,
    judges: Judges,
    notes: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a proven placement.

    Args:
        problem: What was asked.
        settings: How it was packed.
        proof: The placement and its verdicts.
        steer: The quick judges, for margins and expectations.
        judges: The verifying ones.
        notes: What else was found.
    """
    names = names_of(proof.gpus)
    hour = steer.of_hour
    rungs = most_traffic(proof.gpus, hour, within=WITHIN)
    margins = [round(max(LADDER[max(rung, 0)] - 1.0, 0.0), 2) for rung in rungs]
    predicted = verify(proof.gpus, steer).verdicts
    broke = [breaks_at(gpu, hour) for gpu in proof.gpus]
    on_all_seeds = [
        None if at is None else at / worse_on_all(gpu, problem.slo)
        for gpu, at in zip(proof.gpus, broke, strict=True)
    ]
    bounds = bounds_of(problem, proof.gpus, on_all_seeds, steer)
    gpus = tuple(
        _planned(problem, settings, name, gpu, judges, verdict, expected, margin)
        for name, gpu, verdict, expected, margin in zip(
            names, proof.gpus, proof.verdicts, predicted, margins, strict=True
        )
    )
    return plan_with(
        problem,
        settings,
        proof.gpus,
        gpus,
        bounds,
        verified=proof.verified,
        exempt=_exempt(problem, proof),
        notes=notes or {},
    )


def plan_with(
    problem: Problem,
    settings: Settings,
    placed: Sequence[GpuPlacement],
    gpus: Sequence[PlannedGpu],
    bounds: Mapping[str, float],
    *,
    verified: bool,
    exempt: Iterable[dict[str, Any]],
    notes: Mapping[str, Any],
) -> Plan:
    """The plan of GPUs that are written down already.

    Args:
        problem: What was asked.
        settings: How it was packed.
        placed: The placement.
        gpus: The same GPUs, as plans write them.
        bounds: Lower bounds on their number by kind, `true` among them.
        verified: Whether the twin saw every GPU keep its service level.
        exempt: The exempt clients.
        notes: What else was found.
    """
    return Plan(
        n_gpus=len(gpus),
        lower_bound=max(bounds.values()),
        bound=bounds,
        slo=problem.slo.name,
        service_level=problem.slo.to_dict(),
        rate_headroom=problem.rate_headroom,
        method=settings.method,
        objective=problem.objective,
        seed=problem.seed,
        verified=verified,
        gpus=tuple(gpus),
        exempt=tuple(exempt),
        cost_per_hour=_total([gpu.kind.price_per_hour for gpu in placed]),
        kwh_per_hour=_total([_kilo(gpu.kind.watts) for gpu in placed]),
        notes=notes,
    )


def bounds_of(
    problem: Problem,
    gpus: Sequence[GpuPlacement],
    breaks_at: Sequence[float | None],
    judges: Judges,
    *,
    improve: bool = True,
    thorough: bool = True,
) -> dict[str, float]:
    """The true bound, and the dual one on the predicted surface; see `estimated_bound`."""
    estimate = estimated_bound(problem, gpus, breaks_at, judges, improve=improve, thorough=thorough)
    return {"true": true_bound(problem, judges.level), "estimate": estimate}


def names_of(gpus: Sequence[GpuPlacement]) -> list[str]:
    """A name each: the engine's that runs, the pins', or the next free number."""
    given = [gpu.running.gpu if gpu.running is not None else gpu.label for gpu in gpus]
    numbers = (name for i in count() if (name := f"gpu-{i}") not in given)
    return [name if name is not None else next(numbers) for name in given]


def _planned(
    problem: Problem,
    settings: Settings,
    name: str,
    gpu: GpuPlacement,
    judges: Judges,
    verdict: Verdict,
    expected: Verdict,
    margin: float,
) -> PlannedGpu:
    seeds = tuple(problem.seed + 1 + i for i in range(settings.n_seeds))
    memory = gpu.kind.profile.memory_plan(gpu.max_loras, gpu.max_lora_rank)
    return planned_gpu(
        problem,
        name,
        gpu,
        memory,
        predicted=figures(expected),
        twin=figures(verdict),
        seeds=seeds,
        margin=margin,
        failing_probability=failing_probability(verdict, judges.slo_of(gpu)),
    )


def planned_gpu(
    problem: Problem,
    name: str,
    gpu: GpuPlacement,
    memory: MemoryPlan,
    *,
    predicted: Mapping[str, Any],
    twin: Mapping[str, Any],
    seeds: tuple[int, ...],
    margin: float,
    failing_probability: float | None,
) -> PlannedGpu:
    """A GPU as plans write it, with the settings that the twin would simulate.

    Args:
        problem: What was asked.
        name: Its name in the plan.
        gpu: What was placed.
        memory: What the memory rule says of it.
        predicted: As in `PlannedGpu`, like the rest.
        twin: What the twin said.
        seeds: On which it was simulated.
        margin: Traffic above the planned that it was seen to hold.
        failing_probability: That another seed breaks the level.
    """
    profile = gpu.kind.profile
    engine = _scenario_of_one(gpu, problem.seed).engine
    return PlannedGpu(
        gpu=name,
        profile=profile.name,
        base_model=base_model(profile),
        engine={key: getattr(engine, key) for key in ENGINE_KEYS},
        adapters=tuple(_planned_adapter(problem, item) for item in gpu.items),
        exempt=gpu.exempt,
        memory={
            "kv_cache_tokens": memory.kv_cache_tokens,
            "parts_gib": dict(memory.parts_gib),
            "host_gib": memory.host_gib(load.rank for load in gpu.loads),
        },
        predicted=predicted,
        twin=twin,
        seeds=seeds,
        margin=margin,
        failing_probability=failing_probability,
    )


def _scenario_of_one(gpu: GpuPlacement, seed: int) -> Scenario:
    """With the settings of the whole GPU, on which no other adapter has a say."""
    trial = gpu.trial()
    largest = max(trial.adapters, key=lambda load: load.rank)
    alone = replace(trial, adapters=(largest,), max_cpu_loras=trial.cpu_loras)
    return scenario_of(alone, HOUR, seed)


_EXTRA = ("prompt_tokens", "output_tokens", "gaps", "model", "pin", "keep_apart")
_LAWS = ("lengths", "prompt_sigma", "output_sigma", "correlation")
_extra_of, _laws_of = attrgetter(*_EXTRA), attrgetter(*_LAWS)


def _planned_adapter(problem: Problem, item: Item) -> PlannedAdapter:
    """An item as plans write it, its rate as stated."""
    load = item.load
    values = zip(_EXTRA, _extra_of(load), strict=True)
    extra = {name: value for name, value in values if value is not None}
    if load.lengths != "profile":
        laws = zip(_LAWS, _laws_of(load), strict=True)
        extra |= {name: value for name, value in laws if value is not None}
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


def _exempt(problem: Problem, proof: Proof) -> list[dict[str, Any]]:
    """Each exempt client once, with its own p99: the worst of the GPUs that hold it."""
    found: dict[str, dict[str, Any]] = {}
    for name, gpu in zip(names_of(proof.gpus), proof.gpus, strict=True):
        if not gpu.exempt:
            continue
        waits = _own_p99_ms(gpu, problem.seed + 1)
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
            entry["ttft_p99_ms"] = max(entry["ttft_p99_ms"], waits.get(item.name, 0.0))
            entry["gpus"].append(name)
    return [found[name] for name in sorted(found)]


def _own_p99_ms(gpu: GpuPlacement, seed: int) -> dict[str, float]:
    """Each adapter's 99th percentile of TTFT over an hour; one without a token is endless."""
    import polars as pl

    requests = run(replace(scenario_of(gpu.trial(), HOUR, seed), records=True)).requests
    assert requests is not None, "records were asked for"
    wait = pl.col("ttft_ms").fill_nan(None).fill_null(float("inf"))
    waits = requests.group_by("adapter").agg(wait.quantile(0.99, "higher").alias("p99"))
    return dict(zip(waits["adapter"].to_list(), waits["p99"].to_list(), strict=True))


def _total(parts: Iterable[float | None]) -> float | None:
    """The sum, or None where a part is not known."""
    known = list(parts)
    return None if any(part is None for part in known) else float(sum(p for p in known if p))


def _kilo(watts: float | None) -> float | None:
    return None if watts is None else watts / 1000.0
