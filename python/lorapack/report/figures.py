"""Vega-Lite figures. Colours are the page's CSS variables, so they follow light and dark live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import altair as alt

from lorapack.fidelity.scores import errors
from lorapack.fidelity.validate import METRICS, UNSTARVED_ONLY

if TYPE_CHECKING:
    import polars as pl

    from lorapack.packer.plan import PlannedGpu
    from lorapack.report.timeline import Timeline

ACCENT, WARM, MUTED, GOOD, BAD = (
    "var(--accent)",
    "var(--warm)",
    "var(--muted)",
    "var(--good)",
    "var(--bad)",
)
_SERIES = [f"var(--series-{number})" for number in range(1, 9)]

WIDE = 20.0
"""Ratio of largest to smallest from which an axis is logarithmic."""

NARROW = 480
"""Pixels below which a figure's legend wraps and its labels are short."""

QUANTITIES = {
    "throughput": "Throughput, tokens/s",
    "requests": "Requests completed",
    "itl": "Time between tokens, ms",
    "tpot": "Time per output token, ms",
    "ttft": "Time to first token, mean, ms",
    "ttft_p50": "Time to first token, median, ms",
}
"""Metric of validate -> what the page calls it."""

MEMORY_PARTS = {
    "weights": "weights",
    "lora_slots": "LoRA slots",
    "activations": "activations",
    "cuda_graphs": "CUDA graphs",
    "fragmentation": "fragmentation",
    "other": "other",
    "kv_cache": "KV cache",
    "unused": "unused",
}
"""Keys of the memory rule's parts -> what the page calls them, in stacking order."""


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


def memory(gpus: Sequence[PlannedGpu]) -> Figure | None:
    """Where each GPU's memory goes.

    Args:
        gpus: The GPUs of a plan.

    Returns:
        The figure, or None where the plan says nothing of memory.
    """
    rows = [
        {"gpu": gpu.gpu, "part": label, "gib": round(float(value), 3), "order": order}
        for gpu in gpus
        for order, (key, label) in enumerate(MEMORY_PARTS.items())
        if (value := _parts(gpu).get(key)) is not None
    ]
    if not rows:
        return None
    labels = list(MEMORY_PARTS.values())
    chart = (
        _chart(rows)
        .mark_bar(height={"band": 0.72})
        .encode(
            x=alt.X("gib:Q", title="GiB", stack="zero"),
            y=alt.Y("gpu:N", title=None, sort=[gpu.gpu for gpu in gpus]),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=labels, range=[*_SERIES[:7], "var(--empty)"]),
            ),
            order="order:Q",
            tooltip=["gpu:N", "part:N", alt.Tooltip("gib:Q", title="GiB", format=".2f")],
        )
    )
    table = [
        [gpu.gpu, *(_parts(gpu).get(key) for key in MEMORY_PARTS)] for gpu in gpus if _parts(gpu)
    ]
    return Figure(
        "memory",
        "Memory of each GPU",
        "Slots are paid in full whether used or not; what is left is KV cache.",
        _spec(chart, height=max(60, 24 * len(gpus))),
        ["GPU", *labels],
        table,
    )


def savings(methods: Sequence[Mapping[str, Any]]) -> Figure:
    """GPUs by packing method.

    Args:
        methods: Rows of `lorapack compare`.

    Returns:
        The figure.
    """
    rows = [
        {
            "method": str(row["method"]),
            "n_gpus": row.get("n_gpus"),
            "state": "verified" if row.get("verified") else "breaks its service level",
            "starved_gpus": row.get("starved_gpus"),
            "label": _label(row),
        }
        for row in methods
    ]
    most = max((int(row.get("n_gpus") or 0) for row in methods), default=1)
    axis = alt.Axis(tickMinStep=1, format="d")
    base = _chart(rows).encode(
        x=alt.X("n_gpus:Q", title="GPUs", axis=axis, scale=alt.Scale(domain=[0, 1.35 * most])),
        y=alt.Y("method:N", title=None, sort=[str(row["method"]) for row in rows]),
    )
    bars = base.mark_bar(height={"band": 0.7}, cornerRadiusEnd=3).encode(
        color=alt.Color(
            "state:N",
            title=None,
            scale=alt.Scale(
                domain=["verified", "breaks its service level"], range=[ACCENT, "var(--bad-soft)"]
            ),
        ),
        tooltip=["method:N", "n_gpus:Q", "state:N", "starved_gpus:Q"],
    )
    labels = (
        base.transform_calculate(text=f"width < {NARROW} ? datum.n_gpus : datum.label")
        .mark_text(align="left", dx=5, color="var(--ink)")
        .encode(text="text:N")
    )
    columns = ["method", "n_gpus", "verified", "starved_gpus", "cost_per_hour", "kwh_per_hour"]
    return Figure(
        "savings",
        "GPUs by packing method",
        "Every plan was checked by the twin; a short bar that breaks its level is no saving.",
        _spec(bars + labels, height=max(60, 26 * len(rows))),
        columns,
        [[row.get(column) for column in columns] for row in methods],
    )


