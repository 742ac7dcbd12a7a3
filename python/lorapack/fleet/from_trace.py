"""Requests become adapters: a trace dealt to N adapters by a stated rule, then measured.

No public trace names adapters (``data/traces``), so the rule that deals is written into the fleet's
header: popularity, ranks, how time was stretched, what was cut. Rates, lengths and burstiness are
then *measured* on what each adapter was dealt. A trace that names its adapters keeps them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import polars as pl

from lorapack.errors import InputError
from lorapack.fleet.adapter import LARGEST_CV, LARGEST_RATE_RPS, SMALLEST_CV, assemble
from lorapack.fleet.draw import Popularity, RankMix, significant, stream
from lorapack.fleet.fleet import Fleet
from lorapack.trace.trace import Trace

MIN_GAPS = 10
"""With fewer gaps than this an adapter's burstiness is not measured but taken for Poisson's 1."""

TOO_LONG = ("refuse", "cut")
"""A prompt over the context is refused, as the engine does, or cut to fit."""


@dataclasses.dataclass(frozen=True)
class Dealing:
    """The rule by which requests become adapters.

    Attributes:
        n_adapters: How many; ``None`` keeps the adapters that the trace names.
        popularity: How unevenly requests fall on them.
        ranks: Which ranks they have.
        stretch: Factor on time: 2 halves every rate.
        rate_rps: Total rate wanted instead of a factor; sets the factor.
        max_model_len: The context, tokens; ``None`` leaves lengths as they are.
        too_long: ``refuse`` or ``cut`` prompts over the context.
        seed: Of everything drawn.
    """

    n_adapters: int | None
    popularity: Popularity
    ranks: RankMix
    stretch: float = 1.0
    rate_rps: float | None = None
    max_model_len: int | None = None
    too_long: str = "refuse"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Dealt:
    """What came of it.

    Attributes:
        fleet: The adapters, with the rule in the provenance.
        trace: The requests, each with its adapter, time stretched, lengths within the context.
        notes: What was left out, cut or assumed, one sentence each.
    """

    fleet: Fleet
    trace: Trace
    notes: tuple[str, ...]


def fleet_from_trace(trace: Trace, dealing: Dealing) -> Dealt:
    """Deals a trace's requests to adapters and measures what each got.

    Args:
        trace: Two requests or more.
        dealing: The rule.

    Returns:
        Fleet, dealt trace and notes; the same for the same inputs.

    Raises:
        InputError: The rule cannot be used on this trace.
    """
    _check(trace, dealing)
    fitted, notes = within_context(trace.frame, dealing.max_model_len, dealing.too_long)
    if fitted.height < 2:
        raise InputError(
            trace.source, None, None, "leaves fewer than 2 requests: widen the context"
        )
    frame, stretch = _stretched(fitted, dealing)
    names, frame = _dealt(frame, dealing)
    measured = [_measure(row, frame) for row in _per_adapter(frame, names)]
    columns: dict[str, Sequence[object]] = {
        "adapter": names,
        "rank": dealing.ranks.draw(len(names), stream(dealing.seed, "ranks")),
        **{key: [each[key] for each in measured] for key in measured[0]},
    }
    rates = [each["rate_rps"] or 0.0 for each in measured]
    if max(rates) > LARGEST_RATE_RPS:
        raise InputError(None, "stretch", stretch, f"keep rates under {LARGEST_RATE_RPS:g}/s")
    idle = rates.count(0.0)
    if idle:
        notes.append(f"{idle} of {len(names)} adapters were dealt no request: their rate is 0")
    provenance = _provenance(trace, dealing, stretch, frame.height, [*trace.notes, *notes])
    fleet = Fleet(assemble(columns), provenance)
    return Dealt(fleet, Trace(frame, trace.source), (*trace.notes, *notes))


def within_context(
    frame: pl.DataFrame, max_model_len: int | None, too_long: str
) -> tuple[pl.DataFrame, list[str]]:
    """Requests as an engine of this context would take them.

    A prompt must leave room for one token; one that does not is refused (the engine answers 400)
    or cut to do so. An answer ends where the context does.

    Args:
        frame: Columns of a trace.
        max_model_len: The context, tokens; ``None`` is no limit.
        too_long: ``refuse`` or ``cut``.

    Returns:
        The requests that stay, and what was done, one sentence each.
    """
    if max_model_len is None:
        return frame, []
    notes = []
    longest = max_model_len - 1
    over = int((frame["prompt_tokens"] > longest).sum())
    if over and too_long == "refuse":
        frame = frame.filter(pl.col("prompt_tokens") <= longest)
        notes.append(f"{over} requests refused: their prompts exceed {longest} tokens")
    elif over:
        frame = frame.with_columns(pl.col("prompt_tokens").clip(upper_bound=longest))
        notes.append(f"{over} prompts cut to {longest} tokens")
    room = max_model_len - frame["prompt_tokens"]
    cut = int((frame["output_tokens"] > room).sum())
    if cut:
        frame = frame.with_columns(
            pl.min_horizontal("output_tokens", max_model_len - pl.col("prompt_tokens"))
        )
        notes.append(f"{cut} answers cut where the context of {max_model_len} tokens ends")
    return frame, notes


def _check(trace: Trace, dealing: Dealing) -> None:
    if dealing.n_adapters is None and not trace.names_adapters:
        raise InputError(trace.source, "adapter", None, "names none: say how many to deal to")
    if dealing.n_adapters is not None and dealing.n_adapters < 1:
        raise InputError(None, "adapters", dealing.n_adapters, "give 1 or more")
    if dealing.too_long not in TOO_LONG:
        raise InputError(None, "too_long", dealing.too_long, f"give {' or '.join(TOO_LONG)}")
    if dealing.max_model_len is not None and dealing.max_model_len < 2:
        raise InputError(None, "max_model_len", dealing.max_model_len, "give 2 tokens or more")
    if not 0 < dealing.stretch < float("inf"):
        raise InputError(None, "stretch", dealing.stretch, "give a positive factor")
    if dealing.rate_rps is not None and not 0 < dealing.rate_rps < float("inf"):
        raise InputError(
            None, "rate", dealing.rate_rps, "give a positive rate, requests per second"
        )
    if len(trace) < 2 or trace.span_s == 0:
        raise InputError(trace.source, None, f"{len(trace)} requests", "give 2 at different times")


def _stretched(frame: pl.DataFrame, dealing: Dealing) -> tuple[pl.DataFrame, float]:
    """Time from the first arrival on, times the factor."""
    arrivals = frame["arrival_s"]
    since_first = arrivals - arrivals[0]
    stretch = dealing.stretch
    if dealing.rate_rps is not None:
        stretch = (frame.height - 1) / (dealing.rate_rps * since_first[-1])
    return frame.with_columns((since_first * stretch).alias("arrival_s")), stretch


def _dealt(frame: pl.DataFrame, dealing: Dealing) -> tuple[list[str], pl.DataFrame]:
    if dealing.n_adapters is None:
        return frame["adapter"].unique().sort().to_list(), frame
    width = len(str(dealing.n_adapters - 1))
    names = [f"adapter-{number:0{width}d}" for number in range(dealing.n_adapters)]
    weights = dealing.popularity.weights(len(names), stream(dealing.seed, "popularity"))
    chosen = stream(dealing.seed, "dealing").choice(len(names), p=weights, size=frame.height)
    dealt = pl.Series("adapter", names, dtype=pl.String).gather(chosen.astype(np.uint32))
    return names, frame.with_columns(dealt)


def _per_adapter(frame: pl.DataFrame, names: list[str]) -> list[dict[str, float] | None]:
    """Counts, mean lengths and gaps of each adapter; ``None`` for one without requests."""
    gaps = pl.col("arrival_s").diff().over("adapter")
    found = (
        frame.with_columns(gaps.alias("gap"))
        .group_by("adapter")
        .agg(
            pl.len().alias("requests"),
            pl.col("prompt_tokens", "output_tokens").mean(),
            pl.col("gap").std(ddof=0).alias("gap_std"),
            pl.col("gap").mean().alias("gap_mean"),
        )
    )
    rows = {row["adapter"]: row for row in found.iter_rows(named=True)}
    return [rows.get(name) for name in names]


def _measure(row: dict[str, float] | None, frame: pl.DataFrame) -> dict[str, float | None]:
    """An adapter's columns; an idle one has a rate of 0 and no lengths of its own."""
    if row is None:
        return {"rate_rps": 0.0, "prompt_tokens": None, "output_tokens": None, "cv": 1.0}
    # n requests hold n - 1 gaps: the window of all is what n gaps would take.
    window_s = float(frame["arrival_s"][-1]) * frame.height / (frame.height - 1)
    return {
        "rate_rps": significant(row["requests"] / window_s),
        "prompt_tokens": significant(row["prompt_tokens"]),
        "output_tokens": significant(row["output_tokens"]),
        "cv": _burstiness(row),
    }


def _burstiness(row: dict[str, float]) -> float:
    if row["requests"] <= MIN_GAPS or not row["gap_mean"]:
        return 1.0
    return significant(min(max(row["gap_std"] / row["gap_mean"], SMALLEST_CV), LARGEST_CV), 4)


def _provenance(
    trace: Trace, dealing: Dealing, stretch: float, n_requests: int, notes: list[str]
) -> dict[str, str]:
    dealt = (
        "adapters as the trace names them"
        if dealing.n_adapters is None
        else f"each request dealt to one of {dealing.n_adapters} adapters by {dealing.popularity}"
    )
    return {
        "made by": "lorapack fleet from-trace",
        "source": f"{os.path.basename(trace.source)}, {n_requests} requests",  # noqa: PTH119
        "rule": f"{dealt}; ranks drawn {dealing.ranks}; time stretched by {significant(stretch)}; "
        f"rates, mean lengths and cv of the gaps measured (cv with over {MIN_GAPS} gaps, else 1)",
        "seed": str(dealing.seed),
        **({"notes": "; ".join(notes)} if notes else {}),
    }
