"""How many adapters one GPU holds, and what slots are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import altair as alt

from lorapack.report.figures.style import (
    ACCENT,
    BAD,
    GOOD,
    SERIES,
    WARM,
    Figure,
    chart_of,
    spec_of,
)

LEAST_POINTS = 3
"""Slots a count of adapters must have been tried with to be a line."""

MOST_LINES = 4
"""Lines a figure can hold and still be read."""


def maxpack(name: str, answer: Mapping[str, Any]) -> list[Figure]:
    """How many adapters a GPU holds and what slots are worth.

    Args:
        name: What tells this answer from others.
        answer: What `lorapack maxpack --json` printed.

    Returns:
        The trials by slots and adapters, and throughput by slots; none of an empty curve.
    """
    points = [point for row in answer["curve"] if (point := _trial(row)) is not None]
    if not points:
        return []
    best = f"{answer.get('maxpack')} adapters with {answer.get('max_loras')} slots"
    load = f"{_said(answer, 'rate_rps')} requests/s each, rank {_said(answer, 'rank')}"
    columns = ["adapters", "max_loras", "outcome", "throughput_tps"]
    trials = Figure(
        f"maxpack-{name}",
        f"Maxpack: {best}",
        f"{load}. Each point is a trial of the twin; the ring is the answer.",
        spec_of(_trials(points, answer), height=280),
        columns,
        [[point[column] for column in columns] for point in points],
    )
    lines = _throughput_lines(points)
    if lines is None:
        return [trials]
    slots = Figure(
        f"slots-{name}",
        "What slots are worth",
        "Too few make adapters wait for each other; too many take KV cache and slow every step.",
        spec_of(lines, height=280),
    )
    return [trials, slots]


def _trial(row: object) -> dict[str, Any] | None:
    if not isinstance(row, Mapping) or not {"adapters", "max_loras"} <= set(row):
        return None
    outcome = "holds" if row.get("holds") else "breaks its service level"
    return {
        "adapters": row["adapters"],
        "max_loras": row["max_loras"],
        "outcome": "does not start" if row.get("starts") is False else outcome,
        "throughput_tps": row.get("throughput_tps"),
    }


def _trials(
    points: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]
) -> alt.LayerChart | alt.FacetChart:
    colours = {"holds": ACCENT, "breaks its service level": WARM, "does not start": BAD}
    x = alt.X("max_loras:Q", title="LoRA slots (max_loras)")
    y = alt.Y("adapters:Q", title="adapters")
    dots = (
        chart_of(points)
        .mark_point(filled=True, size=42, opacity=0.8)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "outcome:N",
                title=None,
                scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            ),
            tooltip=["adapters:Q", "max_loras:Q", "outcome:N", "throughput_tps:Q"],
        )
    )
    best = {"max_loras": answer.get("max_loras"), "adapters": answer.get("maxpack")}
    ring = chart_of([best]).mark_point(color=GOOD, size=260, strokeWidth=2.5).encode(x=x, y=y)
    return alt.layer(dots, ring)


def _throughput_lines(points: Sequence[Mapping[str, Any]]) -> alt.Chart | None:
    """Throughput by slots for the counts that were tried with several; None if none was."""
    by_count: dict[int, list[Mapping[str, Any]]] = {}
    for point in points:
        if point["throughput_tps"] is not None and point["outcome"] != "does not start":
            by_count.setdefault(point["adapters"], []).append(point)
    counts = sorted((n for n, rows in by_count.items() if len(rows) >= LEAST_POINTS), reverse=True)
    kept = [row for count in counts[:MOST_LINES] for row in by_count[count]]
    if not kept:
        return None
    return cast(
        "alt.Chart",
        chart_of(kept)
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("max_loras:Q", title="LoRA slots (max_loras)"),
            y=alt.Y("throughput_tps:Q", title="tokens/s", scale=alt.Scale(zero=False)),
            color=alt.Color("adapters:N", title="adapters", scale=alt.Scale(range=SERIES)),
            tooltip=["adapters:Q", "max_loras:Q", "throughput_tps:Q", "outcome:N"],
        ),
    )


def _said(answer: Mapping[str, Any], key: str) -> object:
    return answer.get(key, "unknown")
