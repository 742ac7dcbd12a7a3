"""One GPU of the plan simulated once more, with its steps kept and gathered into short spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lorapack.fleet.adapter import COLUMN, Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.profile.profile import Profile
from lorapack.twin.run import simulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorapack.packer.plan import Plan, PlannedGpu
    from lorapack.twin.result import Result

SPANS = 240
"""Spans a timeline is gathered into: about one every three pixels."""


@dataclass(frozen=True)
class Timeline:
    """What one GPU does over time.

    Attributes:
        gpu: The GPU.
        duration_s: Length of the run, seconds.
        seed: Its seed.
        spans: One row a span: `time_s`, `running`, `waiting`, `kv_usage` (means over the span's
            busy time), `adapter_loads`, `preemptions` (sums).
        result: The whole run's figures.
    """

    gpu: PlannedGpu
    duration_s: float
    seed: int
    spans: list[dict[str, float]]
    result: Result


def busiest(plan: Plan) -> PlannedGpu:
    """The GPU with the least margin, then the fullest KV cache: the one worth watching.

    Args:
        plan: The plan.

    Returns:
        One of its GPUs.
    """
    return min(plan.gpus, key=lambda gpu: (gpu.margin, -(gpu.twin.get("kv_usage_max") or 0.0)))


def simulated(plan: Plan, gpu: PlannedGpu, duration_s: float, seed: int = 0) -> Timeline:
    """Runs the twin on one GPU at the rates that were planned for (headroom included).

    Args:
        plan: The plan.
        gpu: One of its GPUs.
        duration_s: How long, seconds.
        seed: Seed of everything drawn.

    Returns:
        The run, gathered into spans.
    """
    factor = 1.0 + plan.rate_headroom
    fleet = Fleet(
        [
            Adapter(
                adapter=row.adapter,
                rank=row.rank,
                rate_rps=row.rate_rps * factor,
                **_known(row.load),
            )
            for row in gpu.adapters
        ]
    )
    result = simulate(
        Profile.load(gpu.profile),
        fleet,
        max_loras=gpu.engine["max_loras"],
        max_lora_rank=gpu.engine["max_lora_rank"] if gpu.engine["max_loras"] else None,
        max_cpu_loras=gpu.engine["max_cpu_loras"] if gpu.engine["max_loras"] else None,
        max_model_len=gpu.engine["max_model_len"],
        max_num_seqs=gpu.engine["max_num_seqs"],
        max_num_batched_tokens=gpu.engine["max_num_batched_tokens"],
        gpu_memory_utilization=gpu.engine["gpu_memory_utilization"],
        block_size=gpu.engine["block_size"],
        duration_s=duration_s,
        seed=seed,
        warm=True,
        records=True,
    )
    return Timeline(gpu, duration_s, seed, spans_of(result, duration_s), result)


def spans_of(result: Result, duration_s: float, n_spans: int = SPANS) -> list[dict[str, float]]:
    """Gathers steps into spans of equal length.

    Args:
        result: A run with records.
        duration_s: Its length, seconds.
        n_spans: How many spans.

    Returns:
        One row a span; an idle span has zeros.
    """
    steps = result.steps
    assert steps is not None, "the run was made with records"
    start_s = steps["start_s"].to_numpy()
    weight_s = steps["duration_s"].to_numpy()
    span = np.clip((start_s / duration_s * n_spans).astype(int), 0, n_spans - 1)
    blocks = max(1, result.engine.usable_tokens // result.engine.block_size)

    def mean(column: str, unit: float = 1.0) -> NDArray[np.float64]:
        values = steps[column].to_numpy() / unit
        total = np.bincount(span, values * weight_s, n_spans)
        busy = np.bincount(span, weight_s, n_spans)
        return np.divide(total, busy, out=np.zeros(n_spans), where=busy > 0)

    def count(column: str) -> NDArray[np.float64]:
        return np.bincount(span, steps[column].to_numpy(), n_spans).astype(np.float64)

    columns = {
        "running": mean("running"),
        "waiting": mean("waiting"),
        "kv_usage": mean("used_blocks", blocks),
        "adapter_loads": count("adapter_loads"),
        "preemptions": count("preempted"),
    }
    return [
        {
            "time_s": round((index + 0.5) * duration_s / n_spans, 3),
            **{name: round(float(values[index]), 4) for name, values in columns.items()},
        }
        for index in range(n_spans)
    ]


def _known(load: Any) -> dict[str, Any]:  # noqa: ANN401 - columns of any kind
    """The fleet's columns among what a plan keeps of an adapter."""
    return {key: value for key, value in load.items() if key in COLUMN and value is not None}
