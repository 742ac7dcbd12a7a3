"""How fast a sweep of one-hour scenarios of mixed load runs, and in how much memory.

    python benches/sweep.py [--n 400] [--jobs 2] [--json]

Prints what 10,000 scenarios would take at that rate, the peak memory, and how much of two threads'
work is twice one thread's.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from lorapack.sweep import Sweep, run_sweep
from lorapack.twin.run import simulate_many, usable_cores
from lorapack.twin.scenario import Scenario

MIXED = """
duration_s = 3600.0
warm = true
max_in_flight = 25_200
[engine]
max_loras = {{ from = 8, to = 128, scale = "log" }}
[fleet]
n_adapters = {{ from = 8, to = 400, scale = "log" }}
rates = ["equal", "groups", "zipf", "lognormal"]
load = {{ from = 0.05, to = 2.0, scale = "log" }}
ranks = [[8], [8, 16], [32]]
[design]
kind = "latin-hypercube"
n = {n}
fit_memory = true
"""


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=usable_cores())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sweep = Sweep.from_toml(MIXED.format(n=arguments.n))
    with tempfile.TemporaryDirectory() as folder:
        done = run_sweep(sweep, Path(folder) / "rows", jobs=arguments.jobs)
    rate = done.done / done.wall_s
    figures = {
        "scenarios": done.done,
        "scenarios_per_s": rate,
        "minutes for 10,000": 10_000 / rate / 60,
        "times real time": done.simulated_s / done.wall_s,
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "efficiency of 2 threads": efficiency(sweep, min(arguments.n, 64)),
    }
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:30s} {value:12.2f}")


def efficiency(sweep: Sweep, n: int) -> float:
    """Time of one thread over twice the time of two, on the same scenarios; the best of three."""
    found = [sweep.scenario(i) for i in range(n)]
    scenarios = [scenario for scenario in found if isinstance(scenario, Scenario)]
    taken = {jobs: min(_seconds(scenarios, jobs) for _ in range(3)) for jobs in (1, 2)}
    return taken[1] / (2 * taken[2])


def _seconds(scenarios: list[Scenario], jobs: int) -> float:
    begun = time.perf_counter()
    simulate_many(scenarios, jobs=jobs)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
