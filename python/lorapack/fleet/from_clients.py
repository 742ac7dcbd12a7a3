"""Production clients become adapters: a client's rate, burstiness and lengths, scaled to one GPU.

A client of ServeGen is the nearest public thing to an adapter of a multi-tenant fleet. N of them
are drawn with a seed (past the last one, again and again), their rates scaled by one factor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lorapack.errors import InputError
from lorapack.fleet.adapter import (
    LARGEST_CV,
    LARGEST_RATE_RPS,
    LARGEST_TOKENS,
    SMALLEST_CV,
    assemble,
)
from lorapack.fleet.draw import RankMix, significant, stream
from lorapack.fleet.fleet import Fleet
from lorapack.trace.servegen import Clients

RATES = ("mean", "peak", "busiest", "hour:N")
"""Which rate a client counts with: over all time, in its own peak hour, in the hour in which all
clients together send most, or in a given hour."""

LENGTHS = ("lognormal", "means")
"""A client's own spread of lengths, or only its means (then the profile's joint shape applies)."""

_Z_90 = 1.2815515655446004
"""The standard normal's 0.9 quantile: p10 and p90 lie this many sigmas from the median."""

_LARGEST_SIGMA = 5.0


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The rule by which clients become adapters.

    Attributes:
        n_adapters: How many; ``None`` takes each client once.
        ranks: Which ranks they have.
        rates: One of :data:`RATES`.
        scale: Factor on all rates; ``None`` chooses it by ``hottest_rps``.
        hottest_rps: What the busiest adapter drawn is scaled to, requests per second.
        lengths: One of :data:`LENGTHS`.
        seed: Of everything drawn.
    """

    n_adapters: int | None
    ranks: RankMix
    rates: str = "peak"
    scale: float | None = None
    hottest_rps: float = 4.0
    lengths: str = "lognormal"
    seed: int = 0


def fleet_from_clients(clients: Clients, drawing: Drawing) -> tuple[Fleet, tuple[str, ...]]:
    """Draws clients and makes them adapters.

    Args:
        clients: Production clients.
        drawing: The rule.

    Returns:
        The fleet, with the rule in its provenance, and notes, one sentence each.

    Raises:
        InputError: The rule cannot be used on these clients.
    """
    _check(drawing)
    rates, rates_rule = _rates(clients, drawing.rates)
    frame, borrowed = with_lengths(clients.frame.with_columns(rates.alias("rate_rps")))
    drawn, names = _drawn(frame, drawing)
    scale = _scale(clients.source, drawn["rate_rps"], drawing)
    scaled = [significant(rate * scale) for rate in drawn["rate_rps"]]
    if max(scaled) > LARGEST_RATE_RPS:
        raise InputError(None, "scale", scale, f"keep rates under {LARGEST_RATE_RPS:g}/s")
    cv, clipped = _burstiness(drawn)
    columns: dict[str, Sequence[object]] = {
        "adapter": names,
        "rank": drawing.ranks.draw(len(names), stream(drawing.seed, "ranks")),
        "rate_rps": scaled,
        "cv": cv,
        "gaps": drawn["gaps"].to_list(),
        **_lengths(drawn, drawing.lengths),
    }
    notes = []
    if borrowed:
        notes.append(f"{borrowed} clients without lengths take those of the one nearest in rate")
    if clipped:
        notes.append(f"{clipped} cv values moved into {SMALLEST_CV:g}..{LARGEST_CV:g}")
    if idle := scaled.count(0.0):
        notes.append(f"{idle} of {len(scaled)} adapters have a rate of 0 by this rule")
    provenance = {
        "made by": "lorapack fleet from-clients",
        "source": f"{Path(clients.source).name}, {clients.frame.height} clients",
        "rule": f"{len(names)} clients drawn ({_turns(len(names), clients.frame.height)}); "
        f"{rates_rule}, scaled by {significant(scale)}; ranks drawn {drawing.ranks}; cv and family "
        f"of the gaps as measured; lengths {drawing.lengths}",
        "seed": str(drawing.seed),
        **({"notes": "; ".join(notes)} if notes else {}),
    }
    return Fleet(assemble(columns), provenance), tuple(notes)


def with_lengths(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Gives clients without lengths those of another.

    The rule: the client nearest in mean rate (by its logarithm), of the same pool if that has any
    (a client's pool is its name up to the last dash); of two as near, the earlier one.

    Args:
        frame: Clients.

    Returns:
        All clients with lengths, and how many had to borrow.

    Raises:
        InputError: No client has any.
    """
    rows = frame.to_dicts()
    known = [
        row for row in rows if row["input_mean"] is not None and row["output_mean"] is not None
    ]
    if not known:
        raise InputError(None, "clients", None, "give the lengths of at least one client")
    sides = [name for name in frame.columns if name.startswith(("input_", "output_"))]
    borrowed = 0
    for row in rows:
        if row["input_mean"] is None or row["output_mean"] is None:
            lender = _nearest(row, known)
            row.update({name: lender[name] for name in sides})
            borrowed += 1
    return pl.DataFrame(rows, schema=frame.schema), borrowed


