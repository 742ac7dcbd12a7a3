"""The fit of the memory rule's constants to measured KV capacities.

What is fitted is one figure: the memory that is neither weights, slots, logits nor KV. Everything
else the rule replays from the model's shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from lorapack.profile.memory import Memory, MemoryCase, fit_other_gib
from lorapack.profile.memory import plan as plan_memory
from lorapack.profile.profile import Profile


@dataclass(frozen=True)
class MemoryFit:
    """What the fit came to.

    Attributes:
        memory: The constants.
        mean_error_percent: Mean absolute error of KV tokens over the engines that started.
        largest_error_percent: Largest of those errors.
        starts_right: Share of settings whose start or refusal is foretold.
        refusals_right: Share of the refused settings of known kind whose kind is foretold.
        n: Settings measured.
    """

    memory: Memory
    mean_error_percent: float
    largest_error_percent: float
    starts_right: float
    refusals_right: float
    n: int


def fit_memory(path: Path, model: str, base: Profile) -> MemoryFit:
    """Fits one model's rows of ``kv_cache_tokens.csv``.

    Args:
        path: The file.
        model: The model's name in it.
        base: A profile with the model's shape, the GPU and the engine's settings.
    """
    rows = pl.read_csv(path).filter(pl.col("model") == model)
    graphs = rows["graph_capture_gib"].drop_nulls().median()
    known = Memory(0.0, float(graphs) if graphs is not None else 0.0)  # type: ignore[arg-type]
    cases = [_case(row, replace(base, memory=known)) for row in rows.to_dicts()]
    tokens = rows["kv_cache_tokens"].to_list()
    measured = [(case, int(kv)) for case, kv in zip(cases, tokens, strict=True) if kv is not None]
    memory = replace(known, other_gib=float(f"{fit_other_gib(measured):.4g}"))
    plans = [plan_memory(replace(case, memory=memory)) for case in cases]
    error = [
        abs(plan.kv_cache_tokens / kv - 1) * 100
        for plan, kv in zip(plans, tokens, strict=True)
        if kv is not None
    ]
    refused = [
        (plan.refusal, row["refusal"])
        for plan, row in zip(plans, rows.to_dicts(), strict=True)
        if row["refusal"]
    ]
    return MemoryFit(
        memory=memory,
        mean_error_percent=float(np.mean(error)),
        largest_error_percent=float(np.max(error)),
        starts_right=float(
            np.mean([p.starts == (kv is not None) for p, kv in zip(plans, tokens, strict=True)])
        ),
        refusals_right=float(np.mean([a == b for a, b in refused])) if refused else 1.0,
        n=rows.height,
    )


def _case(row: dict[str, object], base: Profile) -> MemoryCase:
    slots, rank = int(str(row["max_loras"])), int(str(row["max_lora_rank"]))
    return base.memory_plan(max_loras=slots, max_lora_rank=rank).case
