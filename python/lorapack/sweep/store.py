"""A sweep on disk: one Parquet file a chunk of scenarios, and a manifest; and how to read it.

::

    DIR/sweep.json                      what is run: the definition's tables, its hash, the chunking
    DIR/scenarios/part-00000.parquet    a row a scenario
    DIR/adapters/part-00000.parquet     a row an adapter of each scenario, if asked for

Every file is written under another name and renamed, a chunk's scenarios last: a chunk whose file
is there is done, whatever killed the process when. Nothing in a file tells how long it took.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from lorapack.atomic_file import atomic_file, write_text
from lorapack.errors import InputError
from lorapack.sweep.grid import Refused, Sweep

if TYPE_CHECKING:
    from lorapack.twin.result import Result
    from lorapack.twin.scenario import Scenario

MANIFEST = "sweep.json"
VERSION = 1
"""Of the layout above and of the columns below."""

SCHEMA: dict[str, pl.DataType] = {
    "scenario": pl.Int64(),
    "profile": pl.String(),
    "seed": pl.UInt64(),
    "n_adapters": pl.Int64(),
    "rate_rps": pl.Float64(),
    "starts": pl.Boolean(),
    "refusal": pl.String(),
    "max_loras": pl.Int64(),
    "max_lora_rank": pl.Int64(),
    "max_cpu_loras": pl.Int64(),
    "max_num_seqs": pl.Int64(),
    "max_num_batched_tokens": pl.Int64(),
    "kv_cache_tokens": pl.Int64(),
    "duration_s": pl.Float64(),
    "warmup_s": pl.Float64(),
    "warm": pl.Boolean(),
    "offered": pl.Int64(),
    "offered_tps": pl.Float64(),
    "dropped": pl.Int64(),
    "completed": pl.Int64(),
    "unfinished": pl.Int64(),
    "input_tokens": pl.Int64(),
    "output_tokens": pl.Int64(),
    "served_fraction": pl.Float64(),
    "throughput_tps": pl.Float64(),
    "starved": pl.Boolean(),
    "least_served_fraction": pl.Float64(),
    "starved_adapters": pl.Int64(),
    "ttft_mean_ms": pl.Float64(),
    "ttft_p50_ms": pl.Float64(),
    "ttft_p99_ms": pl.Float64(),
    "ttft_with_unserved_p99_ms": pl.Float64(),
    "tpot_mean_ms": pl.Float64(),
    "tpot_p99_ms": pl.Float64(),
    "itl_mean_ms": pl.Float64(),
    "itl_p50_ms": pl.Float64(),
    "itl_p99_ms": pl.Float64(),
    "preemptions": pl.Int64(),
    "adapter_loads": pl.Int64(),
    "disk_loads": pl.Int64(),
    "load_s": pl.Float64(),
    "mean_running": pl.Float64(),
    "max_running": pl.Int64(),
    "mean_waiting": pl.Float64(),
    "max_waiting": pl.Int64(),
    "mean_distinct_adapters": pl.Float64(),
    "kv_usage_mean": pl.Float64(),
    "kv_usage_max": pl.Float64(),
    "makespan_s": pl.Float64(),
    "busy_s": pl.Float64(),
    "simulated_s": pl.Float64(),
    "steps": pl.Int64(),
}
"""Columns of a row; after them come those that the sweep varies, as ``fleet.n_adapters``."""


@dataclass(frozen=True)
class Store:
    """The folder of one sweep.

    Attributes:
        folder: Where it is.
        sweep: What is run.
        chunk: Scenarios a file.
    """

    folder: Path
    sweep: Sweep
    chunk: int

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], sweep: Sweep, chunk: int, *, resume: bool
    ) -> Store:
        """Makes the folder, or takes up the sweep that was begun in it.

        Args:
            folder: Where rows go.
            sweep: What is run.
            chunk: Scenarios a file; what a sweep was begun with stays.
            resume: Whether a sweep that was begun there may be taken up.

        Raises:
            InputError: The folder holds a sweep and ``resume`` is off, or another sweep, or
                something else.
        """
        path = Path(folder)
        manifest = path / MANIFEST
        if not manifest.exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(
                    path, "output", None, "is there and holds no sweep: name a new folder"
                )
            path.mkdir(parents=True, exist_ok=True)
            write_text(manifest, _manifest_text(sweep, chunk))
        elif not resume:
            raise InputError(path, "output", None, "holds a sweep: pass --resume to finish it")
        begun = read_manifest(path)
        if begun["identity"] != sweep.identity:
            mend = "holds another sweep (definition, profile or fleet changed): name a new folder"
            raise InputError(path, "output", None, mend)
        store = cls(path, sweep, int(begun["chunk"]))
        store._sweep_up()
        return store

    @property
    def n_chunks(self) -> int:
        """Files it will have."""
        return -(-len(self.sweep) // self.chunk)

    def indices(self, chunk: int) -> range:
        """Scenarios of a chunk."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, len(self.sweep)))

    def missing(self) -> list[int]:
        """Chunks that are not done."""
        return [i for i in range(self.n_chunks) if not self._part("scenarios", i).exists()]

    def write(self, chunk: int, rows: pl.DataFrame, adapters: pl.DataFrame | None) -> None:
        """Adds a chunk: wholly, or not at all."""
        if adapters is not None:
            _write_parquet(adapters, self._part("adapters", chunk))
        _write_parquet(rows, self._part("scenarios", chunk))

    def _part(self, kind: str, chunk: int) -> Path:
        return self.folder / kind / f"part-{chunk:05d}.parquet"

    def _sweep_up(self) -> None:
        """Removes what a killed process left half written."""
        for kind in ("scenarios", "adapters"):
            if kind == "adapters" and not self.sweep.design.adapters:
                continue
            folder = self.folder / kind
            folder.mkdir(exist_ok=True)
            for temporary in folder.glob(".*.tmp"):
                temporary.unlink(missing_ok=True)


