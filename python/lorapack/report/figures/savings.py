"""GPUs, money and energy by packing method, each with its own slots and with chosen ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from lorapack.report.figures.style import (
    ACCENT,
    BAD_SOFT,
    NARROW,
    SERIES,
    Figure,
    chart_of,
    spec_of,
)

OWN, OURS, BROKEN = "its own slots", "slots as greedy chooses them", "breaks its service level"
"""What a bar is: by whose slots, or that it is no saving."""

_COLOURS = {OWN: SERIES[5], OURS: ACCENT, BROKEN: BAD_SOFT}

_COLUMNS = (
    "method",
    "slots",
    "n_gpus",
    "verified",
    "starved_gpus",
    "cost_per_hour",
    "kwh_per_hour",
)


def savings(methods: Sequence[Mapping[str, Any]]) -> Figure:
    """GPUs by packing method.

    Args:
        methods: Rows of `lorapack compare`: a method, or a method and by whose slots it runs.

    Returns:
        The figure.
    """
    rows = [
        {
            "method": str(row["method"]),
            "slots": str(row.get("slots", "own")),
            "n_gpus": row.get("n_gpus"),
            "bar": _bar(row),
            "starved_gpus": row.get("starved_gpus"),
            "label": _label(row),
        }
        for row in methods
    ]
    most = max((int(row.get("n_gpus") or 0) for row in methods), default=1)
    axis = alt.Axis(tickMinStep=1, tickCount=10, format="d")
    order = list(dict.fromkeys(str(row["method"]) for row in methods))
    # A band a method, in it a bar a choice of slots: side by side, never one upon the other.
    base = chart_of(rows).encode(
        x=alt.X("n_gpus:Q", title="GPUs", axis=axis, scale=alt.Scale(domain=[0, 1.35 * most])),
        y=alt.Y("method:N", title=None, sort=order, scale=alt.Scale(paddingInner=0.25)),
        yOffset=alt.YOffset("slots:N", sort=["own", "ours"]),
    )
    bars = base.mark_bar(cornerRadiusEnd=3).encode(
        color=alt.Color(
            "bar:N",
            title=None,
            scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())),
        ),
        tooltip=["method:N", "slots:N", "n_gpus:Q", "bar:N", "starved_gpus:Q"],
    )
    labels = (
        base.transform_calculate(text=f"width < {NARROW} ? datum.n_gpus : datum.label")
        .mark_text(align="left", dx=5, color="var(--ink)", fontSize=10)
        .encode(text="text:N")
    )
    n_slots = len({row["slots"] for row in rows})
    return Figure(
        "savings",
        "GPUs by packing method",
        "Every plan was checked by the twin; a short bar that breaks its level is no saving.",
        spec_of(bars + labels, height=max(60, (10 + 15 * n_slots) * len(order))),
        _COLUMNS,
        [[row.get(column) for column in _COLUMNS] for row in methods],
    )


def _bar(row: Mapping[str, Any]) -> str:
    if not row.get("verified"):
        return BROKEN
    return OURS if row.get("slots") == "ours" or row["method"] == "greedy" else OWN


def _label(row: Mapping[str, Any]) -> str:
    """GPUs, money and energy of one method, as far as they are known."""
    if row.get("n_gpus") is None:
        return "no plan"
    parts = [f"{row['n_gpus']} GPUs"]
    if row.get("cost_per_hour") is not None:
        parts.append(f"{row['cost_per_hour']:,.2f} USD/h")
    if row.get("kwh_per_hour") is not None:
        parts.append(f"{row['kwh_per_hour']:,.2f} kW")
    return " · ".join(parts)
