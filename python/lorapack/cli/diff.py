"""`lorapack diff`: the steps from one plan to another, in a safe order."""

from __future__ import annotations

from pathlib import Path

import click

from lorapack.cli.output import INPUT_FILE, Printer, Table, common_options


@click.command(epilog="Example: lorapack diff plan.json tomorrow.json")
@click.argument("old_path", metavar="OLD", type=INPUT_FILE)
@click.argument("new_path", metavar="NEW", type=INPUT_FILE)
@common_options
def command(
    out: Printer,
    seed: int,  # noqa: ARG001 - every command has one
    old_path: Path,
    new_path: Path,
) -> None:
    """List the steps from one plan to another.

    Load, then drain, then unload: at no time is a request without its adapter. Engines whose
    settings change must be restarted, which is said.
    """
    from lorapack.packer.diff import diff
    from lorapack.packer.plan import Plan

    found = diff(Plan.read(old_path), Plan.read(new_path))
    rows = [
        [number, step.phase, step.gpu, step.adapter, step.share, step.call or step.note]
        for number, step in enumerate(found.steps, start=1)
    ]
    out.result(
        found.to_dict(),
        Table("", ["step", "phase", "gpu", "adapter", "share", "how"], rows),
        f"{found.moves} moves, {len(found.added)} added, {len(found.removed)} removed, "
        f"{len(found.steps)} steps",
    )
