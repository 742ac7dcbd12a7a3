"""The twin against measured runs: pairs, and how far off they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import altair as alt

from lorapack.fidelity.scores import errors
from lorapack.fidelity.validate import METRICS, UNSTARVED_ONLY
from lorapack.report.figures.style import ACCENT, MUTED, SERIES, Figure, chart_of, is_wide, spec_of

if TYPE_CHECKING:
    import polars as pl

QUANTITIES = {
    "throughput": "Throughput, tokens/s",
    "requests": "Requests completed",
    "itl": "Time between tokens, ms",
    "tpot": "Time per output token, ms",
    "ttft": "Time to first token, mean, ms",
    "ttft_p50": "Time to first token, median, ms",
}
"""Metric of validate -> what the page calls it."""


def fidelity(rows: pl.DataFrame) -> list[Figure]:
    """Measured against simulated, one figure a quantity.

    Args:
        rows: What `lorapack validate --rows` wrote.

    Returns:
        The figures, for the quantities whose two columns are there.
    """
    import polars as pl

    figures = []
    for metric, (simulated, measured) in METRICS.items():
        if {simulated, measured} <= set(rows.columns):
            kept = rows
            if metric in UNSTARVED_ONLY and rows.schema.get("starved") == pl.Boolean:
                kept = rows.filter(~pl.col("starved"))
            figures.append(_pair_figure(kept, metric, measured, simulated))
    return [figure for figure in figures if figure is not None]


def scores(name: str, answer: Mapping[str, Any]) -> Figure | None:
    """How far off the twin was, by quantity.

    Args:
        name: What tells this answer from others.
        answer: What `lorapack validate --json` printed.

    Returns:
        The figure, or None where no score is a number.
    """
    rows = [
        {"quantity": QUANTITIES[key].split(",")[0], "mape": score["mape"], "smape": score["smape"]}
        for key, score in answer.items()
        if key in QUANTITIES and isinstance(score, Mapping) and _known_score(score)
    ]
    if not rows:
        return None
    chart = (
        chart_of(rows)
        .mark_bar(height={"band": 0.6}, color=ACCENT, cornerRadiusEnd=3)
        .encode(
            x=alt.X("mape:Q", title="mean absolute error, % of the measured"),
            y=alt.Y("quantity:N", title=None, sort=[str(row["quantity"]) for row in rows]),
            tooltip=["quantity:N", "mape:Q", "smape:Q"],
        )
    )
    return Figure(
        f"scores-{name}",
        f"Scores over {answer.get('n_runs')} runs",
        "By lorapack validate.",
        spec_of(chart, height=28 * len(rows) + 10),
        ["quantity", "MAPE, %", "SMAPE, %"],
        [[row["quantity"], row["mape"], row["smape"]] for row in rows],
    )


def _known_score(score: Mapping[str, Any]) -> bool:
    values = [score.get(key) for key in ("mape", "smape")]
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def _pair_figure(rows: pl.DataFrame, metric: str, measured: str, simulated: str) -> Figure | None:
    import polars as pl

    group = next((name for name in ("model", "regime") if name in rows.columns), None)
    names = [measured, simulated, *([group] if group else [])]
    kept = rows.select(names).drop_nulls([measured, simulated])
    kept = kept.filter((pl.col(measured) > 0) & (pl.col(simulated) > 0)).sort(names)
    if kept.is_empty():
        return None
    values = kept[measured].to_list() + kept[simulated].to_list()
    low, high = min(values), max(values)
    wide = is_wide(values)
    ends = [low / 1.15, high * 1.15] if wide else [0.0, high * 1.05]
    scale = alt.Scale(type="log" if wide else "linear", domain=ends, nice=False)
    axis = alt.Axis(format="~s", tickCount=5)
    diagonal = (
        chart_of([{"v": end} for end in ends])
        .mark_line(color=MUTED, strokeDash=[4, 4], clip=True)
        .encode(x=alt.X("v:Q", scale=scale), y=alt.Y("v:Q", scale=scale))
    )
    colour: Any = alt.value(ACCENT)
    if group:
        colour = alt.Color(f"{group}:N", title=None, scale=alt.Scale(range=SERIES))
    data = kept.rename({measured: "measured", simulated: "simulated"}).to_dicts()
    points = (
        chart_of([_short(row) for row in data])
        .mark_point(filled=True, size=26, opacity=0.55, clip=True)
        .encode(
            x=alt.X("measured:Q", title="measured", scale=scale, axis=axis),
            y=alt.Y("simulated:Q", title="simulated", scale=scale, axis=axis),
            color=colour,
            tooltip=["measured:Q", "simulated:Q", *([f"{group}:N"] if group else [])],
        )
    )
    error = errors(kept[simulated].to_numpy(), kept[measured].to_numpy())
    return Figure(
        f"fidelity-{metric.replace('_', '-')}",
        QUANTITIES.get(metric, metric),
        f"{len(data)} runs; MAPE {error.mape:.1f} %, SMAPE {error.smape:.1f} %.",
        spec_of(diagonal + points, height=280),
    )


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers to five digits: a page has no use for more."""
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
