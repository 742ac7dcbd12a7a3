"""One chunk of a sweep: its scenarios put together, simulated, and made rows.

Three stages, so that whoever runs many chunks can have them overlap (:mod:`lorapack.sweep.run`);
:func:`run_chunk` does them one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorapack.sweep.grid import Refused, Sweep
from lorapack.sweep.store import adapter_rows_of, rows_of
from lorapack.twin.native import NativeOutcome, NativeScenario, native_scenario
from lorapack.twin.result import Result
from lorapack.twin.run import outcomes_of

if TYPE_CHECKING:
    import polars as pl

    from lorapack.twin.scenario import Scenario


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
class Work:
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


class Stopped(Exception):  # noqa: N818 - nobody's error: it ends a thread
    """The sweep is no longer wanted."""


def run_chunk(sweep: Sweep, number: int, indices: Sequence[int], jobs: int | None = None) -> Chunk:
    """Runs one chunk, stage after stage; what a Ray worker does.

    Args:
        sweep: The sweep.
        number: Which chunk.
        indices: Its scenarios' places in the sweep.
        jobs: Threads; ``None``: as many as there are cores.
    """
    never = threading.Event()
    work = put_together(sweep, indices, never)
    return chunk_of(sweep, number, indices, work, simulate(work, jobs, lambda _: None, never))


def put_together(sweep: Sweep, indices: Sequence[int], stop: threading.Event) -> Work:
    """Makes the scenarios of a chunk, and of those that start what the twin takes.

    Args:
        sweep: The sweep.
        indices: The scenarios' places in it.
        stop: Set when the chunk is no longer wanted.

    Raises:
        Stopped: It was set.
    """
    scenarios: list[Scenario | Refused] = []
    natives: dict[int, NativeScenario] = {}
    requests: dict[int, float] = {}
    for place, index in enumerate(indices):
        if stop.is_set():
            raise Stopped
        scenario = sweep.scenario(index)
        scenarios.append(scenario)
        if not isinstance(scenario, Refused):
            natives[place] = native_scenario(scenario)
            requests[place] = scenario.fleet.rate_rps * (scenario.duration_s or 0.0)
    order = sorted(natives, key=lambda place: -requests[place])
    return Work(scenarios, order, [natives[place] for place in order])


def simulate(
    work: Work, jobs: int | None, progress: Callable[[int], None], stop: threading.Event
) -> list[NativeOutcome]:
    """Simulates what starts, with the GIL released.

    Args:
        work: What was put together.
        jobs: Threads; ``None``: as many as there are cores.
        progress: Told how many more scenarios are done, those that do not start at the end.
        stop: Set when the chunk is no longer wanted.

    Returns:
        What came of the work's natives, in their order.

    Raises:
        Stopped: It was set.
    """
    told = 0

    def so_far(done: int) -> None:
        nonlocal told
        if stop.is_set():
            raise Stopped
        progress(done - told)
        told = done

    so_far(0)
    outcomes = outcomes_of(work.natives, jobs, so_far)
    progress(len(work.scenarios) - told)
    return outcomes


def chunk_of(
    sweep: Sweep,
    number: int,
    indices: Sequence[int],
    work: Work,
    outcomes: Sequence[NativeOutcome],
) -> Chunk:
    """Makes rows of what came of a chunk.

    Args:
        sweep: The sweep.
        number: Which chunk.
        indices: Its scenarios' places in the sweep.
        work: What was put together.
        outcomes: What came of its natives.
    """
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
