"""Conformance: recordings of a real engine, replayed through the twin's rules, field by field.

Two kinds of recordings, told apart by their header: scheduling decisions (``schedule``: the
requests and, step by step, what the real scheduler decided) and adapter residency (``residency``:
the adapters of each batch in the order walked, and what was loaded and evicted). Files are JSON
lines, plain or gzipped; here they are read into flat arrays, the native module replays them.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lorapack import _native
from lorapack.errors import InputError

SUFFIXES = (".jsonl.gz", ".jsonl")
"""Files of a folder that are recordings."""

RULE_SETS = {"0.8.5": "vllm-0.8.5", "0.33": "vllm-0.33"}
"""Beginning of a recording's engine version -> rule set that replays it."""

STEP_COUNTS = (
    "step",
    "waiting",
    "running",
    "free_blocks",
    "free_blocks_end",
    "distinct_adapters",
    "skipped",
)
"""Plain numbers of a recorded scheduling step."""

REQUEST_COUNTS = ("arrival_step", "adapter", "prompt_tokens", "output_tokens")
"""Plain numbers of a recorded request."""

STEP_LISTS = ("new", "resumed", "preempted", "finished")
"""Lists of requests of a recorded scheduling step, besides ``scheduled``."""

EVENTS = ("load_disk", "load_gpu", "evict_gpu")
"""What a recorded residency step can say happened."""

LARGEST = 2**31
"""Numbers in a recording are below this."""

MOST_ADAPTERS = 2**20
"""Adapters in a recording are below this: the replay keeps a row for each number."""


_Found: TypeAlias = tuple[int, str, str, str] | None
"""The native module's difference: step, field, recorded, simulated."""


@dataclass(frozen=True)
class Difference:
    """Where a replay first departs from its recording.

    Attributes:
        file: The recording.
        step: Number of the step, as recorded.
        field: Field of the step; ``steps`` where one of the two goes on when the other has ended.
        recorded: What the real engine did.
        simulated: What the twin's rules did.
    """

    file: str
    step: int
    field: str
    recorded: str
    simulated: str

    def __str__(self) -> str:
        return (
            f"{self.file}: step {self.step}: {self.field}: "
            f"recorded {self.recorded}, simulated {self.simulated}"
        )


