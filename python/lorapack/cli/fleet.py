"""``lorapack fleet``: the group, and ``show``; each other command has a file of its own."""

from __future__ import annotations

from pathlib import Path

import click

from lorapack.cli.fleet_from_clients import from_clients
from lorapack.cli.fleet_from_gateway import from_gateway
from lorapack.cli.fleet_from_peft import from_peft
from lorapack.cli.fleet_from_trace import from_trace
from lorapack.cli.fleet_from_vllm import from_vllm
from lorapack.cli.fleet_output import summary, summary_text
from lorapack.cli.group import Group
from lorapack.cli.output import INPUT_FILE, Printer, common_options


@click.group(cls=Group)
def command() -> None:
    """Make and inspect fleets.

    A fleet is one row an adapter: its name, rank and request rate, perhaps lengths and burstiness.
    CSV, Parquet, JSON and TOML are read and written, by the file name's suffix.
    """


@command.command()
@click.argument("fleet", type=INPUT_FILE)
@common_options
def show(fleet: Path, out: Printer, seed: int) -> None:  # noqa: ARG001 - nothing is drawn
    """Say what is in FLEET.

    Example: lorapack fleet show examples/fleet.csv
    """
    from lorapack.fleet.fleet import Fleet

    found = Fleet.read(fleet)
    out.result({"file": fleet, **summary(found)}, *summary_text(found))


for maker in (from_trace, from_clients, from_peft, from_gateway, from_vllm):
    command.add_command(maker)
