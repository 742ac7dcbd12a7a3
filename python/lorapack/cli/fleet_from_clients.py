"""``lorapack fleet from-clients``."""

from __future__ import annotations

from pathlib import Path

import click

from lorapack.cli.fleet_output import deliver, fleet_output, rank_option, refuse_early
from lorapack.cli.output import INPUT_FILE, Printer, common_options


@click.command("from-clients")
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

    refuse_early(output, FORMATS, force=force)
    drawing = Drawing(adapters, RankMix.parse(ranks), rates, scale, hottest_rps, lengths, seed)
    fleet, notes = fleet_from_clients(read_clients(clients, hourly), drawing)
    deliver(fleet, output, out, force=force, notes=notes, files={"file": output})