@dataclass(frozen=True)
class Replay:
    """What became of one recording.

    Attributes:
        file: Its path.
        kind: ``schedule`` or ``residency``.
        version: Of the engine that was recorded.
        steps: Steps recorded.
        difference: Where the twin's rules first depart from it; ``None``: nowhere.
    """

    file: str
    kind: str
    version: str
    steps: int
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Whether every field of every step is the same."""
        return self.difference is None


@dataclass(frozen=True)
class Conformance:
    """What became of many recordings.

    Attributes:
        replays: One a file, in the order of the files.
    """

    replays: tuple[Replay, ...]

    @property
    def identical(self) -> bool:
        """Whether there are recordings and all are reproduced."""
        return bool(self.replays) and all(replay.identical for replay in self.replays)

    def to_dict(self) -> dict[str, Any]:
        """The conformance as ``lorapack conform --json`` prints it."""
        differences = [replay.difference for replay in self.replays if replay.difference]
        return {
            **_counts(self.replays),
            "first_difference": [asdict(difference) for difference in differences],
            "by_kind": _grouped(self.replays, lambda replay: replay.kind),
            "by_version": _grouped(self.replays, lambda replay: replay.version),
        }


def conform(
    paths: Iterable[str | os.PathLike[str]],
    on_done: Callable[[Replay], None] = lambda _: None,
) -> Conformance:
    """Replays recordings.

    Args:
        paths: Recordings, or folders of them.
        on_done: Told of each as it is done.

    Returns:
        What became of each.

    Raises:
        InputError: A path is not there or holds no recording, or a file is damaged.
    """
    replays = []
    for file in recordings_in(paths):
        replays.append(replay(file))
        on_done(replays[-1])
    return Conformance(tuple(replays))


def recordings_in(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The recordings that paths name, folders' in the order of their names.

    Args:
        paths: Files, or folders (their own files only).

    Raises:
        InputError: A path is not there, or a folder holds no recording.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise InputError(path, None, None, "is not there: name a recording or a folder of them")
        inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
        if not inside:
            raise InputError(path, None, None, f"holds no recording ({' or '.join(SUFFIXES)})")
        found += inside
    return found


def replay(file: str | os.PathLike[str]) -> Replay:
    """Replays one recording.

    Args:
        file: Its path.

    Raises:
        InputError: It is damaged, or of an engine whose rules the twin does not have.
    """
    recording = _read(Path(file))
    is_schedule = "requests" in recording.header
    found = _schedule(recording) if is_schedule else _residency(recording)
    return Replay(
        str(file),
        "schedule" if is_schedule else "residency",
        recording.version(),
        len(recording.steps),
        None if found is None else Difference(str(file), *found),
    )


@dataclass(frozen=True)
class _Recording:
    """A recording's header and steps, and what turns them into arrays or names a faulty line."""

    file: Path
    header: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]

    def wrong(self, line: int, place: str, value: object, mend: str) -> InputError:
        return InputError(self.file, f"line {line}, {place}", value, mend)

    def setting(self, key: str, low: int) -> int:
        """A setting of the header."""
        value = self.header["settings"].get(key)
        if not _is_count(value) or value < low:
            raise self.wrong(1, f"settings.{key}", value, f"give a whole number of {low} or more")
        return int(value)

    def version(self) -> str:
        value = self.header.get("version")
        if not isinstance(value, str):
            raise self.wrong(1, "version", value, "give the engine's version as a text")
        return value

    def column(self, key: str) -> NDArray[np.uint32]:
        """One number a step."""
        values = [step.get(key) for step in self.steps]
        array = _whole_numbers(values)
        if array is None:
            index = next(i for i, value in enumerate(values) if not _is_count(value))
            raise self.wrong(index + 2, key, values[index], "give a whole number of 0 or more")
        return array

    def lists(self, key: str) -> dict[str, NDArray[np.uint32]]:
        """One list of numbers a step: all values, and how many each step has."""
        lists: list[Any] = [step.get(key) for step in self.steps]
        array = _whole_numbers(list(chain.from_iterable(lists))) if _are_lists(lists) else None
        if array is None:
            index = next(i for i, values in enumerate(lists) if not _is_list_of(_is_count, values))
            raise self.wrong(index + 2, key, lists[index], "give a list of whole numbers")
        return {key: array, f"{key}_sizes": _array(map(len, lists))}

    def pairs(
        self, key: str, firsts: Callable[[list[Any]], NDArray[np.uint32] | None]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        """One list of pairs a step: all firsts (as numbers), all seconds, and each step's count."""
        lists: list[Any] = [step.get(key) for step in self.steps]
        columns = _pair_columns(lists, firsts)
        if columns is None:

            def is_pair(pair: object) -> bool:
                return _pair_columns([[pair]], firsts) is not None

            index = next(i for i, pairs in enumerate(lists) if not _is_list_of(is_pair, pairs))
            raise self.wrong(index + 2, key, lists[index], "give a list of pairs")
        return *columns, _array(map(len, lists))


def _schedule(recording: _Recording) -> _Found:
    """Replays scheduling decisions."""
    requests, tokens, sizes = recording.pairs("scheduled", _whole_numbers)
    columns = {
        **_requests(recording),
        **{name: recording.column(name) for name in STEP_COUNTS},
        "scheduled": requests,
        "scheduled_sizes": sizes,
        "scheduled_tokens": tokens,
    }
    for name in STEP_LISTS:
        columns.update(recording.lists(name))
    completed = recording.header.get("step_cap") is None
    return _native.conform_schedule(_settings(recording), columns, completed=completed)


def _requests(recording: _Recording) -> dict[str, NDArray[np.uint32]]:
    rows = recording.header["requests"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise recording.wrong(1, "requests", rows, "give a list of objects")
    least = {"prompt_tokens": 1, "output_tokens": 1}
    for index, row in enumerate(rows):
        for name in REQUEST_COUNTS:
            value, low = row.get(name), least.get(name, 0)
            most = MOST_ADAPTERS if name == "adapter" else LARGEST
            if not _is_count(value) or not low <= value < most:
                mend = f"give a whole number from {low} to {most - 1}"
                raise recording.wrong(1, f"requests[{index}].{name}", value, mend)
    columns = {name: _array(row[name] for row in rows) for name in REQUEST_COUNTS}
    if (np.diff(columns["arrival_step"].astype(np.int64)) < 0).any():
        raise recording.wrong(1, "requests", None, "list them by arrival_step")
    return columns


def _settings(recording: _Recording) -> _native.EngineSettings:
    version = recording.version()
    rule_set = next((RULE_SETS[known] for known in RULE_SETS if version.startswith(known)), None)
    if rule_set is None:
        mend = f"known are the rules of {' and '.join(RULE_SETS)}"
        raise recording.wrong(1, "version", version, mend)
    max_num_seqs, max_loras = (
        recording.setting("max_num_seqs", 1),
        recording.setting("max_loras", 0),
    )
    return _native.EngineSettings(
        rule_set=rule_set,
        block_size=recording.setting("block_size", 1),
        num_blocks=recording.setting("num_blocks", 2),
        max_loras=max_loras,
        max_cpu_loras=max_loras,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=recording.setting("max_num_batched_tokens", max_num_seqs),
        max_model_len=recording.setting("max_model_len", 2),
        long_prefill_token_threshold=recording.setting("long_prefill_token_threshold", 0),
    )


def _residency(recording: _Recording) -> _Found:
    """Replays adapter residency."""
    kinds, adapters, sizes = recording.pairs("events", _event_kinds)
    batch = recording.lists("batch")
    for column in (batch["batch"], adapters):
        if column.size and column.max() >= MOST_ADAPTERS:
            mend = f"number the adapters below {MOST_ADAPTERS}"
            raise InputError(recording.file, "batch", int(column.max()), mend)
    columns = {**batch, "events": adapters, "events_sizes": sizes, "event_kinds": kinds}
    max_loras = recording.setting("max_loras", 1)
    return _native.conform_residency(
        columns,
        _residency_steps(recording),
        max_loras=max_loras,
        max_cpu_loras=recording.setting("max_cpu_loras", max_loras),
    )


def _residency_steps(recording: _Recording) -> NDArray[np.int32]:
    """Numbers of the steps; -1 is the start, where every adapter was added one by one."""
    steps = [step.get("step") for step in recording.steps]
    for index, step in enumerate(steps):
        if step != -1 and not _is_count(step):
            raise recording.wrong(index + 2, "step", step, "give a whole number of -1 or more")
    return np.array(steps, dtype=np.int32)


def _read(file: Path) -> _Recording:
    tables = []
    for number, line in enumerate(_lines(file), start=1):
        try:
            table = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(file, f"line {number}", None, f"is not JSON: {error}") from error
        if not isinstance(table, dict):
            raise InputError(file, f"line {number}", table, "give one JSON object a line")
        tables.append(table)
    if not tables or not isinstance(tables[0].get("settings"), dict):
        raise InputError(file, "line 1", None, "begin with a recording's header: its settings")
    return _Recording(file, tables[0], tables[1:])


def _lines(file: Path) -> list[bytes]:
    """The file's lines, unpacked if they are packed."""
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(file, None, None, f"is damaged or cannot be read: {reason}") from error
    return [line for line in content.splitlines() if line.strip()]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _is_list_of(is_item: Callable[[object], bool], values: object) -> bool:
    return isinstance(values, list) and all(map(is_item, values))


def _are_lists(values: Iterable[object]) -> bool:
    return set(map(type, values)) <= {list}


def _whole_numbers(values: Sequence[Any]) -> NDArray[np.uint32] | None:
    """The values as an array, or ``None`` if one is not a count: all at once, they are millions."""
    if not set(map(type, values)) <= {int}:
        return None
    if values and not (min(values) >= 0 and max(values) < LARGEST):
        return None
    return np.fromiter(values, dtype=np.uint32, count=len(values))


def _event_kinds(kinds: Sequence[Any]) -> NDArray[np.uint32] | None:
    """Numbers of the events, or ``None`` if one is unknown."""
    if not set(map(type, kinds)) <= {str} or not set(kinds) <= set(EVENTS):
        return None
    return _array(map(EVENTS.index, kinds))


def _pair_columns(
    lists: Sequence[Any], firsts: Callable[[list[Any]], NDArray[np.uint32] | None]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]] | None:
    """Lists of pairs as two columns, or ``None`` if they are not that."""
    if not _are_lists(lists):
        return None
    pairs = list(chain.from_iterable(lists))
    if not _are_lists(pairs) or not set(map(len, pairs)) <= {2}:
        return None
    first, second = firsts([pair[0] for pair in pairs]), _whole_numbers([pair[1] for pair in pairs])
    return None if first is None or second is None else (first, second)


def _array(values: Iterable[int]) -> NDArray[np.uint32]:
    return np.fromiter(values, dtype=np.uint32)


def _counts(replays: Sequence[Replay]) -> dict[str, int]:
    identical = sum(replay.identical for replay in replays)
    return {"scenarios": len(replays), "identical": identical}


def _grouped(replays: Sequence[Replay], key: Callable[[Replay], str]) -> dict[str, dict[str, int]]:
    names = sorted({key(replay) for replay in replays})
    return {name: _counts([r for r in replays if key(r) == name]) for name in names}
