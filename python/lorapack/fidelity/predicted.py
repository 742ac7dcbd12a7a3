"""A predictor held to the same measured runs as the twin, under the same names."""

from __future__ import annotations

from typing import Any

import polars as pl

from lorapack.errors import InputError
from lorapack.fidelity.replay import scenario_of
from lorapack.fidelity.validate import STARVED_BELOW, Validation, score
from lorapack.predictor.features import matrix_of
from lorapack.predictor.predictor import Predictor

UNTOLD = (
    "simulated_tpot_ms",
    "simulated_ttft_p50_ms",
    "simulated_mean_running",
    "simulated_kv_usage",
    "simulated_preemptions",
)
"""Columns of the twin's that a predictor has no word for."""


def predicted_summary(validation: Validation, predictor: Predictor) -> dict[str, Any]:
    """Scores of a predictor on the runs of its own model.

    Args:
        validation: The twin's, on the same runs.
        predictor: The model to judge.

    Raises:
        InputError: None of the runs is of the predictor's model.
    """
    profile = predictor.profile
    rows = validation.rows.filter(
        pl.col("model").str.starts_with(profile.model.name)
        & (pl.col("out_of_memory") == 0)
        & pl.col("simulated_starts")
    )
    if rows.is_empty():
        raise InputError("--predictor", "model", profile.name, "none of the runs is of its model")
    scenarios = [scenario_of(run, profile, 0) for run in rows.iter_rows(named=True)]
    told = predictor.predict_many(matrix_of(scenarios))
    column = {name: told[:, i].astype(float) for i, name in enumerate(predictor.targets)}
    lengths = profile.lengths
    tokens = lengths.prompt.mean_tokens + lengths.output.mean_tokens
    tps = pl.Series("simulated_tps", column["throughput_tps"])
    rows = rows.drop(name for name in UNTOLD if name in rows.columns).with_columns(
        simulated_tps=tps,
        simulated_completed=tps * rows["duration_s"] / tokens,
        simulated_itl_ms=pl.Series(column["itl_mean_ms"]),
        simulated_ttft_ms=pl.Series(column["ttft_mean_ms"]),
        simulated_starved=tps < STARVED_BELOW * rows["offered_tps"],
    )
    by_case = rows.group_by(["model", "case"], maintain_order=True)
    return {
        **score(rows),
        "by_model": {str(rows["model"][0]): score(rows)},
        "by_case": {"/".join(map(str, key)): score(group) for key, group in by_case},
        "wall_s": validation.wall_s,
        "simulated_s": 0.0,
    }
