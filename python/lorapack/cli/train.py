"""``lorapack train``: a sweep into a predictor."""

from __future__ import annotations

from pathlib import Path

import click

from lorapack.cli.output import OUTPUT_FILE, Printer, Table, common_options, force_option


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=OUTPUT_FILE, help="The model, an .onnx file.")
@force_option
@common_options
def command(folder: Path, output: Path, force: bool, out: Printer, seed: int) -> None:
    """Distil a predictor from a sweep.

    FOLDER holds a sweep of one profile. The model's card goes beside it, as .md and .json.

    \b
    Example:
      lorapack sweep training --profile my.toml -o rows
      lorapack train rows -o my.onnx
    """  # noqa: D301 - click's own \b
    from lorapack.predictor.train import train

    targets = train(folder, output, seed=seed, force=force, progress=out.note)
    rows = [
        [target, figure, value]
        for target, figures in targets.items()
        for figure, value in figures.items()
    ]
    out.result(
        {"file": output, "targets": targets},
        Table("errors on fleets kept aside", ["target", "figure", "value"], rows),
    )
