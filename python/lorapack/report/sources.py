"""What a report is made of, told apart by content and not by file name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapack.errors import InputError
from lorapack.fidelity.validate import METRICS
from lorapack.packer.plan import Plan
from lorapack.report.checks import curve_of, methods_of, numbers_in
from lorapack.report.figures.frontier import COLUMNS as FRONTIER
from lorapack.sweep.store import MANIFEST, scan_sweep

if TYPE_CHECKING:
    import polars as pl

_TABLES = (".parquet", ".csv")
_KNOWN = (
    "give a plan, what `compare`, `maxpack` or `validate` wrote with --json, or rows of validate"
)


@dataclass
class Sources:
    """What was found.

    Attributes:
        plan: The plan, if there is one.
        comparison: Rows of `lorapack compare --json`: `methods`.
        maxpacks: Answers of `lorapack maxpack --json`, by the name of their file.
        validations: Answers of `lorapack validate --json`, by the name of their file.
        rows: Runs of `lorapack validate --rows`: measured and simulated, side by side. Bare
            measured runs (columns of `data/vllm-h100/serving_runs.csv`) are replayed for it.
        sweep: Scenarios of `lorapack sweep`, one row each.
    """

    plan: Plan | None = None
    comparison: Sequence[Mapping[str, Any]] = ()
    maxpacks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    validations: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: pl.DataFrame | None = None
    sweep: pl.DataFrame | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was found that could be drawn."""
        return (
            self.plan is None
            and not self.comparison
            and not self.maxpacks
            and not self.validations
            and self.rows is None
            and self.sweep is None
        )


def read_sources(paths: Iterable[Path]) -> Sources:
    """Reads files and folders.

    Args:
        paths: Plans, JSON that other commands printed, Parquet or CSV of runs, or folders of these.

    Returns:
        What they hold.

    Raises:
        InputError: A file named outright holds nothing that a report can show, or nothing at all
            was found.
    """
    sources = Sources()
    for path in paths:
        if path.is_dir():
            _read_folder(path, sources)
        elif not _read_file(path, sources):
            raise InputError(path, "content", None, _KNOWN)
    if sources.empty:
        raise InputError("report", "sources", None, _KNOWN)
    return sources


def _read_folder(folder: Path, sources: Sources) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", *_TABLES):
            _read_file(path, sources)
    if (folder / MANIFEST).is_file():
        sources.sweep = scan_sweep(folder).collect()


def _read_file(path: Path, sources: Sources) -> bool:
    """Whether the file held anything known."""
    if path.suffix in _TABLES:
        return _take_table(path, _table(path), sources)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(path, "JSON", str(error), _KNOWN) from error
    return isinstance(document, dict) and _take_object(path, document, sources)


def _take_object(path: Path, document: Mapping[str, Any], sources: Sources) -> bool:
    if isinstance(document.get("gpus"), list):
        if sources.plan is not None:
            raise InputError(path, "gpus", None, "is a second plan: give one plan a report")
        sources.plan = Plan.from_dict(document, file=str(path))
    elif isinstance(document.get("methods"), list):
        sources.comparison = methods_of(path, document["methods"])
    elif isinstance(document.get("curve"), list):
        sources.maxpacks[path.stem] = curve_of(path, document)
    elif isinstance(document.get("throughput"), dict) and "n_runs" in document:
        sources.validations[path.stem] = document
    else:
        return False
    return True


def _table(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(path, "table", str(error), "give a Parquet or CSV file") from error


def _replayed(path: Path) -> pl.DataFrame:
    """Measured runs with the twin's own figures beside them, one replay each."""
    from lorapack.fidelity.replay import read_runs
    from lorapack.fidelity.validate import validate
    from lorapack.profile.profile import Profile

    profiles = [Profile.load(name) for name in Profile.names()]
    return validate(read_runs(path), profiles, seeds=1).rows


def _take_table(path: Path, frame: pl.DataFrame, sources: Sources) -> bool:
    columns = set(frame.columns)
    if {"simulated_tps", "measured_tps"} <= columns:
        pairs = [name for pair in METRICS.values() for name in pair]
        sources.rows = numbers_in(path, frame, pairs)
    elif {"adapter_rates_rps", "mean_ttft_ms", "max_loras"} <= columns:
        sources.rows = _replayed(path)
    elif {"served_fraction", "max_loras"} <= columns:
        sources.sweep = numbers_in(path, frame, FRONTIER)
    else:
        return False
    return True
