"""A plan by prediction alone: in milliseconds, and unproven, which it says of itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lorapack.packer.margins import most_traffic, next_rung
from lorapack.packer.predicted import PredictedJudge, is_wide
from lorapack.packer.quick_fill import MOST_LEVELLED
from lorapack.packer.writing import bounds_of, names_of, plan_with, planned_gpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.plan import Plan, PlannedGpu
    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings
    from lorapack.packer.verify import Judges
    from lorapack.predictor.targets import Prediction

FIGURES = (
    "served_fraction",
    "served_fraction_low",
    "served_fraction_high",
    "ttft_p99_ms",
    "ttft_p99_ms_low",
    "ttft_p99_ms_high",
    "throughput_tps",
    "itl_mean_ms",
    "slo_margin",
    "starved_probability",
)
"""What a plan keeps of a prediction."""

MOST_TOLD = 100
"""GPUs that are said to be full for a bound."""

LAST_ITEM = 0.02
"""Traffic that a GPU could still take when it was full for the next item."""


def write_predicted(
    problem: Problem,
    settings: Settings,
    gpus: Sequence[GpuPlacement],
    judges: Judges,
    notes: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a placement that no twin has seen.

    Args:
        problem: What was asked.
        settings: How it was packed.
        gpus: The placement.
        judges: Who predict.
        notes: What else was found.
    """
    judge = judges.level
    assert isinstance(judge, PredictedJudge), "a predicted plan is written by who predicted it"
    told = judge.predictions([gpu.trial() for gpu in gpus])
    # Where a rounded bound says little else, a tenth of a second is saved.
    many = len(gpus) > MOST_LEVELLED
    breaks_at = _breaks_at(gpus, judges, settings)
    bounds = bounds_of(problem, gpus, breaks_at, judges, improve=many, thorough=False)
    planned = tuple(
        _planned(problem, name, gpu, said, judge)
        for name, gpu, said in zip(names_of(gpus), gpus, told, strict=True)
    )
    return plan_with(
        problem,
        settings,
        gpus,
        planned,
        bounds,
        verified=False,
        exempt=_exempt(problem, planned),
        notes={
            "evidence": "predicted",
            "out_of_range": [gpu.gpu for gpu in planned if gpu.predicted["out_of_range"]],
            "wide_interval": [gpu.gpu for gpu in planned if gpu.predicted["wide_interval"]],
            **(notes or {}),
        },
    )


def _breaks_at(
    gpus: Sequence[GpuPlacement], judges: Judges, settings: Settings
) -> list[float | None]:
    """At which multiple of the planned traffic each GPU is predicted to break; None: far away.

    Many GPUs are left as they were filled, all but the last to just below that; of very many, some
    stand for those beside them.
    """
    if len(gpus) > MOST_LEVELLED:
        step, full = math.ceil(len(gpus) / MOST_TOLD), 1.0 + settings.seed_margin + LAST_ITEM
        return [None if i % step or i == len(gpus) - 1 else full for i in range(len(gpus))]
    return [next_rung(rung) for rung in most_traffic(gpus, judges)]


def _planned(
    problem: Problem, name: str, gpu: GpuPlacement, said: Prediction, judge: PredictedJudge
) -> PlannedGpu:
    return planned_gpu(
        problem,
        name,
        gpu,
        judge.memory(gpu.kind.profile, gpu.max_loras, gpu.max_lora_rank),
        predicted={
            "evidence": "predicted",
            **{figure: getattr(said, figure) for figure in FIGURES},
            "out_of_range": bool(said.out_of_range),
            "wide_interval": is_wide(said, judge.slo),
        },
        twin={},
        seeds=(),
        margin=0.0,
        failing_probability=None,
    )


def _exempt(problem: Problem, gpus: Sequence[PlannedGpu]) -> list[dict[str, Any]]:
    """Each exempt client once; its own p99 only the twin would know."""
    places: dict[str, list[str]] = {}
    for gpu in gpus:
        for row in gpu.adapters if gpu.exempt else ():
            places.setdefault(row.adapter, []).append(gpu.gpu)
    variations = {adapter.adapter: adapter.cv for adapter in problem.fleet}
    return [
        {
            "adapter": name,
            "cv": variations[name],
            "ttft_p99_ms": None,
            "gpus": places[name],
            "reason": f"predicted: its own clumps break slo {problem.slo.name} alone on a GPU",
        }
        for name in sorted(places)
    ]
