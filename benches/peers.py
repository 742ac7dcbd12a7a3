"""The twin beside a SimPy loop and the papers' Python twin, its memory, and sweeps, in one run.

python benches/peers.py [--sweep N] [--simpy-s SECONDS]

Needs the extra `bench`. Prints every figure that docs/performance.md quotes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from simpy_loop import Prices, Request, SimpyTwin
from sweep import sweeps

import lorapack as lp
from lorapack import _native
from lorapack.twin.native import native_scenario, stream_key
from lorapack.twin.scenario import Scenario

HOUR_S = 3600.0
MASK = 2**64 - 1
WALK = 0x7761_6C6B_0000_0000


@dataclass(frozen=True)
class Case:
    """A scenario; with the papers' twin's simulated seconds a second, where it was measured."""

    name: str
    n_adapters: int
    rates_rps: tuple[float, ...]
    max_loras: int
    reference: float | None = None
    simpy: bool = True

    def scenario(self, duration_s: float) -> Scenario:
        """Ranks 8 and 16 in turn, rates in turn, KV cache and cap as the papers' runs."""
        rates = self.rates_rps
        adapters = [
            lp.Adapter(f"a{i}", 8 if i % 2 == 0 else 16, rates[i % len(rates)])
            for i in range(self.n_adapters)
        ]
        return Scenario(
            profile=lp.Profile.load("llama-3.1-8b/h100-64gb/vllm-0.8.5"),
            fleet=lp.Fleet(adapters),
            max_loras=self.max_loras,
            kv_cache_tokens=284_176,
            max_in_flight=25_500,
            duration_s=duration_s,
            seed=1,
        )


HEAVY, LIGHT = (1.6, 0.8, 0.4), (0.1, 0.05, 0.025)
CASES = (
    Case("128 adapters, overloaded", 128, HEAVY, 32, 69),
    Case("32 adapters, KV-bound", 32, HEAVY, 16, 158),
    Case("128 adapters, light", 128, LIGHT, 32, 2_470),
    Case("100 adapters, 30 req/s", 100, (0.3,), 64, simpy=False),
    Case("1,000 adapters, 30 req/s", 1_000, (0.03,), 64, simpy=False),
    Case("10,000 adapters, 30 req/s", 10_000, (0.003,), 64, simpy=False),
)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", type=int, default=1000, help="scenarios of the sweep; 0: none")
    parser.add_argument("--simpy-s", type=float, default=600.0, help="simulated by SimPy, seconds")
    arguments = parser.parse_args()
    speeds(arguments.simpy_s)
    memory()
    if arguments.sweep:
        sweeps(arguments.sweep)


def speeds(simpy_duration_s: float) -> None:
    """Simulated seconds a second of one core: the twin, SimPy, the papers' twin.

    The twin runs an hour. SimPy runs the first minutes of it, which flatters it: where load exceeds
    capacity, the queue that it walks in each step grows for as long as the run lasts.
    """
    print(
        f"{'scenario':26} {'requests':>8} {'steps':>7} {'twin ms':>8} {'ns a req':>8} "
        f"{'twin x':>8} {'SimPy x':>8} {'ratio':>6} {'papers x':>8} {'ratio':>6}"
    )
    for case in CASES:
        scenario = case.scenario(HOUR_S)
        twin = lp.simulate_many([scenario])[0]
        native = native_scenario(scenario)
        twin_s = best_s(lambda native=native: _native.simulate(native))
        speed = HOUR_S / twin_s
        simpy = None
        if case.simpy:
            simpy = simpy_duration_s / simpy_s(case.scenario(simpy_duration_s))
        print(
            f"{case.name:26} {twin.offered:8} {twin.n_steps:7} {twin_s * 1e3:8.2f} "
            f"{twin_s * 1e9 / twin.offered:8.0f} {speed:8.0f} {beside(simpy, speed)} "
            f"{beside(case.reference, speed, 8)}",
            flush=True,
        )


def beside(other: float | None, speed: float, width: int = 8) -> str:
    """Another's speed, and how many times faster the twin is."""
    if other is None:
        return f"{'':{width}} {'':6}"
    return f"{other:{width}.0f} {speed / other:6.0f}"


