"""``lorapack fleet``: make fleets out of traces, clients, adapters and servers; look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorapack.cli.group import Group
from lorapack.cli.output import (
    INPUT_FILE,
    OUTPUT_FILE,
    F,
    Printer,
    Table,
    common_options,
    force_option,
)
from lorapack.errors import InputError

if TYPE_CHECKING:
    from lorapack.fleet.fleet import Fleet


@click.group(cls=Group)
def command() -> None:
    """Make and inspect fleets.

    A fleet is one row an adapter: its name, rank and request rate, perhaps lengths and burstiness.
    CSV, Parquet, JSON and TOML are read and written, by the file name's suffix.
    """


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


@command.command()
@click.argument("fleet", type=INPUT_FILE)
@common_options
def show(fleet: Path, out: Printer, seed: int) -> None:  # noqa: ARG001 - nothing is drawn
    """Say what is in FLEET.

    Example: lorapack fleet show examples/fleet.csv
    """
    from lorapack.fleet.fleet import Fleet

    found = Fleet.read(fleet)
    out.result({"file": fleet, **_summary(found)}, *_summary_text(found))


@command.command("from-trace")
@click.argument("trace", type=INPUT_FILE)
@click.option("--adapters", type=click.IntRange(1), help="How many to deal the requests to.")
@click.option(
    "--popularity",
    default="zipf:1.0",
    show_default=True,
    metavar="LAW",
    help="How unevenly: zipf:S, lognormal:SIGMA or uniform.",
)
@rank_option
@click.option("--stretch", type=float, default=1.0, show_default=True, help="Factor on time.")
@click.option("--rate", type=float, help="Total requests per second wanted; sets the factor.")
@click.option(
    "--max-model-len",
    type=click.IntRange(2),
    help="Context in tokens; longer requests are refused or cut. By default the profile's.",
)
@click.option(
    "--profile", help="Profile whose context applies (a name or a path).", metavar="PROFILE"
)
@click.option(
    "--too-long",
    type=click.Choice(["refuse", "cut"]),
    default="refuse",
    show_default=True,
    help="What happens to a prompt over the context: engines refuse it.",
)
@click.option(
    "--source",
    type=click.Choice(["auto", "generic", "azure", "burstgpt", "mooncake"]),
    default="auto",
    show_default=True,
    help="Which trace this is; told by its columns.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=COLUMN",
    help="For other files: arrival_s=when, prompt_tokens=in, output_tokens=out, adapter=tenant.",
)
@click.option(
    "--trace-out", type=OUTPUT_FILE, help="Write the dealt requests too (.csv, .parquet)."
)
@fleet_output
@common_options
def from_trace(
    trace: Path,
    adapters: int | None,
    popularity: str,
    ranks: str,
    stretch: float,
    rate: float | None,
    max_model_len: int | None,
    profile: str | None,
    too_long: str,
    source: str,
    columns: tuple[str, ...],
    trace_out: Path | None,
    output: Path | None,
    force: bool,
    out: Printer,
    seed: int,
) -> None:
    """Deal the requests of TRACE to adapters and measure each.

    Azure, BurstGPT and Mooncake traces are known by their columns, as is lorapack's own format
    (arrival_s, adapter, prompt_tokens, output_tokens). The rule is written into the fleet's header.

    Example: lorapack fleet from-trace AzureLLMInferenceTrace_conv.csv --adapters 1000 -o fleet.csv
    """
    from lorapack.fleet.draw import Popularity, RankMix
    from lorapack.fleet.from_trace import Dealing, fleet_from_trace
    from lorapack.fleet.read import FORMATS
    from lorapack.trace.trace import FORMATS as TRACE_FORMATS
    from lorapack.trace.trace import Trace

    _refuse_early(output, FORMATS, force=force)
    _refuse_early(trace_out, TRACE_FORMATS, force=force)
    dealing = Dealing(
        n_adapters=adapters,
        popularity=Popularity.parse(popularity),
        ranks=RankMix.parse(ranks),
        stretch=stretch,
        rate_rps=rate,
        max_model_len=max_model_len or _context_of(profile),
        too_long=too_long,
        seed=seed,
    )
    found = Trace.read(trace, source=source, columns=_renames(columns))
    dealt = fleet_from_trace(found, dealing)
    files = {"file": output, "trace_file": trace_out}
    if trace_out is not None:
        dealt.trace.write(trace_out, provenance=dealt.fleet.provenance, force=force)
    _deliver(dealt.fleet, output, out, force=force, notes=dealt.notes, files=files)


@command.command("from-clients")
@click.argument("clients", type=click.Path(exists=True, path_type=Path))
@click.option("--hourly", type=INPUT_FILE, help="hourly_rates.parquet; by default the one beside.")
@click.option("--adapters", type=click.IntRange(1), help="How many to draw; by default each once.")
@rank_option
@click.option(
    "--rates",
    default="peak",
    show_default=True,
    metavar="WHICH",
    help="mean, peak (each in its own peak hour), busiest (the hour of the largest sum), hour:N.",
)
@click.option("--scale", type=float, help="Factor on all rates.")
@click.option(
    "--hottest-rps",
    type=float,
    default=4.0,
    show_default=True,
    help="Without --scale: what the busiest adapter is scaled to, requests per second.",
)
@click.option(
    "--lengths",
    type=click.Choice(["lognormal", "means"]),
    default="lognormal",
    show_default=True,
    help="Each client's own spread, or its means with the profile's shape.",
)
@fleet_output
@common_options
def from_clients(
    clients: Path,
    hourly: Path | None,
    adapters: int | None,
    ranks: str,
    rates: str,
    scale: float | None,
    hottest_rps: float,
    lengths: str,
    output: Path | None,
    force: bool,
    out: Printer,
    seed: int,
) -> None:
    """Draw production clients and make each an adapter.

    CLIENTS is clients.csv, or a folder of ServeGen's own files (chunk-N-trace.csv and
    chunk-N-dataset.json). The rule is written into the fleet's header.

    Example: lorapack fleet from-clients clients.csv --adapters 200 -o fleet.csv
    """
    from lorapack.fleet.draw import RankMix
    from lorapack.fleet.from_clients import Drawing, fleet_from_clients
    from lorapack.fleet.read import FORMATS
    from lorapack.trace.servegen import read_clients

    _refuse_early(output, FORMATS, force=force)
    drawing = Drawing(adapters, RankMix.parse(ranks), rates, scale, hottest_rps, lengths, seed)
    fleet, notes = fleet_from_clients(read_clients(clients, hourly), drawing)
    _deliver(fleet, output, out, force=force, notes=notes, files={"file": output})


def _refuse_early(output: Path | None, suffixes: Sequence[str], *, force: bool) -> None:
    """Refuses an output before any work is done, so that of two files none is written."""
    from lorapack.atomic_file import refuse_to_overwrite

    if output is None:
        return
    if output.suffix.lower() not in suffixes:
        raise InputError(output, "output", output.suffix, f"name it {', '.join(suffixes)}")
    refuse_to_overwrite(output, force=force)


def _context_of(profile: str | None) -> int:
    from lorapack.profile.profile import DEFAULT_PROFILE, Profile

    return Profile.load(profile or DEFAULT_PROFILE).engine.max_model_len


def _renames(columns: Sequence[str]) -> dict[str, str]:
    renames = {}
    for text in columns:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise InputError(None, "--column", text, "write it as arrival_s=when")
        renames[ours] = theirs
    return renames


def _deliver(
    fleet: Fleet,
    output: Path | None,
    out: Printer,
    *,
    force: bool,
    notes: Sequence[str],
    files: Mapping[str, Path | None],
) -> None:
    """Writes the fleet, or prints it, and says by which rule it was made."""
    from lorapack.fleet.write import csv_text, rows_of

    if output is not None:
        fleet.write(output, force=force)
    for note in notes:
        out.note(f"note: {note}")
    data = {**files, **_summary(fleet), "notes": list(notes)}
    if output is not None:
        out.result(data, *_summary_text(fleet))
    else:
        out.note(f"rule: {fleet.provenance.get('rule', 'none stated')}")
        out.result({**data, "adapters": rows_of(fleet)}, csv_text(fleet).rstrip("\n"))


def _summary(fleet: Fleet) -> dict[str, object]:
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


def _summary_text(fleet: Fleet) -> list[str | Table]:
    facts = _summary(fleet)
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
