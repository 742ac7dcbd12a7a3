"""What all figures share: what one is, its colours (the page's own variables), axes and legends.

Colours follow light and dark live, since the page draws to SVG.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import altair as alt

ACCENT, WARM, MUTED, GOOD, BAD, BAD_SOFT, EMPTY = (
    "var(--accent)",
    "var(--warm)",
    "var(--muted)",
    "var(--good)",
    "var(--bad)",
    "var(--bad-soft)",
    "var(--empty)",
)
SERIES = [f"var(--series-{number})" for number in range(1, 9)]

WIDE = 20.0
"""Ratio of largest to smallest from which an axis is logarithmic."""

NARROW = 480
"""Pixels below which a figure's legend wraps and its labels are short."""


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        key: Its id in the page.
        title: What it shows.
        note: How to read it.
        spec: Vega-Lite.
        columns: Headings of the same as a table, for those who do not see it.
        rows: Its cells.
    """

    key: str
    title: str
    note: str
    spec: Mapping[str, Any]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def chart_of(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """A chart that carries its rows."""
    data = alt.Data(values=list(rows))  # type: ignore[no-untyped-call] # altair's own
    return alt.Chart(data)


def is_wide(values: Iterable[float]) -> bool:
    """Whether an axis of these values is better logarithmic."""
    known = list(values)
    return min(known) > 0 and max(known) / min(known) > WIDE


def scale_of(values: Iterable[float]) -> alt.Scale:
    """Logarithmic where the values are wide apart, else from zero."""
    return alt.Scale(type="log", nice=False, padding=12) if is_wide(values) else alt.Scale()


def spec_of(chart: Any, height: int) -> dict[str, Any]:  # noqa: ANN401 - altair's chart kinds
    """A chart as Vega-Lite, as wide as the page gives it."""
    sized = chart.properties(width="container", height=height).configure(**_theme())
    return cast("dict[str, Any]", sized.to_dict())


def _theme() -> dict[str, Any]:
    return {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "autosize": alt.AutoSizeParams(type="fit-x", contains="padding", resize=True),
        "view": alt.ViewConfig(stroke=None),
        "axis": alt.AxisConfig(
            labelColor=MUTED,
            titleColor=MUTED,
            titleFontWeight="normal",
            gridColor="var(--grid)",
            domainColor="var(--grid)",
            tickColor="var(--grid)",
            labelFontSize=11,
            titleFontSize=11,
            labelLimit=140,
        ),
        "axisY": alt.AxisConfig(minExtent=46),
        "legend": alt.LegendConfig(
            labelColor="var(--ink)",
            titleColor=MUTED,
            titleFontWeight="normal",
            orient="top",
            symbolType="circle",
            labelFontSize=11,
            columns=alt.ExprRef(f"width < {NARROW} ? 2 : 0"),
        ),
    }
