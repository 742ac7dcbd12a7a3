"""``lorapack train``: a sweep into a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lorapack.cli.output import OUTPUT_FILE, Printer, Table, common_options, force_option


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=OUTPUT_FILE, help="The model, an .onnx file.")
@click.option("--compare", is_flag=True, help="Learn other kinds of model, too, and tell errors.")
@force_option
@common_options
def command(
    folder: Path, output: Path, compare: bool, force: bool, out: Printer, seed: int
) -> None:
    """Distil a predictor from a sweep.

    FOLDER holds a sweep of one profile. The model's card goes beside it, as .md and .json.

    \b
    Example:
      lorapack sweep training --profile my.toml -o rows
      lorapack train rows -o my.onnx
    """  # noqa: D301 - click's own \b
    from lorapack.predictor.train import Rows, train

    kinds: list[Any] = []

    def judge(learn: Rows, kept_aside: Rows) -> None:
        from lorapack.predictor.compare import compare as compare_kinds

        kinds.extend(compare_kinds(learn, kept_aside, seed, out.note))

    targets = train(
        folder,
        output,
        seed=seed,
        force=force,
        progress=out.note,
        judge=judge if compare else None,
    )
    rows = [
        [target, figure, value]
        for target, figures in targets.items()
        for figure, value in figures.items()
    ]
    tables = [Table("errors on fleets kept aside", ["target", "figure", "value"], rows)]
    told: dict[str, Any] = {"file": output, "targets": targets}
    if kinds:
        told["kinds"] = [asdict(kind) for kind in kinds]
        tables.append(_compared(kinds))
    out.result(told, *tables)


def _compared(kinds: Sequence[Any]) -> Table:
    """Errors of each kind, SMAPE in percent, and what it takes."""
    heads = list(kinds[0].smape)
    return Table(
        "kinds of model, SMAPE on the same fleets",
        ["kind", *heads, "us_a_row", "kB", "learnt_s"],
        [
            [kind.kind, *kind.smape.values(), kind.row_us, kind.size_kb, kind.learnt_s]
            for kind in kinds
        ],
    )
