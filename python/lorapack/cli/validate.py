"""``lorapack validate``: hold the twin against measured serving runs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorapack.cli.output import (
    INPUT_FILE,
    OUTPUT_FILE,
    Printer,
    Table,
    common_options,
    force_option,
)
from lorapack.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    import polars as pl

    from lorapack.predictor.predictor import Predictor
    from lorapack.profile.profile import Profile

ROW_FORMATS = (".parquet", ".csv")
"""Suffixes of ``--rows``."""


@click.command(epilog="Example: lorapack validate serving_runs.csv")
@click.argument("runs_path", metavar="RUNS.csv", type=INPUT_FILE)
@click.option(
    "--profile",
    "profile_names",
    multiple=True,
    help="Profile (name or path) for the models it fits; repeatable. Default: all built in.",
)
@click.option(
    "--predictor",
    help="Score this predictor, too (.onnx file or profile's name).",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Replays of a run."
)
@click.option("--jobs", type=click.IntRange(1), help="Threads (default: all cores).")
@click.option(
    "--rows",
    "rows_path",
    type=OUTPUT_FILE,
    help="Keep every run's pair here (.parquet or .csv).",
)
@click.option(
    "--plot",
    "plot_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw simulated against measured, one SVG a metric, into DIR.",
)
@click.option("--timeseries", type=INPUT_FILE, help="Measured polls: compare along the runs, too.")
@force_option
@common_options
def command(
    runs_path: Path,
    profile_names: tuple[str, ...],
    predictor: str | None,
    seeds: int,
    jobs: int | None,
    rows_path: Path | None,
    plot_folder: Path | None,
    timeseries: Path | None,
    force: bool,
    out: Printer,
    seed: int,
) -> None:
    """Hold the twin against measured runs.

    Replays each run of RUNS.csv as it was and reports how far throughput, times, starvation, starts
    and levels are off. A run's profile is chosen by its model column.
    """
    from lorapack.fidelity.replay import profiles_by_model, read_runs
    from lorapack.fidelity.validate import validate
    from lorapack.profile.profile import Profile

    _refuse_early(rows_path, plot_folder, force=force)
    runs = read_runs(runs_path)
    profiles = [Profile.load(name) for name in profile_names or Profile.names()]
    series, model = _series(timeseries), _predictor(predictor)
    started = runs.filter(runs["out_of_memory"] == 0).height
    with out.progress("replaying", total=started * seeds) as advance:
        validation = validate(runs, profiles, seeds=seeds, seed=seed, jobs=jobs, on_done=advance)
    summary = validation.summary()
    if series is not None:
        chosen = profiles_by_model(runs, profiles)
        summary["trajectories"] = _along(runs, chosen, series, seed, jobs, plot_folder, out)
    if model is not None:
        from lorapack.fidelity.predicted import predicted_summary

        summary = {**predicted_summary(validation, model), "twin": summary}
    if rows_path is not None:
        _write_rows(validation.rows, rows_path, force=force)
    if plot_folder is not None:
        from lorapack.fidelity.figures import plot_slots, plot_validation

        summary["plots"] = plot_validation(validation.rows, plot_folder)
        summary["plots"].append(plot_slots(validation.rows, plot_folder))
    out.result(summary, *_text(summary))


def _refuse_early(rows_path: Path | None, plot_folder: Path | None, *, force: bool) -> None:
    """Refuses what could not be written in the end before anything is replayed."""
    from lorapack.atomic_file import refuse_to_overwrite

    if rows_path is not None:
        suffix = rows_path.suffix.lower()
        if suffix not in ROW_FORMATS:
            mend = f"name it {' or '.join(ROW_FORMATS)}"
            raise InputError(rows_path, "--rows", suffix or "no suffix", mend)
        refuse_to_overwrite(rows_path, force=force)
    if plot_folder is not None:
        if find_spec("matplotlib") is None:
            raise MissingPackageError("plots", "matplotlib", "plot")
        from lorapack.fidelity.figures import TITLES

        for name in (*TITLES, "slots", "trajectories"):
            if (file := plot_folder / f"{name}.svg").exists():
                refuse_to_overwrite(file, force=force)


def _write_rows(rows: pl.DataFrame, path: Path, *, force: bool) -> None:
    from lorapack.atomic_file import atomic_file

    with atomic_file(path, force=force) as temporary:
        if path.suffix.lower() == ".csv":
            rows.write_csv(temporary)
        else:
            rows.write_parquet(temporary)


def _series(path: Path | None) -> pl.DataFrame | None:
    if path is None:
        return None
    from lorapack.fidelity.trajectories import read_timeseries

    return read_timeseries(path)


def _predictor(source: str | None) -> Predictor | None:
    if source is None:
        return None
    from lorapack.predictor.predictor import Predictor

    return Predictor.load(source)


def _along(
    runs: pl.DataFrame,
    profiles: dict[str, Profile],
    series: pl.DataFrame,
    seed: int,
    jobs: int | None,
    plot_folder: Path | None,
    out: Printer,
) -> dict[str, Any]:
    from lorapack.fidelity.trajectories import scores, trajectories

    started = runs.filter(runs["out_of_memory"] == 0).to_dicts()
    with out.progress("along the runs", total=len(started)) as advance:
        paired = trajectories(started, profiles, series, seed=seed, jobs=jobs, on_done=advance)
    if plot_folder is not None:
        from lorapack.fidelity.figures import plot_trajectories

        plot_trajectories(paired, plot_folder)
    return scores(paired)


def _text(summary: dict[str, Any]) -> list[str | Table]:
    metrics = ("throughput", "requests", "itl", "tpot", "ttft", "ttft_p50")
    rows = []
    parts = {"all": summary, **summary.get("by_model", {}), **summary.get("by_regime", {})}
    for name, part in parts.items():
        for metric in metrics:
            one = part.get(metric)
            if one:
                rows.append(
                    (name, metric, one["n"], one["mape"], one["smape"], one["median_error"])
                )
    columns = ("runs", "metric", "n", "mape_%", "smape_%", "median_error_%")
    starvation, starts = summary["starvation"], summary["starts"]
    worst = [tuple(row.values()) for row in summary.get("worst", [])]
    head = list(summary["worst"][0]) if worst else []
    return [
        Table("errors", columns, rows),
        f"starvation: macro-F1 {starvation['macro_f1']:.4f} over {starvation['n']} runs; "
        f"starts: {starts['accuracy']:.4f} of {starts['n']} rows "
        f"({starts['refusals']} refusals)",
        Table("furthest off in throughput", head, worst),
    ]