def scan_sweep(folder: str | os.PathLike[str], *, adapters: bool = False) -> pl.LazyFrame:
    """The rows of a sweep, finished or not, in the order of the scenarios.

    Args:
        folder: What ``lorapack sweep -o`` was given.
        adapters: A row an adapter instead of a row a scenario (``[design] adapters = true``).

    Returns:
        A lazy frame: nothing is read before it is collected.

    Raises:
        InputError: There is no sweep, or none with such rows.

    Example:
        >>> import polars as pl
        >>> def starved(folder):
        ...     return scan_sweep(folder).filter(pl.col("starved")).select("scenario", "max_loras")
    """
    path = Path(folder)
    read_manifest(path)
    parts = sorted((path / ("adapters" if adapters else "scenarios")).glob("part-*.parquet"))
    if not parts:
        mend = (
            "holds no such rows: run it with [design] adapters = true" if adapters else "is empty"
        )
        raise InputError(path, "sweep", None, mend)
    return pl.scan_parquet(parts)


def read_sweep_definition(folder: str | os.PathLike[str]) -> Sweep:
    """The definition of the sweep in a folder, as it was run.

    Raises:
        InputError: There is no sweep, or what it refers to has changed since.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    document = {**manifest["document"], "design": manifest["design"]}
    sweep = Sweep.from_document(document, file=manifest["file"])
    if sweep.identity != manifest["identity"]:
        mend = "a profile or fleet that it names has changed since: run the sweep again"
        raise InputError(path, MANIFEST, None, mend)
    return sweep


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sweep's folder.

    Raises:
        InputError: There is none, or none that this version reads.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            folder, MANIFEST, None, "is not there: give a folder of `sweep -o`"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(path, None, None, f"cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise InputError(path, "version", None, "was written by another lorapack: run it again")
    return manifest


def rows_of(
    sweep: Sweep, indices: Sequence[int], outcomes: Sequence[Result | Refused]
) -> pl.DataFrame:
    """One row a scenario, as stored.

    Args:
        sweep: What is run.
        indices: Numbers of the scenarios.
        outcomes: What came of each.
    """
    rows = [
        {"scenario": index, **_figures(outcome)}
        for index, outcome in zip(indices, outcomes, strict=True)
    ]
    frame = pl.DataFrame(rows, schema=SCHEMA)
    points = [sweep.point(index) for index in indices]
    varied = {
        name: [_cell(point[name]) for point in points]
        for name in (points[0] if points else {})
        if name not in SCHEMA
    }
    return frame.with_columns(pl.Series(name, cells) for name, cells in varied.items())


def adapter_rows_of(indices: Sequence[int], outcomes: Sequence[Result | Refused]) -> pl.DataFrame:
    """One row an adapter of each scenario that started."""
    frames = [
        outcome.per_adapter.select(
            pl.lit(index, pl.Int64).alias("scenario"),
            pl.col("adapter").cast(pl.String),
            pl.Series("rate_rps", [adapter.rate_rps for adapter in outcome.scenario.fleet]),
            pl.exclude("adapter"),
        )
        for index, outcome in zip(indices, outcomes, strict=True)
        if not isinstance(outcome, Refused)
    ]
    return pl.concat(frames) if frames else pl.DataFrame({"scenario": []}, {"scenario": pl.Int64})


def _figures(outcome: Result | Refused) -> dict[str, object]:
    if isinstance(outcome, Refused):
        seed = outcome.document.get("seed")
        return {"starts": False, "refusal": outcome.refusal, "seed": seed}
    judged = outcome.per_adapter.filter(pl.col("judged_offered") >= 8)
    return {
        **_inputs(outcome.scenario),
        "starts": True,
        **{name: getattr(outcome, name) for name in _TAKEN},
        "least_served_fraction": judged["served_fraction"].min() if len(judged) else None,
        "starved_adapters": int(judged["starved"].sum()),
        **{
            f"{time}_{which}_ms": getattr(getattr(outcome, f"{time}_ms"), which)
            for time in ("ttft", "tpot", "itl")
            for which in ("mean", "p50", "p99")
            if f"{time}_{which}_ms" in SCHEMA
        },
        "kv_usage_mean": outcome.kv_usage.mean,
        "kv_usage_max": outcome.kv_usage.max,
        "steps": outcome.n_steps,
    }


def _inputs(scenario: Scenario) -> dict[str, object]:
    engine = scenario.engine
    return {
        "profile": scenario.profile.name,
        "seed": scenario.seed,
        "n_adapters": sum(not adapter.is_base for adapter in scenario.fleet),
        "rate_rps": scenario.fleet.rate_rps,
        "duration_s": scenario.duration_s,
        "warmup_s": scenario.warmup_s,
        "warm": scenario.warm,
        **{
            name: getattr(engine, name)
            for name in (
                "max_loras",
                "max_lora_rank",
                "max_cpu_loras",
                "max_num_seqs",
                "max_num_batched_tokens",
                "kv_cache_tokens",
            )
        },
    }


_TAKEN = (
    "offered",
    "offered_tps",
    "dropped",
    "completed",
    "unfinished",
    "input_tokens",
    "output_tokens",
    "served_fraction",
    "throughput_tps",
    "starved",
    "ttft_with_unserved_p99_ms",
    "preemptions",
    "adapter_loads",
    "disk_loads",
    "load_s",
    "mean_running",
    "max_running",
    "mean_waiting",
    "max_waiting",
    "mean_distinct_adapters",
    "makespan_s",
    "busy_s",
    "simulated_s",
)
"""Columns that a result has under the same name."""


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | Mapping) else value


def _manifest_text(sweep: Sweep, chunk: int) -> str:
    design = {key: value for key, value in vars(sweep.design).items() if value is not None}
    manifest = {
        "version": VERSION,
        "identity": sweep.identity,
        "scenarios": len(sweep),
        "chunk": chunk,
        "file": os.fspath(Path(sweep.file).absolute()),
        "design": design,
        "document": sweep.document,
    }
    return json.dumps(manifest, indent=2, default=str) + "\n"


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    with atomic_file(path, force=True) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=True)
