"""`lorapack report`: a plan and its evidence as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorapack.cli.output import OUTPUT_FILE, Printer, common_options, force_option

if TYPE_CHECKING:
    from lorapack.report.sources import Sources
    from lorapack.report.timeline import Timeline


@click.command("report", epilog="Example: lorapack report plan.json compare.json -o report.html")
@click.argument(
    "sources",
    metavar="plan.json|DIR|RUNS...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@click.option(
    "-o",
    "--output",
    type=OUTPUT_FILE,
    default=Path("report.html"),
    show_default=True,
    help="The page to write.",
)
@click.option(
    "--timeline",
    "timeline_s",
    type=click.FloatRange(0, 86_400),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Simulate one GPU that long for its timeline; 0: none.",
)
@click.option("--gpu", help="The GPU of the timeline.  [default: the one with the least margin]")
@force_option
@common_options
def command(
    sources: tuple[Path, ...],
    output: Path,
    timeline_s: float,
    gpu: str | None,
    force: bool,
    out: Printer,
    seed: int,
) -> None:
    """Draw a plan as one page.

    Takes a plan and whatever stands beside it: the JSON of compare, maxpack and validate, the rows
    of validate, a sweep's folder, measured runs. The page needs no network.
    """
    from lorapack.atomic_file import refuse_to_overwrite, write_text
    from lorapack.errors import InputError, MissingPackageError

    refuse_to_overwrite(output, force=force)
    try:
        from lorapack.report import page, read_sources
    except ModuleNotFoundError as error:
        raise MissingPackageError("the report", str(error.name), "report") from error
    with out.progress("reading"):
        found = read_sources(sources)
    line = _timeline(found, timeline_s, gpu, seed)
    html = page.render(found, line)
    if len(html.encode()) > page.LARGEST_BYTES:
        raise InputError(output, "size", len(html), "more than a page holds: give fewer sources")
    write_text(output, html, force=force)
    out.result({"file": output, "bytes": len(html.encode())}, str(output))


def _timeline(found: Sources, duration_s: float, gpu: str | None, seed: int) -> Timeline | None:
    from lorapack.errors import InputError, did_you_mean
    from lorapack.report import timeline

    plan = found.plan
    if plan is None or duration_s == 0 or not plan.gpus:
        return None
    if gpu is None:
        return timeline.simulated(plan, timeline.busiest(plan), duration_s, seed)
    by_name = {one.gpu: one for one in plan.gpus}
    if gpu not in by_name:
        raise InputError(None, "--gpu", gpu, did_you_mean(gpu, by_name))
    return timeline.simulated(plan, by_name[gpu], duration_s, seed)
