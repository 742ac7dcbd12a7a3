"""A plan by prediction alone: in milliseconds, and unproven, which it says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorapack.errors import InputError
from lorapack.packer.bound import true_bound
from lorapack.packer.placing import place
from lorapack.packer.predicted import PredictedJudge, is_wide
from lorapack.packer.verify import Judges
from lorapack.packer.writing import names_of, plan_with, planned_gpu
from lorapack.twin.service_level import SERVICE_LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.plan import Plan, PlannedGpu
    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings
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


def predicted_placement(
    problem: Problem, settings: Settings
) -> tuple[list[GpuPlacement], PredictedJudge]:
    """Places by prediction.

    Returns:
        The GPUs, and who judged the ordinary ones.

    Raises:
        InputError: A profile has no model, or what was asked for needs the twin.
        Infeasible: Something holds nowhere, even divided.
    """
    if problem.spare_gpus:
        mend = "leave it out, or let the twin verify: the loss of a GPU is always simulated"
        raise InputError("pack", "spare_gpus", problem.spare_gpus, f"without verification: {mend}")
    batch = replace(SERVICE_LEVELS["batch"], min_served=problem.slo.min_served)
    level, relaxed = (
        PredictedJudge(slo, settings.predictors, problem.host_memory_gib)
        for slo in (problem.slo, batch)
    )
    for kind in problem.pool:
        level.model(kind.profile)
    judges = Judges(level, relaxed, problem.slo, batch)
    return place(problem, judges, settings), level


def write_predicted(
    problem: Problem, settings: Settings, gpus: Sequence[GpuPlacement], judge: PredictedJudge
) -> Plan:
    """The plan of a placement that no twin has seen.

    Args:
        problem: What was asked.
        settings: How it was packed.
        gpus: The placement.
        judge: Who predicts.
    """
    told = judge.predictions([gpu.trial() for gpu in gpus])
    planned = tuple(
        _planned(problem, name, gpu, said, judge)
        for name, gpu, said in zip(names_of(gpus), gpus, told, strict=True)
    )
    return plan_with(
        problem,
        settings,
        gpus,
        planned,
        {"true": true_bound(problem, judge)},
        verified=False,
        exempt=_exempt(problem, planned),
        notes={
            "evidence": "predicted",
            "out_of_range": [gpu.gpu for gpu in planned if gpu.predicted["out_of_range"]],
            "wide_interval": [gpu.gpu for gpu in planned if gpu.predicted["wide_interval"]],
        },
    )


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
