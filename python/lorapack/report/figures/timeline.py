"""What one GPU does over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import altair as alt

from lorapack.report.figures.style import ACCENT, WARM, Figure, chart_of, spec_of

if TYPE_CHECKING:
    from lorapack.report.timeline import Timeline


def timeline(line: Timeline) -> list[Figure]:
    """What one GPU does over time.

    Args:
        line: The simulated GPU.

    Returns:
        Requests, KV cache, and, where there were any, adapter loads and preemptions.
    """
    spans, across = line.spans, _time(line.duration_s)
    requests = _two_lines(spans, across, {"running": ACCENT, "waiting": WARM})
    kv = _area(spans, across, "kv_usage", "share of blocks", ".0%", (0, 1))
    figures = [
        Figure("timeline-requests", "Requests running and waiting", "", spec_of(requests, 170)),
        Figure("timeline-kv", "KV cache in use", "", spec_of(kv, 110)),
    ]
    for column, title in (("adapter_loads", "Adapter loads"), ("preemptions", "Preemptions")):
        total = sum(span[column] for span in spans)
        if total:
            span_s = line.duration_s / len(spans)
            figures.append(
                Figure(
                    f"timeline-{column.replace('_', '-')}",
                    f"{title}: {total:,.0f} in all",
                    "",
                    spec_of(_bars(spans, across, column, f"per {span_s:.3g} s"), 90),
                )
            )
    return figures


def _two_lines(
    spans: Sequence[Mapping[str, float]], across: alt.X, colours: Mapping[str, str]
) -> alt.Chart:
    names: list[Any] = list(colours)
    return cast(
        "alt.Chart",
        chart_of(spans)
        .transform_fold(names, as_=["state", "requests"])
        .mark_line(strokeWidth=1.8, interpolate="step")
        .encode(
            x=across,
            y=alt.Y("requests:Q", title="requests"),
            color=alt.Color(
                "state:N",
                title=None,
                scale=alt.Scale(domain=names, range=list(colours.values())),
                legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=3),
            ),
            tooltip=["time_s:Q", "state:N", alt.Tooltip("requests:Q", format=".1f")],
        ),
    )


def _area(
    spans: Sequence[Mapping[str, float]],
    across: alt.X,
    column: str,
    title: str,
    form: str,
    domain: tuple[float, float],
) -> alt.Chart:
    return cast(
        "alt.Chart",
        chart_of(spans)
        .mark_area(color=ACCENT, opacity=0.35, line={"color": ACCENT, "strokeWidth": 1.6})
        .encode(
            x=across,
            y=alt.Y(
                f"{column}:Q",
                title=title,
                axis=alt.Axis(format=form, tickCount=3),
                scale=alt.Scale(domain=list(domain)),
            ),
            tooltip=["time_s:Q", alt.Tooltip(f"{column}:Q", format=form)],
        ),
    )


def _bars(
    spans: Sequence[Mapping[str, float]], across: alt.X, column: str, title: str
) -> alt.Chart:
    return cast(
        "alt.Chart",
        chart_of(spans)
        .mark_bar(color="var(--series-3)", width=2.5)
        .encode(
            x=across,
            y=alt.Y(f"{column}:Q", title=title, axis=alt.Axis(tickCount=3)),
            tooltip=["time_s:Q", f"{column}:Q"],
        ),
    )


def _time(duration_s: float) -> alt.X:
    """One axis for all, so that what stands above each other happened at one time."""
    scale = alt.Scale(domain=[0, duration_s], nice=False)
    axis = alt.Axis(tickCount=alt.ExprRef("max(2, floor(width / 70))"))
    return alt.X("time_s:Q", title="seconds", scale=scale, axis=axis)