def best_s(run: Callable[[], object], times: int = 9) -> float:
    """Least time on a core of several runs: noise only ever adds."""
    taken = []
    for _ in range(times):
        begun = time.process_time()  # the twin runs on a thread of its own
        run()
        taken.append(time.process_time() - begun)
    return min(taken)


def simpy_s(scenario: Scenario) -> float:
    """Time on a core of the SimPy loop, on the requests that the twin drew; it must agree."""
    twin = lp.simulate(scenario.profile, scenario.fleet, **settings(scenario), records=True)
    requests, prices = drawn(twin), prices_of(scenario)
    begun = time.process_time()
    loop = SimpyTwin(scenario.fleet, scenario.engine, prices, scenario.max_in_flight or 2**32)
    loop.run(requests, round((scenario.duration_s or 0) * 1e12))
    taken = time.process_time() - begun
    found = (loop.completed, loop.steps, loop.loads, loop.preempted, loop.dropped)
    said = (twin.completed, twin.n_steps, twin.adapter_loads, twin.preemptions, twin.dropped)
    if found != said:
        print(f"SimPy differs: {found} instead of {said} (done, steps, loads, preempted, dropped)")
    return taken


def drawn(twin: lp.Result) -> list[Request]:
    """The requests of a run."""
    table = twin.requests
    names = {adapter.adapter: i for i, adapter in enumerate(twin.scenario.fleet)}
    arrivals = np.rint(table["arrival_s"].to_numpy() * 1e12).astype(np.int64).tolist()
    adapters = [names[name] for name in table["adapter"].cast(str).to_list()]
    lengths = (table["prompt_tokens"].to_list(), table["output_tokens"].to_list())
    return [Request(*row) for row in zip(arrivals, adapters, *lengths, strict=True)]


def settings(scenario: Scenario) -> dict[str, float | int | None]:
    """What the cases set of a scenario."""
    names = ("max_loras", "kv_cache_tokens", "max_in_flight", "duration_s", "seed")
    return {name: getattr(scenario, name) for name in names}


def prices_of(scenario: Scenario) -> Prices:
    """The same prices as the twin's."""
    profile, engine, fleet = scenario.profile, scenario.engine, scenario.fleet
    tables = profile.step_time.tables(
        engine.max_loras,
        engine.max_lora_rank,
        engine.max_num_batched_tokens,
        min(engine.max_cpu_loras, len(fleet)),
        sum(adapter.rate_rps for adapter in fleet),
    )
    loading = profile.adapter_loading
    loads = [
        (loading.gpu_load_ps(a.rank, engine.max_lora_rank), loading.disk_load_ps(a.rank))
        for a in fleet
    ]
    hashes = [mix(mix(mix(scenario.seed) ^ stream_key(a.adapter)) ^ WALK) for a in fleet]
    place = np.argsort(np.argsort(np.array(hashes, dtype=np.uint64), kind="stable")).tolist()
    return Prices(tables, profile.front_end.tables(), loads, place)


def mix(value: int) -> int:
    """SplitMix64's finalizer, by which the twin orders a batch's adapters."""
    z = (value + 0x9E37_79B9_7F4A_7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB) & MASK
    return z ^ (z >> 31)


MEMORY = """
import pathlib
import lorapack as lp
from lorapack import _native
from lorapack.twin.native import native_scenario
from lorapack.twin.scenario import Scenario

def kib(name):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0])

for cap in (25_500, None):
    fleet = lp.Fleet([lp.Adapter(f"a{i}", 8, 1.0) for i in range(100)])
    scenario = Scenario(lp.Profile.load(), fleet, max_loras=32, max_in_flight=cap)
    native = native_scenario(scenario)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = kib("VmRSS")
    outcome = _native.simulate(native)
    offered, unfinished = (outcome.summary()[name] for name in ("offered", "unfinished"))
    print(
        f"an hour at 100 req/s ({offered} requests, {unfinished} in flight at the end): "
        f"{(kib('VmHWM') - before) / 1024:.1f} MB"
    )
    del outcome
"""


def memory() -> None:
    """Peak memory of a run in a process of its own."""
    subprocess.run([sys.executable, "-c", MEMORY], check=True)


if __name__ == "__main__":
    main()
