"""Running a sweep on this machine: chunks of scenarios through the twin, each to a file of its own.

A chunk is simulated on all threads while the next one is put together; at most two are in memory.
Which scenarios share a chunk depends on the sweep alone, so the files are the same bytes whatever
the number of threads, and after any interruption.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorapack.sweep.grid import Refused, Sweep
from lorapack.sweep.store import Store, adapter_rows_of, rows_of
from lorapack.twin.run import simulate_many

if TYPE_CHECKING:
    import polars as pl

    from lorapack.twin.result import Result
    from lorapack.twin.scenario import Scenario

CHUNK = 128
"""Scenarios a file: seconds of work, so little is lost, and enough to keep all threads busy."""


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
    if not isinstance(sweep, Sweep):
        sweep = Sweep.read(sweep)
    started = time.perf_counter()
    store = Store.open(folder, sweep, chunk, resume=resume)
    told = progress or (lambda _: None)
    done, simulated_s = 0, 0.0
    for finished in _chunks_by(backend, store, jobs, told):
        store.write(finished.number, finished.rows, finished.adapters)
        done += len(finished.rows)
        simulated_s += float(finished.rows["simulated_s"].sum())
    return SweepDone(len(sweep), done, simulated_s, time.perf_counter() - started)


def run_chunk(sweep: Sweep, number: int, indices: Sequence[int], jobs: int | None = None) -> Chunk:
    """Runs one chunk; what a Ray worker does."""
    return _simulated(sweep, number, indices, _scenarios(sweep, indices), jobs, lambda _: None)


def _chunks_by(
    backend: str, store: Store, jobs: int | None, progress: Callable[[int], None]
) -> Iterator[Chunk]:
    if backend == "ray":
        from lorapack.sweep.ray import chunks_on_ray

        return chunks_on_ray(store, jobs, progress)
    return _chunks_here(store, jobs, progress)


def _chunks_here(
    store: Store, jobs: int | None, progress: Callable[[int], None]
) -> Iterator[Chunk]:
    sweep, missing = store.sweep, store.missing()
    with ThreadPoolExecutor(1, thread_name_prefix="sweep") as builder:
        built = [builder.submit(_scenarios, sweep, store.indices(i)) for i in missing[:1]]
        for number, after in itertools.zip_longest(missing, missing[1:]):
            scenarios = built.pop().result()
            if after is not None:
                built.append(builder.submit(_scenarios, sweep, store.indices(after)))
            yield _simulated(sweep, number, store.indices(number), scenarios, jobs, progress)


def _scenarios(sweep: Sweep, indices: Sequence[int]) -> list[Scenario | Refused]:
    return [sweep.scenario(index) for index in indices]


def _simulated(
    sweep: Sweep,
    number: int,
    indices: Sequence[int],
    scenarios: Sequence[Scenario | Refused],
    jobs: int | None,
    progress: Callable[[int], None],
) -> Chunk:
    told = 0

    def so_far(done: int) -> None:
        nonlocal told
        progress(done - told)
        told = done

    startable = [scenario for scenario in scenarios if not isinstance(scenario, Refused)]
    results = iter(simulate_many(startable, jobs=jobs, progress=so_far))
    outcomes: list[Result | Refused] = [
        scenario if isinstance(scenario, Refused) else next(results) for scenario in scenarios
    ]
    progress(len(scenarios) - told)
    rows = rows_of(sweep, indices, outcomes)
    adapters = adapter_rows_of(indices, outcomes) if sweep.design.adapters else None
    return Chunk(number, rows, adapters)
