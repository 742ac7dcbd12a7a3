"""What the commands that make fleets share: their options, and how the fleet is handed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorapack.cli.output import INPUT_FILE, OUTPUT_FILE, F, Printer, Table, force_option
from lorapack.errors import InputError

if TYPE_CHECKING:
    from lorapack.fleet.fleet import Fleet
    from lorapack.fleet.usage import Ranks


def fleet_output(function: F) -> F:
    """``-o`` and ``--force``: where the fleet goes (stdout as CSV when not given)."""
    function = force_option(function)
    return click.option(
        "-o",
        "--output",
        type=OUTPUT_FILE,
        help="Write the fleet here (.csv, .parquet, .json, .toml) instead of CSV on stdout.",
    )(function)


def rank_option(function: F) -> F:
    """``--ranks``: the mix that ranks are drawn from."""
    return click.option(
        "--ranks",
        default="8:0.5,16:0.3,32:0.2",
        show_default=True,
        metavar="MIX",
        help="Ranks and their shares.",
    )(function)


def known_ranks_option(function: F) -> F:
    """``--ranks-from``: a fleet whose ranks and paths are taken over by name."""
    return click.option(
        "--ranks-from",
        type=INPUT_FILE,
        help="Take ranks and paths by name from this fleet (from-peft makes one).",
    )(function)


def ranks_of(mix: str, known: Path | None) -> Ranks:
    """The rule that ``--ranks`` and ``--ranks-from`` state."""
    from lorapack.fleet.draw import RankMix
    from lorapack.fleet.fleet import Fleet
    from lorapack.fleet.usage import Ranks

    fleet = None if known is None else Fleet.read(known, need_rates=False)
    return Ranks(RankMix.parse(mix), fleet)


def refuse_early(output: Path | None, suffixes: Sequence[str], *, force: bool) -> None:
    """Refuses an output before any work is done, so that of two files none is written."""
    from lorapack.atomic_file import refuse_to_overwrite

    if output is None:
        return
    if output.suffix.lower() not in suffixes:
        raise InputError(output, "output", output.suffix, f"name it {', '.join(suffixes)}")
    refuse_to_overwrite(output, force=force)


def deliver(
    fleet: Fleet,
    output: Path | None,
    out: Printer,
    *,
    force: bool,
    notes: Sequence[str],
    files: Mapping[str, Path | None],
    more: Mapping[str, object] | None = None,
) -> None:
    """Writes the fleet, or prints it, and says by which rule it was made."""
    from lorapack.fleet.write import csv_text, rows_of

    if output is not None:
        fleet.write(output, force=force)
    for note in notes:
        out.note(f"note: {note}")
    data = {**files, **summary(fleet), "notes": list(notes), **(more or {})}
    if output is not None:
        out.result(data, *summary_text(fleet))
    else:
        out.note(f"rule: {fleet.provenance.get('rule', 'none stated')}")
        out.result({**data, "adapters": rows_of(fleet)}, csv_text(fleet).rstrip("\n"))


def summary(fleet: Fleet) -> dict[str, object]:
    """A fleet's facts, as JSON keys."""
    rates = sorted((adapter.rate_rps for adapter in fleet), reverse=True)
    ranks: dict[int, int] = {}
    for adapter in sorted(fleet, key=lambda adapter: adapter.rank):
        ranks[adapter.rank] = ranks.get(adapter.rank, 0) + 1
    tenth = max(len(rates) // 10, 1)
    return {
        "n_adapters": len(fleet),
        "rate_rps": fleet.rate_rps,
        "hottest_rps": rates[0],
        "top_tenth_share": sum(rates[:tenth]) / fleet.rate_rps if fleet.rate_rps else None,
        "idle_adapters": rates.count(0.0),
        "ranks": ranks,
        "prompt_tokens": _mean(fleet, "prompt_tokens"),
        "output_tokens": _mean(fleet, "output_tokens"),
        "cv": _mean(fleet, "cv"),
        "provenance": dict(fleet.provenance),
    }


def _mean(fleet: Fleet, name: str) -> float | None:
    """The mean over requests, not over adapters; ``None`` when some say nothing."""
    pairs = [(getattr(adapter, name), adapter.rate_rps) for adapter in fleet if adapter.rate_rps]
    if not pairs or any(value is None for value, _ in pairs):
        return None
    return float(sum(value * rate for value, rate in pairs) / sum(rate for _, rate in pairs))


def summary_text(fleet: Fleet) -> list[str | Table]:
    """The same for people."""
    facts = summary(fleet)
    ranks = facts.pop("ranks")
    provenance = facts.pop("provenance")
    assert isinstance(ranks, dict)
    assert isinstance(provenance, dict)
    words = {
        "n_adapters": "adapters",
        "rate_rps": "requests/s in all",
        "hottest_rps": "requests/s of the busiest",
        "top_tenth_share": "share of the busiest tenth",
        "idle_adapters": "adapters with rate 0",
        "prompt_tokens": "mean prompt tokens (of requests)",
        "output_tokens": "mean answer tokens (of requests)",
        "cv": "mean cv of gaps (of requests)",
    }
    rows = [(words[name], value) for name, value in facts.items()]
    made = [f"{key}: {text}" for key, text in provenance.items()]
    return [
        Table("", ["", "fleet"], rows),
        "",
        Table("", ["rank", "adapters"], list(ranks.items())),
        *(["", *made] if made else []),
    ]
