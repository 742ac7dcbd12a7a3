"""One recorded run of an engine: ``NAME_steps.csv.gz`` and its two companions, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.recorded_batch import attention_pairs, context_tokens

Floats = NDArray[np.float64]

STEPS, REQUESTS, SUMMARY = "_steps.csv.gz", "_requests.csv", "_summary.json"
"""Endings of a recording's three files."""

STEP_COLUMNS = (
    "t",
    "dt",
    "t_sched",
    "batch",
    "tokens",
    "prefill_reqs",
    "prefill_tokens",
    "distinct",
    "waiting_after",
    "load",
    "n_load",
    "activate",
    "n_act",
)
"""What a log of steps must have."""

REQUEST_COLUMNS = ("adapter", "rank", "in", "out", "arrival", "first", "done")
"""What a file of requests must have."""

SETTINGS = ("block_size", "max_num_seqs", "max_batched", "max_loras", "max_cpu_loras")
"""What ``args`` of a summary must have."""

IDLE_S = 0.005
"""A gap between two steps above this is idle time, below it the engine's own work."""

WORK = (
    "steps",
    "requests",
    "tokens",
    "context_tokens",
    "mixed_context_tokens",
    "attention_pairs",
    "adapters",
    "disk_loads",
)
"""What a step's price is counted in, in the order of :meth:`Recording.work`."""


@dataclass(frozen=True)
class Recording:
    """One recorded run.

    Attributes:
        name: What its files begin with.
        settings: The ``args`` of its summary.
        kv_cache_blocks: Its KV cache, blocks, the null block counted.
        steps: Its steps.
        requests: Its requests.
    """

    name: str
    settings: Mapping[str, Any]
    kv_cache_blocks: int
    steps: pl.DataFrame
    requests: pl.DataFrame

    @property
    def grouped(self) -> bool:
        """Whether it ran the kernel that the profile is of."""
        return bool(self.settings.get("grouped"))

    @property
    def lora(self) -> bool:
        """Whether LoRA was on; if not, its requests' adapters say nothing."""
        return not self.settings.get("no_lora", False)

    @property
    def makespan_s(self) -> float:
        """When the last request was done, seconds."""
        return float(self.requests["done"].to_numpy().max())

    @property
    def mean_ttft_ms(self) -> float:
        """From a request's arrival to its first token, milliseconds."""
        return float((self._request("first") - self._request("arrival")).mean() * 1e3)

    def step_ms(self) -> Floats:
        """Time of each step, the engine's own work until the next one included, milliseconds."""
        start, took = self._step("t"), self._step("dt")
        gap = np.append(start[1:] - start[:-1] - took[:-1], 0.0)
        return (took + np.where(gap < IDLE_S, gap, 0.0)) * 1e3

    def scheduler_ms(self) -> Floats:
        """Time of each step's scheduling."""
        return self._step("t_sched") * 1e3

    def load_ms(self) -> Floats:
        """Time of each step's reads from disk and copies into slots."""
        return (self._step("load") + self._step("activate")) * 1e3

    def mean_disk_load_ms(self) -> tuple[float, int]:
        """Mean time of a read from disk, and how many there were."""
        return self._mean_load_ms("load", "n_load")

    def mean_gpu_load_ms(self) -> tuple[float, int]:
        """Mean time of a copy into a slot, and how many there were."""
        return self._mean_load_ms("activate", "n_act")

    def has_prompts(self) -> NDArray[np.bool_]:
        """Whether each step had tokens of prompts."""
        return np.asarray(self._step("prefill_tokens") > 0)

    def prompts(self) -> Floats:
        """Requests that had tokens of their prompts in each step."""
        return self._step("prefill_reqs")

    def work(self) -> Floats:
        """One row a step, one column a unit of :data:`WORK`."""
        start = self._step("t")
        first, prompt = self._request("first"), self._request("in")
        context = context_tokens(start, first, self._request("done"), prompt, self._request("out"))
        columns = (
            np.ones(start.size),
            self._step("batch"),
            self._step("tokens"),
            context,
            context * self.has_prompts(),
            attention_pairs(start, self._step("prefill_tokens"), first, prompt),
            self._step("distinct"),
            self._step("n_load"),
        )
        return np.column_stack(columns)

    def queue(self) -> tuple[Floats, Floats]:
        """Waiting requests that each step's scheduler passed over, and all that it left.

        The scan ends where there is no room for one more request or token; if there is, it went
        through the whole queue.
        """
        waiting, settings = self._step("waiting_after"), self.settings
        room = (self._step("batch") < settings["max_num_seqs"]) & (
            self._step("tokens") < settings["max_batched"]
        )
        return waiting * room, waiting

    def _step(self, column: str) -> Floats:
        return self.steps[column].to_numpy().astype(np.float64)

    def _request(self, column: str) -> Floats:
        return self.requests[column].to_numpy().astype(np.float64)

    def _mean_load_ms(self, seconds: str, count: str) -> tuple[float, int]:
        loads = self._step(count)
        took = float(self._step(seconds)[loads > 0].sum()) * 1e3
        return took / max(loads.sum(), 1.0), int(loads.sum())