def _nearest(row: dict[str, object], known: list[dict[str, object]]) -> dict[str, object]:
    def pool(client: dict[str, object]) -> str:
        return str(client["client"]).rpartition("-")[0]

    def log_rate(client: dict[str, object]) -> float:
        return math.log(max(float(str(client["mean_rate_rps"])), 1e-9))

    near = [other for other in known if pool(other) == pool(row)] or known
    return min(near, key=lambda other: abs(log_rate(other) - log_rate(row)))


def _check(drawing: Drawing) -> None:
    if drawing.n_adapters is not None and drawing.n_adapters < 1:
        raise InputError(None, "adapters", drawing.n_adapters, "give 1 or more")
    if drawing.lengths not in LENGTHS:
        raise InputError(None, "lengths", drawing.lengths, f"give {' or '.join(LENGTHS)}")
    if drawing.scale is not None and not 0 < drawing.scale < math.inf:
        raise InputError(None, "scale", drawing.scale, "give a positive factor")
    if not 0 < drawing.hottest_rps < math.inf:
        raise InputError(None, "hottest-rps", drawing.hottest_rps, "give requests per second")


def _rates(clients: Clients, rule: str) -> tuple[pl.Series, str]:
    """Each client's rate by the rule, and the rule in words."""
    if rule == "mean":
        return clients.frame["mean_rate_rps"], "mean rates over all time"
    if rule == "peak":
        return clients.frame["peak_hour_rate_rps"], "each client's rate in its own peak hour"
    word, _, hour_text = rule.partition(":")
    if word not in ("hour", "busiest") or (word == "busiest") != (hour_text == ""):
        raise InputError(None, "rates", rule, f"give {', '.join(RATES)}")
    if clients.hourly is None:
        raise InputError(clients.source, "rates", rule, "give the hourly rates' file, or use peak")
    totals = clients.hourly.group_by("hour").agg(pl.col("rate_rps").sum()).sort("hour")
    hours = totals["hour"].to_list()
    if word == "busiest":
        hour = int(totals.sort("rate_rps", descending=True, maintain_order=True)["hour"][0])
        said = f"rates in hour {hour}, in which all clients together send most"
    elif hour_text.isdecimal() and int(hour_text) in hours:
        hour, said = int(hour_text), f"rates in hour {hour_text}"
    else:
        raise InputError(None, "rates", rule, f"give an hour from {hours[0]} to {hours[-1]}")
    then = clients.hourly.filter(pl.col("hour") == hour).select("client", "rate_rps")
    joined = clients.frame.select("client").join(
        then, on="client", how="left", maintain_order="left"
    )
    return joined["rate_rps"].fill_null(0.0), said


def _drawn(frame: pl.DataFrame, drawing: Drawing) -> tuple[pl.DataFrame, list[str]]:
    """Clients in a drawn order, as many as wanted; who comes again gets a number."""
    n_clients = frame.height
    wanted = n_clients if drawing.n_adapters is None else drawing.n_adapters
    random = stream(drawing.seed, "clients")
    order: list[int] = []
    while len(order) < wanted:
        order += [int(index) for index in random.permutation(n_clients)]
    order = order[:wanted]
    turns = [number // n_clients for number in range(wanted)]
    drawn = frame[order]
    names = [
        f"{client}-copy{turn + 1}" if turn else client
        for client, turn in zip(drawn["client"], turns, strict=True)
    ]
    return drawn, names


def _turns(n_adapters: int, n_clients: int) -> str:
    if n_adapters <= n_clients:
        return f"of {n_clients}, none twice"
    return f"of {n_clients}, each again and again, every time in a new order"


def _scale(source: str, rates: pl.Series, drawing: Drawing) -> float:
    hottest = max(rates)
    if not hottest > 0:
        raise InputError(source, "rates", drawing.rates, "choose another: all rates drawn are 0")
    return drawing.scale if drawing.scale is not None else drawing.hottest_rps / float(hottest)


def _burstiness(drawn: pl.DataFrame) -> tuple[list[float], int]:
    clipped = drawn["cv"].clip(SMALLEST_CV, LARGEST_CV)
    moved = int((clipped != drawn["cv"]).sum())
    return [significant(cv, 4) for cv in clipped], moved


def _lengths(drawn: pl.DataFrame, rule: str) -> dict[str, Sequence[object]]:
    means: dict[str, Sequence[object]] = {
        f"{ours}_tokens": [
            significant(min(max(mean, 1.0), LARGEST_TOKENS)) for mean in drawn[f"{theirs}_mean"]
        ]
        for ours, theirs in (("prompt", "input"), ("output", "output"))
    }
    if rule == "means":
        return means
    return {
        **means,
        "lengths": ["lognormal"] * drawn.height,
        "prompt_sigma": _sigmas(drawn, "input"),
        "output_sigma": _sigmas(drawn, "output"),
    }


def _sigmas(drawn: pl.DataFrame, side: str) -> list[float]:
    """The lognormal's sigma from the middle 80 %: ln(p90 / p10) over twice the 0.9 quantile."""
    sigmas = []
    for low, high in drawn.select(f"{side}_p10", f"{side}_p90").iter_rows():
        spread = 0.0 if low is None or high is None else math.log(max(high, 1) / max(low, 1))
        sigmas.append(significant(min(max(spread, 0.0) / (2 * _Z_90), _LARGEST_SIGMA), 4))
    return sigmas
