"""The picture of `lorapack maxpack`: throughput against slots, one line a number of adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorapack.atomic_file import atomic_file, refuse_to_overwrite
from lorapack.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from pathlib import Path

    from lorapack.twin.maxpack import CurvePoint, Maxpack

N_LINES = 6
"""Counts of adapters drawn: those with the most trials."""


def check_plot(path: Path, *, force: bool) -> None:
    """Refuses early what `draw_curve` would refuse late.

    Raises:
        InputError: Neither .png nor .svg, or the file is there.
        MissingPackageError: matplotlib is not installed.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError("maxpack", "--plot", str(path), "name a .png or .svg file")
    refuse_to_overwrite(path, force=force)
    _matplotlib()


def draw_curve(found: Maxpack, path: Path, *, force: bool) -> None:
    """Draws served throughput and p99 TTFT against slots; refused starts stand on the axis."""
    figure = figure_of((8, 4.5))
    axes = figure.add_subplot()
    for count, points in _lines(found):
        started = [point for point in points if point.starts]
        axes.plot(
            [point.max_loras for point in started],
            [point.throughput_tps for point in started],
            marker="o",
            markersize=3,
            label=f"{count} adapters",
        )
        refused = [point.max_loras for point in points if not point.starts]
        axes.plot(refused, [0.0] * len(refused), "kx", clip_on=False)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("LoRA slots (max_loras); x: the engine does not start")
    axes.set_ylabel("served tokens per second")
    axes.set_title(
        f"{found.rate_rps:g} requests/s an adapter, rank {found.rank}: "
        f"maxpack {found.maxpack} with {found.max_loras} slots ({found.slo})"
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    save(figure, path, force=force)


def figure_of(inches: tuple[float, float]) -> Any:  # noqa: ANN401 - matplotlib is an extra
    """An empty figure that makes room for its labels."""
    return _matplotlib()(figsize=inches, layout="constrained")


def save(figure: Any, path: Path, *, force: bool) -> None:  # noqa: ANN401 - matplotlib's Figure
    """Writes a figure whole or not at all; the same figure, the same bytes."""
    from matplotlib import rc_context

    # No date, no version, no random names inside.
    unsaid = {".png": "Software", ".svg": "Date"}[path.suffix]
    with (
        rc_context({"svg.hashsalt": "lorapack"}),
        atomic_file(path, force=force) as temporary,
    ):
        figure.savefig(temporary, format=path.suffix[1:], metadata={unsaid: None}, dpi=150)


def _lines(found: Maxpack) -> list[tuple[int, list[CurvePoint]]]:
    by_count: dict[int, list[CurvePoint]] = {}
    for point in found.curve:
        by_count.setdefault(point.adapters, []).append(point)
    drawn = sorted(by_count, key=lambda count: (-len(by_count[count]), -count))[:N_LINES]
    return [(count, by_count[count]) for count in sorted(drawn)]


def _matplotlib() -> Any:  # noqa: ANN401 - matplotlib's Figure, absent without the extra
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("plots", "matplotlib", "plot") from error
    return Figure
