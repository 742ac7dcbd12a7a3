"""``lorapack conform``: replay recordings of a real engine, step by step."""

from __future__ import annotations

from pathlib import Path

import click

from lorapack.cli.output import Printer, Table, common_options
from lorapack.errors import EXIT_DIFFERS


@click.command(epilog="Example: lorapack conform recordings")
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    out: Printer,
    seed: int,  # noqa: ARG001 - common to all commands; nothing is drawn here
) -> None:
    """Replay recordings of a real engine, step by step.

    Reads recordings (JSON lines, plain or gzipped; a PATH may be a folder of them) of scheduling
    decisions and of adapter residency, told apart by their headers, and compares every field of
    every step with what the twin's rules do. Exits 1 if anything differs.
    """
    from lorapack.fidelity.conform import conform, recordings_in

    files = recordings_in(paths)
    with out.progress("replaying", total=len(files)) as advance:
        conformance = conform(files, on_done=lambda _: advance(1))
    found = conformance.to_dict()
    rows = [
        (f"{group} {name}", counts["scenarios"], counts["identical"])
        for group in ("by_kind", "by_version")
        for name, counts in found[group].items()
    ]
    rows.append(("all", found["scenarios"], found["identical"]))
    out.result(found, Table("", ("", "recordings", "identical"), rows))
    for replay in conformance.replays:
        if replay.difference is not None:
            out.note(f"differs: {replay.difference}")
    if not conformance.identical:
        ctx.exit(EXIT_DIFFERS)