def is_recordings(folder: Path) -> bool:
    """Whether the folder holds step recordings."""
    return any(folder.glob("*" + STEPS))


def each_left_out(
    recordings: Sequence[Recording],
) -> Iterator[tuple[Recording, list[Recording]]]:
    """Each recording, and all the others; none if it is the only one."""
    for left_out in recordings:
        others = [recording for recording in recordings if recording is not left_out]
        if others:
            yield left_out, others


def read_recordings(folder: Path) -> list[Recording]:
    """Reads every recording of a folder, in the order of their names.

    Raises:
        InputError: A companion file is missing, cannot be read, or lacks a column.
    """
    names = [path.name.removesuffix(STEPS) for path in sorted(folder.glob("*" + STEPS))]
    return [_read(folder, name) for name in names]


def _read(folder: Path, name: str) -> Recording:
    for ending in (REQUESTS, SUMMARY):
        if not (folder / (name + ending)).is_file():
            mend = "missing: a recording has three files"
            raise InputError(folder, name + ending, None, mend)
    try:
        summary = json.loads((folder / (name + SUMMARY)).read_text(encoding="utf-8"))
        steps = pl.read_csv(folder / (name + STEPS), infer_schema_length=None)
        requests = pl.read_csv(folder / (name + REQUESTS), infer_schema_length=None)
        settings, blocks = summary["args"], int(summary["blocks"])
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(folder, name, None, f"is no recording: {error}") from error
    _check_numbers(folder / (name + STEPS), STEP_COLUMNS, steps)
    _check_numbers(folder / (name + REQUESTS), REQUEST_COLUMNS, requests)
    _check_there(folder / (name + SUMMARY), SETTINGS, settings)
    return Recording(name, settings, blocks, steps, requests)


def _check_numbers(file: Path, columns: tuple[str, ...], frame: pl.DataFrame) -> None:
    _check_there(file, columns, frame.columns)
    if frame.is_empty():
        raise InputError(file, None, None, "has no rows: record a run that has some")
    for column in columns:
        values = frame[column]
        if not values.dtype.is_numeric():
            raise InputError(file, column, str(values.dtype), "give numbers")
        row = (~values.cast(pl.Float64).is_finite()).fill_null(value=True).arg_max() or 0
        if values[row] is None or not math.isfinite(values[row]):
            raise InputError(file, f"row {row + 1}, {column}", values[row], "give a number")


def _check_there(file: Path, needed: tuple[str, ...], given: Collection[str]) -> None:
    missing = [name for name in needed if name not in given]
    if missing:
        raise InputError(file, None, None, f"add {', '.join(missing)}")
