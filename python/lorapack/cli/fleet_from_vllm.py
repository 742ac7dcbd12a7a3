"""``lorapack fleet from-vllm``."""

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


@click.command("from-vllm")
@click.argument("server")
@click.option(
    "--metrics",
    multiple=True,
    metavar="FILE",
    help="Saved scrapes, the earlier first; for a URL they are fetched.",
)
@click.option(
    "--window",
    metavar="SECONDS",
    type=float,
    help="Between the two scrapes (60 for a URL), or since the start for one saved scrape.",
)
@click.option(
    "--popularity",
    default="uniform",
    show_default=True,
    metavar="LAW",
    help="How requests fall on adapters: uniform, zipf:S or lognormal:SIGMA.",
)
@click.option(
    "--base-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the requests that asks the base model.",
)
@rank_option
@known_ranks_option
@fleet_output
@common_options
def from_vllm(
    server: str,
    metrics: tuple[str, ...],
    window: float | None,
    popularity: str,
    base_share: float,
    ranks: str,
    ranks_from: Path | None,
    output: Path | None,
    force: bool,
    out: Printer,
    seed: int,
) -> None:
    """List a running vLLM's adapters and split its totals among them.

    SERVER is http://host:port, or a saved answer of /v1/models together with --metrics. Adapters
    that run or wait unlisted are added. vLLM counts nothing per adapter: the split is an
    assumption, and the fleet's header says which.

    Example: lorapack fleet from-vllm http://localhost:8000 --popularity zipf:1 -o fleet.csv
    """
    from lorapack.fleet.draw import Popularity
    from lorapack.fleet.from_vllm import fleet_from_vllm, read_models
    from lorapack.fleet.read import FORMATS
    from lorapack.fleet.scrape import is_url, read_window

    refuse_early(output, FORMATS, force=force)
    law, rule = Popularity.parse(popularity), ranks_of(ranks, ranks_from)
    if is_url(server):
        root = server.rstrip("/").removesuffix("/v1")
        models, scrapes = read_models(f"{root}/v1/models"), metrics or (f"{root}/metrics",)
    else:
        models, scrapes = read_models(server), metrics
    if not scrapes:
        raise InputError(server, "--metrics", None, "give one or two saved scrapes of /metrics")
    seen = read_window(scrapes, window)
    fleet, notes = fleet_from_vllm(models, seen, rule, law, base_share=base_share, seed=seed)
    deliver(fleet, output, out, force=force, notes=notes, files={"file": output})
