"""``lorapack fleet from-trace``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from lorapack.cli.fleet_output import deliver, fleet_output, rank_option, refuse_early
from lorapack.cli.output import INPUT_FILE, OUTPUT_FILE, Printer, common_options
from lorapack.errors import InputError


@click.command("from-trace")
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

    refuse_early(output, FORMATS, force=force)
    refuse_early(trace_out, TRACE_FORMATS, force=force)
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
    deliver(dealt.fleet, output, out, force=force, notes=dealt.notes, files=files)


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
