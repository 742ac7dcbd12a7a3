"""The door to the native module: interrupted, shared, parallel, the same every time."""

import os
import signal
import threading
import time

import polars as pl
import pytest

from lorapack import _native
from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.twin.native import (
    native_engine,
    native_front_end,
    native_scenario,
    native_step_time,
)
from lorapack.twin.run import run, simulate_many
from lorapack.twin.scenario import Scenario


@pytest.fixture(scope="module")
def endless(profile):
    """A scenario that takes minutes: heavily loaded for 200 days."""
    fleet = Fleet([Adapter(f"a{i}", rank=8, rate_rps=1.0) for i in range(32)])
    return Scenario(profile, fleet, max_loras=4, duration_s=200 * 86_400.0, max_in_flight=500)


def interrupt_after(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_interrupts_a_long_run(endless):
    started = time.perf_counter()
    interrupt_after(0.3)
    with pytest.raises(KeyboardInterrupt):
        run(endless)
    assert time.perf_counter() - started < 10


def test_ctrl_c_interrupts_many_runs(endless):
    started = time.perf_counter()
    interrupt_after(0.3)
    with pytest.raises(KeyboardInterrupt):
        simulate_many([endless] * 4, jobs=2)
    assert time.perf_counter() - started < 10


def test_the_gil_is_released_meanwhile(endless):
    ticks = 0
    over = threading.Event()

    def tick():
        nonlocal ticks
        while not over.is_set():
            ticks += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    interrupt_after(0.5)
    with pytest.raises(KeyboardInterrupt):
        run(endless)
    over.set()
    thread.join()
    assert ticks > 50


def test_what_a_progress_callback_raises_ends_the_run(endless):
    def refuse(_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        simulate_many([endless] * 2, jobs=1, progress=refuse)


def test_the_same_seed_gives_the_same_run_on_any_number_of_threads(profile, fleet):
    scenarios = [
        Scenario(profile, fleet, max_loras=slots, duration_s=60, seed=seed)
        for slots in (1, 2, 6)
        for seed in (0, 1, 2)
    ]

    def totals(results):
        return [{**result.to_dict(), "wall_s": None} for result in results]

    alone = totals(run(scenario) for scenario in scenarios)
    assert totals(simulate_many(scenarios, jobs=1)) == alone
    assert totals(simulate_many(scenarios, jobs=3)) == alone
    assert alone[0] != alone[1]


def test_progress_ends_with_all_of_them(profile, fleet):
    told = []
    scenarios = [Scenario(profile, fleet, max_loras=2, duration_s=10)] * 5
    simulate_many(scenarios, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 5


def test_no_scenarios_are_no_results():
    assert simulate_many([]) == []


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_threads_are_refused(profile, fleet, jobs):
    with pytest.raises(InputError, match="jobs"):
        simulate_many([Scenario(profile, fleet)], jobs=jobs)


def test_records_of_many_are_refused(profile, fleet):
    with pytest.raises(InputError, match="records"):
        simulate_many([Scenario(profile, fleet, records=True)])


def outcome(profile, fleet):
    scenario = Scenario(profile, fleet, max_loras=2, duration_s=60)
    return _native.simulate(native_scenario(scenario), requests=True, steps=True)


def address(frame, column):
    return frame[column].to_numpy().__array_interface__["data"][0]


def test_frames_are_the_twin_s_own_memory(profile, fleet):
    found = outcome(profile, fleet)
    for table, columns in (
        (found.requests, ("done_s", "prompt_tokens")),
        (found.steps, ("start_s", "running", "context_tokens")),
    ):
        first, second = pl.DataFrame(table), pl.DataFrame(table)
        assert first.height == len(table) > 0
        for column in columns:
            assert address(first, column) == address(second, column)


def test_frames_outlive_the_outcome(profile, fleet):
    frame = pl.DataFrame(outcome(profile, fleet).requests)
    again = pl.DataFrame(outcome(profile, fleet).requests)
    assert frame.equals(again, null_equal=True)
    assert frame["arrival_s"].is_sorted()


def test_what_the_twin_refuses_is_an_input_error(profile, fleet):
    good = Scenario(profile, fleet, max_loras=2)
    with pytest.raises(InputError) as caught:
        _native.simulate(
            _native.Scenario(
                adapters=[],
                length_shapes=[_native.LengthShape.constant(1, 0)],
                trace=None,
                engine=native_engine(good.engine),
                step_time=native_step_time(profile.step_time, 2, 16, 2048, 2, 1.0),
                front_end=native_front_end(profile.front_end),
                duration_ps=10**12,
                warmup_ps=0,
                judge_until_ps=0,
                seed=0,
                max_in_flight=None,
                warm=False,
                scrape_interval_ps=None,
            )
        )
    assert "output_tokens" in caught.value.place
