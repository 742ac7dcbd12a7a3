"""``lorapack validate``: hold the twin against measured serving runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lorapack.cli.output import INPUT_FILE, OUTPUT_FILE, Printer, Table, common_options


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
@click.option("--rows", "rows_path", type=OUTPUT_FILE, help="Keep every run's pair, as Parquet.")
@click.option(
    "--plot",
    "plot_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw simulated against measured, one SVG a metric, into DIR.",
)
@click.option("--timeseries", type=INPUT_FILE, help="Measured polls: compare along the runs, too.")
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
    out: Printer,
    seed: int,
) -> None:
    """Hold the twin against measured runs.

    Replays each run of RUNS.csv as it was and reports how far throughput, times, starvation, starts
    and levels are off. A run's profile is chosen by its model column.
    """
    from lorapack.atomic_file import atomic_file
    from lorapack.fidelity.replay import profiles_by_model, read_runs
    from lorapack.fidelity.validate import validate
    from lorapack.profile.profile import Profile

    runs = read_runs(runs_path)
    profiles = [Profile.load(name) for name in profile_names or Profile.names()]
    started = runs.filter(runs["out_of_memory"] == 0).height
    with out.progress("replaying", total=started * seeds) as advance:
        validation = validate(runs, profiles, seeds=seeds, seed=seed, jobs=jobs, on_done=advance)
    summary = validation.summary()
    if timeseries is not None:
        summary["trajectories"] = _along(
            runs, profiles_by_model(runs, profiles), timeseries, seed, jobs, plot_folder, out
        )
    if predictor is not None:
        from lorapack.fidelity.predicted import predicted_summary
        from lorapack.predictor.predictor import Predictor

        model = Predictor.load(predictor)
        summary = {**predicted_summary(validation, model), "twin": summary}
    if rows_path is not None:
        with atomic_file(rows_path, force=True) as temporary:
            validation.rows.write_parquet(temporary)
    if plot_folder is not None:
        from lorapack.fidelity.figures import plot_slots, plot_validation

        summary["plots"] = plot_validation(validation.rows, plot_folder)
        summary["plots"].append(plot_slots(validation.rows, plot_folder))
    out.result(summary, *_text(summary))


def _along(
    runs: Any,  # noqa: ANN401 - a polars frame, which the command line must not import early
    profiles: dict[str, Any],
    path: Path,
    seed: int,
    jobs: int | None,
    plot_folder: Path | None,
    out: Printer,
) -> dict[str, Any]:
    from lorapack.fidelity.trajectories import read_timeseries, scores, trajectories

    series = read_timeseries(path)
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
