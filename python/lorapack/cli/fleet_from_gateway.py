"""``lorapack fleet from-gateway``."""

from __future__ import annotations

from pathlib import Path

import click

from lorapack.cli.fleet_output import (
    deliver,
    fleet_output,
    known_ranks_option,
    rank_option,
    ranks_of,
    refuse_early,
)
from lorapack.cli.output import Printer, common_options
from lorapack.errors import InputError


@click.command("from-gateway")
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--window",
    metavar="SECONDS",
    type=float,
    help="Between the two scrapes (60 for a URL), or since the start for one saved scrape.",
)
@click.option("--log", is_flag=True, help="SOURCE is an access log: one JSON object a line.")
@rank_option
@known_ranks_option
@fleet_output
@common_options
def from_gateway(
    sources: tuple[str, ...],
    window: float | None,
    log: bool,
    ranks: str,
    ranks_from: Path | None,
    output: Path | None,
    force: bool,
    out: Printer,
    seed: int,
) -> None:
    """Read each adapter's rate and lengths from a gateway's metrics or access log.

    SOURCES is the URL of the metrics (scraped twice), or one or two saved scrapes, the earlier
    first, of the llm-d router, Envoy AI Gateway or LiteLLM; with --log an access log whose lines
    hold model, usage.prompt_tokens, usage.completion_tokens and a time. A key for the server is
    taken from LORAPACK_API_KEY.

    Example: lorapack fleet from-gateway before.txt after.txt --window 600 -o fleet.csv
    """
    from lorapack.fleet.from_gateway import fleet_from_log, fleet_from_scrape, read_access_log
    from lorapack.fleet.read import FORMATS
    from lorapack.fleet.scrape import read_window

    refuse_early(output, FORMATS, force=force)
    rule = ranks_of(ranks, ranks_from)
    if log:
        if len(sources) != 1:
            raise InputError(None, "SOURCES", ", ".join(sources), "give one access log")
        trace, left_out = read_access_log(sources[0])
        fleet, notes = fleet_from_log(trace, rule, seed=seed, notes=left_out)
    else:
        seen = read_window(sources, window)
        fleet, notes = fleet_from_scrape(seen.grown, seen.seconds, rule, seed=seed)
    deliver(fleet, output, out, force=force, notes=notes, files={"file": output})