def curve(name: str, answer: Mapping[str, Any]) -> Figure | None:
    """The Maxpack curve: how many adapters a GPU holds, by slots.

    Args:
        name: What tells this answer from others.
        answer: What `lorapack maxpack --json` printed.

    Returns:
        The figure, or None where the curve has no numbers to draw.
    """
    points = [
        {"x": row["max_loras"], "y": count, **_scalars(row)}
        for row in answer["curve"]
        if isinstance(row, Mapping)
        and isinstance(row.get("max_loras"), (int, float))
        and (count := _first_number(row, ("maxpack", "n_adapters", "adapters"))) is not None
    ]
    if not points:
        return None
    base = _chart(points).encode(
        x=alt.X("x:Q", title="LoRA slots (max_loras)"),
        y=alt.Y("y:Q", title="adapters held"),
        tooltip=[alt.Tooltip("x:Q", title="slots"), alt.Tooltip("y:Q", title="adapters")],
    )
    line = base.mark_line(color=ACCENT, strokeWidth=2.5) + base.mark_point(
        color=ACCENT, filled=True, size=45, opacity=1
    )
    best = {"x": answer.get("max_loras"), "y": answer.get("maxpack")}
    if None not in best.values():
        star = _chart([best]).encode(x="x:Q", y="y:Q")
        line = line + star.mark_point(color=WARM, size=260, strokeWidth=2.5)
    return Figure(
        f"maxpack-{name}",
        f"Maxpack: {answer.get('maxpack')} adapters with {answer.get('max_loras')} slots",
        "Too few slots starve adapters that wait for one; too many take the KV cache away.",
        _spec(line, height=260),
        ["slots", "adapters held"],
        [[point["x"], point["y"]] for point in points],
    )


