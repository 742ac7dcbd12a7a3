"""Plots of simulated against measured, one file a metric: what ``validate --plot`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lorapack.errors import MissingPackageError
from lorapack.fidelity.validate import LEVELS, METRICS, UNSTARVED_ONLY

COLOURS = {
    "light": "#0072b2",
    "slot-bound": "#e69f00",
    "kv-bound": "#d55e00",
    "compute-bound": "#009e73",
}
"""One colour a regime, told apart by every eye (Okabe and Ito)."""

TITLES = {
    "throughput": "Throughput, tokens/s",
    "requests": "Completed requests",
    "itl": "Mean time between tokens, ms",
    "tpot": "Mean time per output token, ms",
    "ttft": "Mean time to first token, ms (runs not starved)",
    "ttft_p50": "Median time to first token, ms (runs not starved)",
    "mean_running": "Mean running requests",
    "kv_usage": "Mean KV use, fraction",
    "preemptions": "Preemptions",
}


def plot_validation(rows: pl.DataFrame, folder: Path) -> list[Path]:
    """Writes one plot a metric.

    Args:
        rows: ``Validation.rows``.
        folder: Where to; made if it is not there.

    Returns:
        The files.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure_of = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    ran = rows.filter((pl.col("out_of_memory") == 0) & pl.col("simulated_starts"))
    files = []
    for metric, (simulated, measured) in {**METRICS, **LEVELS}.items():
        shown = ran.filter(~pl.col("starved")) if metric in UNSTARVED_ONLY else ran
        if measured not in shown.columns:
            continue
        figure = figure_of(figsize=(5.2, 5.0), layout="constrained")
        axes = figure.add_subplot()
        for regime, colour in COLOURS.items():
            some = shown.filter(pl.col("regime") == regime)
            axes.plot(
                some[measured].to_numpy(),
                some[simulated].to_numpy(),
                ".",
                color=colour,
                label=f"{regime} ({some.height})",
                markersize=4,
                alpha=0.7,
            )
        _finish(axes, shown, measured, simulated)
        axes.set_title(TITLES[metric], fontsize=10)
        axes.legend(fontsize=8)
        files.append(folder / f"{metric}.svg")
        figure.savefig(files[-1], metadata={"Date": None})
    return files


def plot_slots(rows: pl.DataFrame, folder: Path, n: int = 3) -> Path:
    """Writes throughput against slots, measured and simulated, for the fleets they move most.

    Args:
        rows: ``Validation.rows``.
        folder: Where to; made if it is not there.
        n: Fleets a model.
    """
    figure_of = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    simulated, measured = METRICS["throughput"]
    ran = rows.filter((pl.col("out_of_memory") == 0) & pl.col("simulated_starts"))
    models = sorted(ran["model"].unique())
    figure = figure_of(figsize=(5.0 * len(models), 3.6), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        fleets = [
            frame.sort("max_loras")
            for _, frame in ran.filter(pl.col("model") == model).group_by(
                "case", "n_adapters", maintain_order=True
            )
        ]
        for frame, colour in zip(
            sorted(fleets, key=lambda frame: -float(np.ptp(frame[measured].to_numpy())))[:n],
            COLOURS.values(),
            strict=False,
        ):
            slots = frame["max_loras"].to_numpy()
            first = frame.row(0, named=True)
            label = f"{first['n_adapters']} adapters, rates {first['adapter_rates_rps']}"
            axes.plot(slots, frame[measured].to_numpy(), "o", color=colour, ms=4, label=label)
            axes.plot(slots, frame[simulated].to_numpy(), "-", color=colour, lw=1.2)
        axes.set(xlabel="LoRA slots (max_loras)", ylabel="throughput, tokens/s")
        axes.set_ylim(bottom=0)
        axes.set_title(f"{model}: measured (points), simulated (lines)", fontsize=9)
        axes.legend(fontsize=7)
    file = folder / "slots.svg"
    figure.savefig(file, metadata={"Date": None})
    return file


def plot_trajectories(paired: pl.DataFrame, folder: Path, n: int = 6) -> Path:
    """Writes running, waiting and KV use along a few runs spread over the campaign."""
    from lorapack.fidelity.replay import RUN_KEYS
    from lorapack.fidelity.trajectories import SIGNALS

    figure_of = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    runs = [frame for _, frame in paired.group_by(RUN_KEYS, maintain_order=True)]
    chosen = [runs[i] for i in np.linspace(0, len(runs) - 1, min(n, len(runs))).astype(int)]
    figure = figure_of(figsize=(10, 2.1 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), len(SIGNALS), squeeze=False)
    for row, frame in zip(grid, chosen, strict=True):
        for axes, signal in zip(row, SIGNALS, strict=True):
            for side, colour in (("measured", "#000000"), ("simulated", "#d55e00")):
                axes.plot(
                    frame["minute"], frame[f"{side}_{signal}"], color=colour, lw=1, label=side
                )
            axes.set_ylim(bottom=0)
            axes.set_title(signal, fontsize=8)
            axes.tick_params(labelsize=7)
        first = frame.row(0, named=True)
        row[0].set_ylabel(
            f"{first['model'][:5]} {first['max_loras']} slots\n{first['n_adapters']} adapters",
            fontsize=7,
        )
    grid[0][0].legend(fontsize=7)
    file = folder / "trajectories.svg"
    figure.savefig(file, metadata={"Date": None})
    return file


def _finish(axes: Any, shown: pl.DataFrame, measured: str, simulated: str) -> None:  # noqa: ANN401
    """Both axes alike and logarithmic, the diagonal and 10 % to either side of it."""
    both = np.concatenate([shown[measured].to_numpy(), shown[simulated].to_numpy()])
    both = both[np.isfinite(both.astype(np.float64)) & (both > 0)]
    low, high = (both.min() * 0.9, both.max() * 1.1) if both.size else (0.1, 1.0)
    line = np.array([low, high])
    axes.plot(line, line, color="#000000", lw=0.8)
    for factor in (0.9, 1.1):
        axes.plot(line, line * factor, color="#999999", lw=0.6, ls="--")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="measured", ylabel="simulated")


def _matplotlib() -> Any:  # noqa: ANN401 - matplotlib's Figure class, imported late
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("plots", "matplotlib", "plot") from error
    mpl.rcParams["svg.hashsalt"] = "lorapack"
    return Figure
