"""``lorapack sweep``: many scenarios to partitioned Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from lorapack.cli.output import Printer, common_options


@click.command()
@click.argument("sweep_path", metavar="SWEEP")
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the rows; new, or with --resume one that was begun.",
)
@click.option("--profile", help="Name or path of a profile, in place of the file's.")
@click.option("--jobs", type=click.IntRange(1), help="Threads (or Ray tasks at a time).")
@click.option(
    "--backend",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This machine, or the Ray cluster at RAY_ADDRESS.",
)
@click.option("--resume", is_flag=True, help="Finish a sweep that was begun.")
@common_options
def command(
    sweep_path: str,
    folder: Path,
    profile: str | None,
    jobs: int | None,
    backend: str,
    resume: bool,
    out: Printer,
    seed: int,
) -> None:
    """Simulate many scenarios into Parquet.

    SWEEP is a SWEEP.toml: the keys of a SCENARIO.toml, each a value, a list or a range, and
    [design]. "training" is the sweep that predictors are trained on.

    A sweep that was stopped, by Ctrl-C or anything else, goes on with --resume.

    \b
    Example:
      lorapack sweep examples/sweep.toml -o rows
      lorapack sweep training --profile my.toml -o rows && lorapack train rows -o my.onnx
    """  # noqa: D301 - click's own \b
    from lorapack.sweep import Sweep, run_sweep

    sweep = Sweep.read(sweep_path, profile=profile, seed=seed)
    with out.progress("simulating", total=len(sweep)) as advance:
        done = run_sweep(sweep, folder, jobs=jobs, resume=resume, backend=backend, progress=advance)
    speed = done.simulated_s / done.wall_s if done.wall_s else 0.0
    out.result(
        {
            "scenarios": done.scenarios,
            "done": done.done,
            "wall_s": done.wall_s,
            "simulated_s": done.simulated_s,
            "folder": folder,
        },
        f"{done.done:,} of {done.scenarios:,} scenarios run in {done.wall_s:.1f} s, "
        f"{speed:,.0f} x real time; rows in {folder}",
    )
