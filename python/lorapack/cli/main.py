"""``lorapack``: the list of commands, each loaded only when it runs.

To add one, write ``cli/<name>.py`` with a click command named ``command`` (its first help sentence
equal to the line here) and add the line. Nothing heavier than click may be imported in this file:
``lorapack --help`` answers in under 150 ms.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

import click

from lorapack.cli.exit import exit_code_of
from lorapack.cli.group import Group

COMMANDS = {
    "pack": "Place a fleet on the fewest GPUs.",
    "simulate": "Replay one GPU serving one fleet.",
    "maxpack": "Find how many adapters one GPU holds, and with how many slots.",
    "memory": "Say where each GiB goes and whether the engine starts.",
    "fleet": "Make and inspect fleets.",
    "profiles": "List, show and estimate engine profiles.",
    "compare": "Put every packing method side by side.",
    "diff": "List the steps from one plan to another.",
    "deploy": "Write the files that start a plan.",
    "report": "Draw a plan as one page.",
    "sweep": "Simulate many scenarios into Parquet.",
    "train": "Distil a predictor from a sweep.",
    "predict": "Ask a predictor.",
    "calibrate": "Fit a profile from measurements.",
    "validate": "Hold the twin against measured runs.",
    "conform": "Replay recordings of a real engine, step by step.",
    "serve": "Answer over HTTP.",
    "doctor": "Check what is installed.",
}
"""Name -> first sentence of its help, in the order shown."""


class Lorapack(Group):
    """The group that imports a command's file when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names the commands that this build has."""
        return [name for name in COMMANDS if find_spec(f"lorapack.cli.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command; ``None`` when there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"lorapack.cli.{cmd_name}").command
        assert isinstance(command, click.Command), f"lorapack.cli.{cmd_name} has no command"
        command.name = cmd_name  # its function is called `command`, like every other file's
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands from :data:`COMMANDS`, importing none."""
        rows = [(name, COMMANDS[name]) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"lorapack {version('lorapack')}")
        ctx.exit()


@click.group(
    cls=Lorapack,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: lorapack pack examples/fleet.csv -o plan.json",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Say how few GPUs serve a fleet of LoRA adapters, and which adapter goes where."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: What follows ``lorapack``; ``None`` takes the process's own.

    Returns:
        The exit code.
    """
    try:
        code = cli.main(args=arguments, prog_name="lorapack", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        mapped = exit_code_of(error)
        if mapped is None:
            raise
        return mapped
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
