"""Running a sweep on this machine: chunks of scenarios through the twin, each to a file of its own.

Three threads work as on a belt: one puts the next chunks together, one has a chunk simulated on all
cores with the GIL released, and the caller's writes the chunk before; a few chunks are in memory at
a time. Which scenarios share a chunk depends on the sweep alone, so the files are the same bytes
whatever the number of threads, and after any interruption.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorapack.errors import InputError
from lorapack.sweep.grid import Refused, Sweep
from lorapack.sweep.store import Store, adapter_rows_of, rows_of
from lorapack.twin.native import NativeOutcome, NativeScenario, native_scenario
from lorapack.twin.result import Result
from lorapack.twin.run import outcomes_of

if TYPE_CHECKING:
    import polars as pl

    from lorapack.twin.scenario import Scenario

CHUNK = 128
"""Scenarios a file: seconds of work, so little is lost, and enough to keep all threads busy."""

AHEAD = 3
"""Chunks begun beyond the one being written: one to simulate, one ready, one being put together."""


@dataclass(frozen=True)
class SweepDone:
    """What running a sweep came to.

    Attributes:
        scenarios: Scenarios of the sweep.
        done: Of those, run by this call (the rest were there already).
        simulated_s: Seconds simulated by this call.
        wall_s: What it took here, seconds.
    """

    scenarios: int
    done: int
    simulated_s: float
    wall_s: float


@dataclass(frozen=True)
class Chunk:
    """A chunk's rows.

    Attributes:
        number: Which chunk.
        rows: A row a scenario.
        adapters: A row an adapter, if the sweep keeps them.
    """

    number: int
    rows: pl.DataFrame
    adapters: pl.DataFrame | None


@dataclass(frozen=True)
class _Work:
    """A chunk that is ready to be simulated.

    Attributes:
        scenarios: All of the chunk, in their order.
        order: Places of those that start, the longest run first: no core waits at the end for
            another that took up a long one last.
        natives: The same ones as the twin takes them, in that order.
    """

    scenarios: list[Scenario | Refused]
    order: list[int]
    natives: list[NativeScenario]


class _Stopped(Exception):  # noqa: N818 - nobody's error: it ends a thread
    """The sweep is no longer wanted."""


def run_sweep(
    sweep: str | os.PathLike[str] | Sweep,
    folder: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    resume: bool = False,
    backend: str = "local",
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> SweepDone:
    """Runs a sweep into a folder of Parquet files.

    Args:
        sweep: A SWEEP.toml, ``training``, or what was read of one.
        folder: Where the rows go (:func:`lorapack.scan_sweep` reads them).
        jobs: Threads, or Ray workers at a time; ``None``: as many as there are cores.
        resume: Take up a sweep that was begun in ``folder``.
        backend: ``local``, or ``ray`` for every machine of a Ray cluster.
        chunk: Scenarios a file.
        progress: Told how many more scenarios are done, now and then.

    Returns:
        How much was done.

    Raises:
        InputError: The sweep or the folder cannot be used.

    Example:
        >>> import tempfile, pathlib
        >>> definition = Sweep.from_toml('''
        ...     duration_s = 60
        ...     [engine]
        ...     max_loras = 4
        ...     [design]
        ...     kind = "grid"
        ...     [fleet]
        ...     n_adapters = [2, 4]
        ...     rates = "equal"
        ...     rate_rps = 0.1
        ... ''')
        >>> folder = pathlib.Path(tempfile.mkdtemp(), "sweep")
        >>> run_sweep(definition, folder, jobs=1).done
        2
    """
    if jobs is not None and jobs < 1:
        raise InputError("sweep", "jobs", jobs, "give 1 or more")
    if not isinstance(sweep, Sweep):
        sweep = Sweep.read(sweep)
    started = time.perf_counter()
    store = Store.open(folder, sweep, chunk, resume=resume)
    told = progress or (lambda _: None)
    done, simulated_s = 0, 0.0
    with contextlib.closing(_chunks_by(backend, store, jobs, told)) as chunks:
        for finished in chunks:
            store.write(finished.number, finished.rows, finished.adapters)
            done += len(finished.rows)
            simulated_s += float(finished.rows["simulated_s"].sum())
    return SweepDone(len(sweep), done, simulated_s, time.perf_counter() - started)


def run_chunk(sweep: Sweep, number: int, indices: Sequence[int], jobs: int | None = None) -> Chunk:
    """Runs one chunk; what a Ray worker does."""
    never = threading.Event()
    work = _put_together(sweep, indices, never)
    return _rows(sweep, number, indices, work, _simulated(work, jobs, lambda _: None, never))


def _chunks_by(
    backend: str, store: Store, jobs: int | None, progress: Callable[[int], None]
) -> Generator[Chunk, None, None]:
    if backend == "ray":
        from lorapack.sweep.ray import chunks_on_ray

        return chunks_on_ray(store, jobs, progress)
    return _chunks_here(store, jobs, progress)


def _chunks_here(
    store: Store, jobs: int | None, progress: Callable[[int], None]
) -> Generator[Chunk, None, None]:
    sweep, stop = store.sweep, threading.Event()
    under_way: deque[tuple[int, Future[_Work], Future[list[NativeOutcome]]]] = deque()

    def simulated(work: Future[_Work]) -> list[NativeOutcome]:
        return _simulated(work.result(), jobs, progress, stop)

    def finished() -> Chunk:
        number, work, outcomes = under_way.popleft()
        # Outcomes first: they fail with what went wrong, wherever it did.
        done = outcomes.result()
        return _rows(sweep, number, store.indices(number), work.result(), done)

    with ThreadPoolExecutor(1, "scenarios") as builder, ThreadPoolExecutor(1, "twin") as twin:
        try:
            for number in store.missing():
                work = builder.submit(_put_together, sweep, store.indices(number), stop)
                under_way.append((number, work, twin.submit(simulated, work)))
                if len(under_way) > AHEAD:
                    yield finished()
            while under_way:
                yield finished()
        finally:
            stop.set()  # ends at once what is under way, if the caller gave up


def _put_together(sweep: Sweep, indices: Sequence[int], stop: threading.Event) -> _Work:
    scenarios: list[Scenario | Refused] = []
    natives: dict[int, NativeScenario] = {}
    requests: dict[int, float] = {}
    for place, index in enumerate(indices):
        if stop.is_set():
            raise _Stopped
        scenario = sweep.scenario(index)
        scenarios.append(scenario)
        if not isinstance(scenario, Refused):
            natives[place] = native_scenario(scenario)
            requests[place] = scenario.fleet.rate_rps * (scenario.duration_s or 0.0)
    order = sorted(natives, key=lambda place: -requests[place])
    return _Work(scenarios, order, [natives[place] for place in order])


def _simulated(
    work: _Work, jobs: int | None, progress: Callable[[int], None], stop: threading.Event
) -> list[NativeOutcome]:
    """What came of the work's natives, in their order."""
    told = 0

    def so_far(done: int) -> None:
        nonlocal told
        if stop.is_set():
            raise _Stopped
        progress(done - told)
        told = done

    so_far(0)
    outcomes = outcomes_of(work.natives, jobs, so_far)
    progress(len(work.scenarios) - told)
    return outcomes


def _rows(
    sweep: Sweep,
    number: int,
    indices: Sequence[int],
    work: _Work,
    outcomes: Sequence[NativeOutcome],
) -> Chunk:
    done = dict(zip(work.order, outcomes, strict=True))
    results = [
        scenario
        if isinstance(scenario, Refused)
        else Result(scenario, done[place], wall_s=0.0)  # not stored
        for place, scenario in enumerate(work.scenarios)
    ]
    rows = rows_of(sweep, indices, results)
    adapters = adapter_rows_of(indices, results) if sweep.design.adapters else None
    return Chunk(number, rows, adapters)
