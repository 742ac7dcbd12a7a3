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

MOST_SCENARIOS = 4000
"""Scenarios of a sweep that a figure shows; of more, a fixed draw."""

LEAST_POINTS = 3
"""Slots a count of adapters must have been tried with to be a line."""

MOST_LINES = 4
"""Lines a figure can hold and still be read."""

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
        _spec(_trials(points, answer), height=280),
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
        _spec(lines, height=280),
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
        _chart(points)
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
    ring = _chart([best]).mark_point(color=GOOD, size=260, strokeWidth=2.5).encode(x=x, y=y)
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
        _chart(kept)
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("max_loras:Q", title="LoRA slots (max_loras)"),
            y=alt.Y("throughput_tps:Q", title="tokens/s", scale=alt.Scale(zero=False)),
            color=alt.Color("adapters:N", title="adapters", scale=alt.Scale(range=_SERIES)),
            tooltip=["adapters:Q", "max_loras:Q", "throughput_tps:Q", "outcome:N"],
        ),
    )


def _said(answer: Mapping[str, Any], key: str) -> object:
    return answer.get(key, "unknown")


def frontier(sweep: pl.DataFrame) -> Figure | None:
    """Where one GPU begins to starve: scenarios of a sweep by number of adapters and load.

    Args:
        sweep: One row a scenario.

    Returns:
        The figure, or None where the sweep lacks the columns.
    """
    columns = ["n_adapters", "offered_tps", "served_fraction"]
    if not set(columns) <= set(sweep.columns):
        return None
    kept = sweep.select(columns).drop_nulls()
    if kept.is_empty():
        return None
    rows = kept.sample(min(len(kept), MOST_SCENARIOS), seed=0).sort(columns).to_dicts()
    chart = (
        _chart(rows)
        .transform_calculate(state="datum.served_fraction < 0.9 ? 'starved' : 'served'")
        .mark_point(filled=True, size=28, opacity=0.75)
        .encode(
            x=alt.X("offered_tps:Q", title="offered load, tokens/s"),
            y=alt.Y("n_adapters:Q", title="adapters"),
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
        _chart(rows)
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
        "By `lorapack validate`.",
        _spec(chart, height=28 * len(rows) + 10),
        ["quantity", "MAPE, %", "SMAPE, %"],
        [[row["quantity"], row["mape"], row["smape"]] for row in rows],
    )


def _known_score(score: Mapping[str, Any]) -> bool:
    return all(isinstance(score.get(key), (int, float)) for key in ("mape", "smape"))


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
            titleColor=MUTED,
            titleFontWeight="normal",
            orient="top",
            symbolType="circle",
            labelFontSize=11,
            columns=alt.ExprRef(f"width < {NARROW} ? 2 : 0"),
        ),
    }


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


def _parts(gpu: PlannedGpu) -> Mapping[str, float]:
    parts = gpu.memory.get("parts_gib")
    return parts if isinstance(parts, Mapping) else {}
