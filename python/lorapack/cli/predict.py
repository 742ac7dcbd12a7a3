"""``lorapack predict``: what a model says of a fleet on one GPU, or of rows of features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorapack.cli.duration import scrape_interval_option
from lorapack.cli.output import (
    INPUT_FILE,
    OUTPUT_FILE,
    Printer,
    Table,
    common_options,
    force_option,
)

if TYPE_CHECKING:
    import polars as pl


@click.command()
@click.argument("path", metavar="FLEET_OR_FEATURES", type=INPUT_FILE)
@click.option(
    "--model", help="An .onnx file, or the name of a profile.  [default: the default profile]"
)
@click.option("--max-loras", type=click.IntRange(0), help="LoRA slots.  [default: the adapters]")
@click.option("--max-lora-rank", type=click.IntRange(1), help="Rank of a slot.  [default: fits]")
@click.option(
    "--kv-cache-tokens", type=click.IntRange(2), help="KV capacity.  [default: by memory]"
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(1.0),
    default=3600.0,
    show_default=True,
    help="Window, seconds.",
)
@click.option("--cold", is_flag=True, help="No adapter was used before.")
@click.option("--max-in-flight", type=click.IntRange(1), help="Cap on requests in the system.")
@scrape_interval_option
@click.option("--features-out", type=OUTPUT_FILE, help="Write the rows of features, as CSV.")
@force_option
@common_options
def command(
    path: Path,
    model: str | None,
    features_out: Path | None,
    force: bool,
    out: Printer,
    seed: int,  # noqa: ARG001 - nothing is drawn
    **setting: Any,  # noqa: ANN401 - click's
) -> None:
    """Ask a predictor.

    A fleet (CSV, Parquet, JSON or TOML) is taken to be on one GPU. A CSV or Parquet file with the
    columns of `lorapack.predictor.features` gives one prediction a row.

    \b
    Example:
      lorapack predict examples/fleet.csv --max-loras 64
    """  # noqa: D301 - click's own \b
    from lorapack.atomic_file import atomic_file
    from lorapack.predictor.predictor import Predictor
    from lorapack.profile.profile import DEFAULT_PROFILE

    predictor = Predictor.load(model or DEFAULT_PROFILE)
    frame = _rows_of_features(path)
    if frame is None:
        frame = _row_of_fleet(predictor, path, **setting)
    predictions = predictor.predict_many(frame.to_numpy())
    if features_out is not None:
        with atomic_file(features_out, force=force) as temporary:
            frame.write_csv(temporary)
    rows = [dict(zip(predictor.targets, row, strict=True)) for row in predictions.tolist()]
    table = [[name, *(row[name] for row in rows[:8])] for name in predictor.targets]
    columns = ["target", *(f"row {i}" if len(rows) > 1 else "value" for i in range(len(rows[:8])))]
    if any(row["out_of_range"] for row in rows):
        out.warn("out of the range of training: ask `lorapack simulate` instead")
    data = rows[0] if len(rows) == 1 else {"predictions": rows}
    out.result({**data, "profile": predictor.profile.name}, Table("", columns, table))


def _rows_of_features(path: Path) -> pl.DataFrame | None:
    """Rows of features, if that is what the file holds."""
    import polars as pl

    from lorapack.errors import InputError
    from lorapack.predictor.features import FEATURE_NAMES

    try:
        match path.suffix.lower():
            case ".csv":
                frame = pl.read_csv(path)
            case ".parquet":
                frame = pl.read_parquet(path)
            case _:
                return None
    except (pl.exceptions.PolarsError, OSError):
        return None  # the fleet's reader says what is wrong, with its line
    if "adapter" in frame.columns or not set(FEATURE_NAMES) & set(frame.columns):
        return None
    for name in FEATURE_NAMES:
        if name not in frame.columns:
            raise InputError(path, f"column {name}", "missing", "add it, in its own unit")
    return frame.select(pl.col(FEATURE_NAMES).cast(pl.Float32))


def _row_of_fleet(
    predictor: Any,  # noqa: ANN401 - imported late
    path: Path,
    *,
    max_loras: int | None,
    max_lora_rank: int | None,
    kv_cache_tokens: int | None,
    duration_s: float,
    cold: bool,
    max_in_flight: int | None,
    scrape_interval_s: float | None,
) -> pl.DataFrame:
    import polars as pl

    from lorapack.fleet.fleet import Fleet
    from lorapack.predictor.features import FEATURE_NAMES, features_of
    from lorapack.twin.scenario import Scenario

    scenario = Scenario(
        predictor.profile,
        Fleet.read(path),
        max_loras=max_loras,
        max_lora_rank=max_lora_rank,
        kv_cache_tokens=kv_cache_tokens,
        duration_s=duration_s,
        warm=not cold,
        max_in_flight=max_in_flight,
        scrape_interval_s=scrape_interval_s,
    )
    return pl.DataFrame(features_of(scenario), schema=list(FEATURE_NAMES))