def frontier(sweep: pl.DataFrame) -> Figure | None:
    """Where one GPU begins to starve: scenarios of a sweep by number of adapters and load.

    Args:
        sweep: One row a scenario.

    Returns:
        The figure, or None where the sweep lacks the columns.
    """
    load = next((name for name in ("offered_tps", "offered_rps") if name in sweep.columns), None)
    count = next((name for name in ("n_adapters", "max_loras") if name in sweep.columns), None)
    if load is None or count is None or sweep.is_empty():
        return None
    columns = [count, load, "served_fraction"]
    kept = sweep.select(columns).drop_nulls()
    rows = kept.sample(min(len(kept), 4000), seed=0).sort(columns).to_dicts()
    chart = (
        _chart(rows)
        .transform_calculate(state="datum.served_fraction < 0.9 ? 'starved' : 'served'")
        .mark_point(filled=True, size=28, opacity=0.75)
        .encode(
            x=alt.X(f"{load}:Q", title="offered load, tokens/s", scale=alt.Scale(zero=False)),
            y=alt.Y(f"{count}:Q", title=count.replace("_", " ")),
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
        _spec(chart, height=320),
    )


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
            if metric in UNSTARVED_ONLY and "starved" in rows.columns:
                kept = rows.filter(~pl.col("starved"))
            figures.append(_pair_figure(kept, metric, measured, simulated))
    return [figure for figure in figures if figure is not None]


def timeline(line: Timeline) -> list[Figure]:
    """What one GPU does over time.

    Args:
        line: The simulated GPU.

    Returns:
        Requests, KV cache, and, where there were any, adapter loads and preemptions.
    """
    spans = line.spans
    figures = [
        Figure(
            "timeline-requests",
            "Requests running and waiting",
            "",
            _spec(_two_lines(spans, {"running": ACCENT, "waiting": WARM}), height=170),
        ),
        Figure(
            "timeline-kv",
            "KV cache in use",
            "",
            _spec(_area(spans, "kv_usage", "share of blocks", ".0%", (0, 1)), height=110),
        ),
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
                    _spec(_bars(spans, column, f"per {span_s:.3g} s"), height=90),
                )
            )
    return figures


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
    wide = high / low > WIDE
    ends = [low / 1.15, high * 1.15] if wide else [0.0, high * 1.05]
    scale = alt.Scale(type="log" if wide else "linear", domain=ends, nice=False)
    axis = alt.Axis(format="~s", tickCount=5)
    diagonal = (
        _chart([{"v": end} for end in ends])
        .mark_line(color=MUTED, strokeDash=[4, 4], clip=True)
        .encode(x=alt.X("v:Q", scale=scale), y=alt.Y("v:Q", scale=scale))
    )
    colour: Any = alt.value(ACCENT)
    if group:
        colour = alt.Color(f"{group}:N", title=None, scale=alt.Scale(range=_SERIES))
    data = kept.rename({measured: "measured", simulated: "simulated"}).to_dicts()
    points = (
        _chart([_short(row) for row in data])
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
        _spec(diagonal + points, height=280),
    )


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers to five digits: a page has no use for more."""
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}


def _two_lines(spans: Sequence[Mapping[str, float]], colours: Mapping[str, str]) -> alt.Chart:
    names: list[Any] = list(colours)
    return cast(
        "alt.Chart",
        _chart(spans)
        .transform_fold(names, as_=["state", "requests"])
        .mark_line(strokeWidth=1.8, interpolate="step")
        .encode(
            x=_time(),
            y=alt.Y("requests:Q", title="requests"),
            color=alt.Color(
                "state:N",
                title=None,
                scale=alt.Scale(domain=names, range=list(colours.values())),
            ),
            tooltip=["time_s:Q", "state:N", alt.Tooltip("requests:Q", format=".1f")],
        ),
    )


def _area(
    spans: Sequence[Mapping[str, float]],
    column: str,
    title: str,
    form: str,
    domain: tuple[float, float],
) -> alt.Chart:
    return cast(
        "alt.Chart",
        _chart(spans)
        .mark_area(color=ACCENT, opacity=0.35, line={"color": ACCENT, "strokeWidth": 1.6})
        .encode(
            x=_time(),
            y=alt.Y(
                f"{column}:Q",
                title=title,
                axis=alt.Axis(format=form, tickCount=3),
                scale=alt.Scale(domain=list(domain)),
            ),
            tooltip=["time_s:Q", alt.Tooltip(f"{column}:Q", format=form)],
        ),
    )


def _bars(spans: Sequence[Mapping[str, float]], column: str, title: str) -> alt.Chart:
    return cast(
        "alt.Chart",
        _chart(spans)
        .mark_bar(color="var(--series-3)", width=2.5)
        .encode(
            x=_time(),
            y=alt.Y(f"{column}:Q", title=title, axis=alt.Axis(tickCount=3)),
            tooltip=["time_s:Q", f"{column}:Q"],
        ),
    )


def _chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    data = alt.Data(values=list(rows))  # type: ignore[no-untyped-call] # altair's own
    return alt.Chart(data)


def _time() -> alt.X:
    return alt.X("time_s:Q", title="seconds", scale=alt.Scale(nice=False))


def _spec(chart: Any, height: int) -> dict[str, Any]:  # noqa: ANN401 - altair's chart kinds
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
            orient="top",
            symbolType="circle",
            labelFontSize=11,
            columns=alt.ExprRef(f"width < {NARROW} ? 2 : 0"),
        ),
    }


def _label(row: Mapping[str, Any]) -> str:
    """GPUs, money and energy of one method, as far as they are known."""
    parts = [f"{row.get('n_gpus')} GPUs"]
    if row.get("cost_per_hour") is not None:
        parts.append(f"{row['cost_per_hour']:,.2f} USD/h")
    if row.get("kwh_per_hour") is not None:
        parts.append(f"{row['kwh_per_hour']:,.2f} kW")
    return " · ".join(parts)


def _parts(gpu: PlannedGpu) -> Mapping[str, float]:
    parts = gpu.memory.get("parts_gib")
    return parts if isinstance(parts, Mapping) else {}


def _first_number(row: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    return next((row[key] for key in keys if isinstance(row.get(key), (int, float))), None)


def _scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if isinstance(value, (int, float, str))}
