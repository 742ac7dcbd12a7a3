"""Where one GPU begins to starve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from lorapack.report.figures.style import ACCENT, WARM, Figure, chart_of, scale_of, spec_of

if TYPE_CHECKING:
    import polars as pl

COLUMNS = ("n_adapters", "offered_tps", "served_fraction")
"""Columns of a sweep that are drawn."""

MOST_SCENARIOS = 4000
"""Scenarios of a sweep that a figure shows; of more, a fixed draw."""


def frontier(sweep: pl.DataFrame) -> Figure | None:
    """Where one GPU begins to starve: scenarios of a sweep by number of adapters and load.

    Args:
        sweep: One row a scenario.

    Returns:
        The figure, or None where the sweep lacks the columns.
    """
    import polars as pl

    columns = list(COLUMNS)
    if not set(columns) <= set(sweep.columns):
        return None
    kept = sweep.select(columns).drop_nulls().filter(pl.col("offered_tps") > 0)
    if kept.is_empty():
        return None
    rows = kept.sample(min(len(kept), MOST_SCENARIOS), seed=0).sort(columns).to_dicts()
    across = scale_of(row["offered_tps"] for row in rows)
    up = scale_of(row["n_adapters"] for row in rows)
    axis = alt.Axis(format="~s", tickCount=6)
    chart = (
        chart_of(rows)
        .transform_calculate(state="datum.served_fraction < 0.9 ? 'starved' : 'served'")
        .mark_point(filled=True, size=28, opacity=0.75)
        .encode(
            x=alt.X("offered_tps:Q", title="offered load, tokens/s", scale=across, axis=axis),
            y=alt.Y("n_adapters:Q", title="adapters", scale=up, axis=axis),
            color=alt.Color(
                "state:N",
                title=None,
                scale=alt.Scale(domain=["served", "starved"], range=[ACCENT, WARM]),
            ),
            tooltip=[*(f"{name}:Q" for name in columns)],
        )
    )
    return Figure(
        "frontier",
        "Starvation frontier",
        "Each point is a simulated scenario; starved means less than 90 % of the load was served.",
        spec_of(chart, height=320),
    )
