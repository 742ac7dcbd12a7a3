"""Sources -> one HTML page that needs nothing else, the same bytes for the same sources."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lorapack.report import figures
from lorapack.report.rooms import HEIGHT, WIDTH, Room, rooms_of

if TYPE_CHECKING:
    from lorapack.packer.plan import Plan, PlannedGpu
    from lorapack.report.figures import Figure
    from lorapack.report.sources import Sources
    from lorapack.report.timeline import Timeline

LARGEST_BYTES = 6_000_000
"""A page above this is refused: mail and browsers choke on it."""

_PROMISES = {
    "min_served": "served fraction at least",
    "ttft_p99_ms": "p99 time to first token at most (ms)",
    "tpot_ms": "time per output token at most (ms)",
    "adapter_min_served": "each adapter's own served fraction at least",
}


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: Its id.
        title: Its heading.
        note: What it says, in a sentence.
        figures: Its figures.
    """

    key: str
    title: str
    note: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Standing:
    """What is known of a plan.

    Attributes:
        badge: In a word or two.
        kind: Which colours the badge has.
        remark: What that means for the service level.
        how: How it was found.
    """

    badge: str
    kind: str
    remark: str
    how: str


def render(sources: Sources, timeline: Timeline | None = None) -> str:
    """Makes the page.

    Args:
        sources: What to show.
        timeline: One simulated GPU, where one was run.

    Returns:
        HTML.
    """
    plan = sources.plan
    sections = _sections(sources, timeline)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(short=_short, percent=_percent)
    template = environment.from_string(_asset("page.html"))
    rooms = rooms_of(plan.gpus) if plan else []
    return template.render(
        title=_title(plan),
        plan=plan,
        standing=_standing(plan) if plan else None,
        facts=_facts(plan, sources) if plan else [],
        promises=_promises(plan) if plan else [],
        rooms=rooms,
        rank_colours=_rank_colours(rooms),
        room_size=(WIDTH, HEIGHT),
        evidence=[_evidence(gpu) for gpu in plan.gpus] if plan else [],
        sections=sections,
        specs=Markup(_script_json({f.key: f.spec for s in sections for f in s.figures})),
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        vega=Markup(_vega() if sections else ""),
    )


def _sections(sources: Sources, timeline: Timeline | None) -> list[Section]:
    found = []
    if sources.plan and (memory := figures.memory(sources.plan.gpus)):
        note = "What the engine takes before it serves, by the memory rule."
        found.append(Section("memory", "Memory", note, [memory]))
    if sources.comparison:
        note = "The same fleet placed by every method."
        found.append(Section("savings", "Savings", note, [figures.savings(sources.comparison)]))
    answers = sorted(sources.maxpacks.items())
    if drawn := [figure for name, answer in answers for figure in figures.maxpack(name, answer)]:
        note = "The most adapters that one GPU serves within the service level."
        found.append(Section("maxpack", "Maxpack", note, drawn))
    if sources.sweep is not None and (frontier := figures.frontier(sources.sweep)):
        found.append(Section("frontier", "Starvation", "From a sweep of the twin.", [frontier]))
    if timeline is not None:
        found.append(
            Section(
                "timeline", "One GPU over time", _line_note(timeline), figures.timeline(timeline)
            )
        )
    if pairs := _fidelity(sources):
        note = "The twin against measured runs: on the dashed line both agree."
        found.append(Section("fidelity", "Fidelity", note, pairs))
    return found


def _fidelity(sources: Sources) -> list[Figure]:
    scored = [figures.scores(name, answer) for name, answer in sorted(sources.validations.items())]
    pairs = [] if sources.rows is None else figures.fidelity(sources.rows)
    return [*(figure for figure in scored if figure), *pairs]


def _line_note(timeline: Timeline) -> str:
    result = timeline.result
    return (
        f"{timeline.gpu.gpu} simulated for {timeline.duration_s:g} s at the planned rates, seed "
        f"{timeline.seed}: {result.completed:,} requests completed, {result.unfinished:,} still "
        "in flight at the end."
    )


def _title(plan: Plan | None) -> str:
    if plan is None:
        return "lorapack report"
    names = {row.adapter for gpu in plan.gpus for row in gpu.adapters}
    gpus = "1 GPU" if plan.n_gpus == 1 else f"{plan.n_gpus} GPUs"
    if not plan.verified:
        return f"{gpus} for {len(names):,} adapters"
    return f"{gpus} {'serves' if plan.n_gpus == 1 else 'serve'} {len(names):,} adapters"


def _standing(plan: Plan) -> Standing:
    """What is known of the service level."""
    if plan.verified:
        return Standing("verified", "good", "held on every seed", _re_simulated(plan))
    if plan.simulated:
        return Standing("not verified", "bad", "not held", _re_simulated(plan))
    how = "by prediction alone: no GPU of it was simulated"
    if any(gpu.simulated for gpu in plan.gpus):
        how = "some GPUs re-simulated, the rest predicted"
    return Standing("predicted", "warn", "predicted, not simulated", how)


