"""The picture of `lorapack compare`: GPUs by method, a bar for each choice of slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorapack.cli.maxpack_plot import figure_of, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lorapack.packer.compare import Compared

COLOURS = {"own": "#9aa5b1", "ours": "#2a6f97"}
"""By whose slots."""

WHOSE = {"own": "its own slots", "ours": "our slots"}
"""The same in words."""


def draw_comparison(rows: Sequence[Compared], path: Path, *, force: bool) -> None:
    """Draws a bar a row, fewest GPUs on top; what is not verified is hatched."""
    placed = sorted((row for row in rows if row.n_gpus is not None), key=_height, reverse=True)
    figure = figure_of((8, 1 + 0.3 * len(placed)))
    axes = figure.add_subplot()
    for place, row in enumerate(placed):
        axes.barh(
            place,
            row.n_gpus,
            color=COLOURS[row.slots],
            hatch="" if row.verified else "///",
            edgecolor="white",
        )
        note = "" if row.verified else f" ({row.failing_gpus} fail)"
        axes.text(row.n_gpus, place, f" {row.n_gpus}{note}", va="center", fontsize="small")
    axes.set_yticks(range(len(placed)), [f"{row.method}, {WHOSE[row.slots]}" for row in placed])
    axes.set_xlabel("GPUs; hatched: not verified")
    axes.margins(x=0.15)
    save(figure, path, force=force)


def _height(row: Compared) -> tuple[int, bool, str, str]:
    return (row.n_gpus or 0, not row.verified, row.method, row.slots)
