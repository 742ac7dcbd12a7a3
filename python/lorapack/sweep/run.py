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
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lorapack.errors import InputError
from lorapack.sweep.chunk import Chunk, Work, chunk_of, put_together, simulate
from lorapack.sweep.grid import Sweep
from lorapack.sweep.store import Store
from lorapack.twin.native import NativeOutcome

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
    under_way: deque[tuple[int, Future[Work], Future[list[NativeOutcome]]]] = deque()

    def simulated(work: Future[Work]) -> list[NativeOutcome]:
        return simulate(work.result(), jobs, progress, stop)

    def finished() -> Chunk:
        number, work, outcomes = under_way.popleft()
        # Outcomes first: they fail with what went wrong, wherever it did.
        done = outcomes.result()
        return chunk_of(sweep, number, store.indices(number), work.result(), done)

    with ThreadPoolExecutor(1, "scenarios") as builder, ThreadPoolExecutor(1, "twin") as twin:
        try:
            for number in store.missing():
                work = builder.submit(put_together, sweep, store.indices(number), stop)
                under_way.append((number, work, twin.submit(simulated, work)))
                if len(under_way) > AHEAD:
                    yield finished()
            while under_way:
                yield finished()
        finally:
            stop.set()  # ends at once what is under way, if the caller gave up