def _re_simulated(plan: Plan) -> str:
    counts = sorted({len(gpu.seeds) for gpu in plan.gpus})
    seeds = " or ".join(map(str, counts))
    return f"every GPU re-simulated on {seeds} fresh {'seed' if counts == [1] else 'seeds'}"


def _facts(plan: Plan, sources: Sources) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the tiles at the top."""
    rate = sum(row.rate_rps for gpu in plan.gpus for row in gpu.adapters)
    names = {row.adapter for gpu in plan.gpus for row in gpu.adapters}
    facts = [
        ("GPUs", f"{plan.n_gpus:,}", _bounds(plan)),
        ("Adapters", f"{len(names):,}", f"{len(names) / plan.n_gpus:.1f} a GPU"),
        ("Load", f"{rate:,.4g}/s", f"requests, planned with {plan.rate_headroom:.0%} headroom"),
        ("Service level", plan.slo, _standing(plan).remark),
    ]
    if plan.cost_per_hour is not None:
        facts.append(("Cost", f"{plan.cost_per_hour:,.2f}/h", "USD, all GPUs"))
    if plan.kwh_per_hour is not None:
        facts.append(("Power", f"{plan.kwh_per_hour:,.2f} kW", "all GPUs under load"))
    return [*facts, *_saved(plan, sources.comparison)]


def _bounds(plan: Plan) -> str:
    """How few any plan could need: what is proven, and what is thought."""
    proven = f"no plan needs fewer than {plan.bound.get('true', plan.lower_bound):.2f}"
    if (estimate := plan.bound.get("estimate")) is None:
        return proven
    return f"{proven}; by estimate than {estimate:.2f}"


def _saved(plan: Plan, comparison: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Against the baselines as they are (their own slots), of those that hold: least and most."""
    others = [
        row
        for row in comparison
        if row.get("verified")
        and row.get("n_gpus")
        and row["method"] != plan.method
        and row.get("slots", "own") == "own"
    ]
    if not others:
        return []
    saved = [row["n_gpus"] - plan.n_gpus for row in others]
    remark = f"against {len(others)} baselines that hold"
    most = max(others, key=lambda row: row["n_gpus"])
    parts = [
        f"{most[key] - ours:,.4g} {unit}"
        for key, ours, unit in (
            ("cost_per_hour", plan.cost_per_hour, "USD/h"),
            ("kwh_per_hour", plan.kwh_per_hour, "kW"),
        )
        if most.get(key) is not None and ours is not None
    ]
    if parts and max(saved) > 0:
        remark += f", up to {' and '.join(parts)}"
    few, many = min(saved), max(saved)
    amount = f"{many:,}" if few == many else f"{few:,} to {many:,}"
    return [("GPUs saved", amount, remark)]


def _promises(plan: Plan) -> list[tuple[str, str]]:
    return [
        (label, _short(plan.service_level[key]))
        for key, label in _PROMISES.items()
        if plan.service_level.get(key) is not None
    ]


def _evidence(gpu: PlannedGpu) -> dict[str, Any]:
    """One row of the evidence table; what the plan does not say stays blank.

    Of a GPU that was not simulated it tells what was predicted.
    """
    violations = gpu.twin.get("violations") or []
    told = gpu.twin if gpu.simulated else gpu.predicted
    return {
        "gpu": gpu.gpu,
        "n_adapters": len(gpu.adapters),
        "rate_rps": sum(row.rate_rps for row in gpu.adapters),
        "slots": gpu.engine["max_loras"],
        "rank": gpu.engine["max_lora_rank"],
        "kv_cache_tokens": gpu.memory.get("kv_cache_tokens"),
        "kv_usage_max": told.get("kv_usage_max"),
        "served_fraction": told.get("served_fraction"),
        "ttft_p99_ms": told.get("ttft_p99_ms"),
        "throughput_tps": told.get("throughput_tps"),
        "adapter_loads": told.get("adapter_loads"),
        "preemptions": told.get("preemptions"),
        "simulated": gpu.simulated,
        "margin": gpu.margin if gpu.simulated else None,
        "failing_probability": gpu.failing_probability,
        "n_seeds": len(gpu.seeds),
        "violations": [str(violation) for violation in violations],
        "exempt": gpu.exempt,
    }


def _rank_colours(rooms: Sequence[Room]) -> dict[int, int]:
    """Rank -> number of its colour: the ramp is spread over the ranks that occur."""
    found = {tile.rank for room in rooms for tile in room.tiles}
    ranks = sorted(found - {-1, 0})
    steps = max(1, len(ranks) - 1)
    colours = {rank: 1 + round(5 * index / steps) for index, rank in enumerate(ranks)}
    return {**colours, **dict.fromkeys(found & {-1, 0}, 0)}


def _script_json(value: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return resources.files("lorapack.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _vega() -> str:
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg] # its stub forgets the default
    assert "</script" not in bundle, "the bundle would end its own element"
    return bundle


def _short(value: object) -> str:
    """A number as people read it."""
    if value is None:
        return "–"  # noqa: RUF001 - a dash for nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}%}"  # noqa: RUF001
