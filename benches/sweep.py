"""How fast a whole sweep of one-hour scenarios of mixed load runs, and in how much memory.

    python benches/sweep.py [--n 400] [--cores 1 2] [--json]

Runs `lorapack sweep benches/sweep.toml`, from the command to the last file, in a process of its own
whose threads are all held to one core, then to two: scenarios are put together and simulated, and
their rows written. Efficiency is one core's time over so many times that of several.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DEFINITION = Path(__file__).parent / "sweep.toml"


@dataclass(frozen=True)
class Run:
    """One sweep.

    Attributes:
        scenarios: Hours simulated.
        cores: Cores that the process was held to.
        wall_s: From the start of the process to its end, seconds.
        core_s: What it took on cores, seconds.
        peak_mb: Its largest memory.
    """

    scenarios: int
    cores: int
    wall_s: float
    core_s: float
    peak_mb: float

    def line(self, first: Run) -> str:
        """A line of the table; ``first`` is the run on fewest cores."""
        efficiency = first.wall_s * first.cores / (self.wall_s * self.cores)
        return (
            f"sweep of {self.scenarios} hours, cores {self.cores}: {self.wall_s:.1f} s, "
            f"{self.core_s:.1f} s on cores ({self.core_s / self.wall_s / self.cores:.0%} of them), "
            f"{self.core_s / self.scenarios * 1e3:.1f} ms a scenario, peak {self.peak_mb:.0f} MB, "
            f"10,000 in {self.wall_s / self.scenarios * 10_000 / 60:.1f} minutes, "
            f"efficiency {efficiency:.0%}"
        )


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=400, help="scenarios")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = sweeps(arguments.n, arguments.cores, quiet=arguments.json)
    if arguments.json:
        print(json.dumps([asdict(run) for run in runs]))


def sweeps(n: int, cores: Sequence[int] = (1, 2), *, quiet: bool = False) -> list[Run]:
    """The sweep on so many cores in turn, as far as there are that many."""
    usable = sorted(os.sched_getaffinity(0))
    runs: list[Run] = []
    for count in cores:
        if count > len(usable):
            continue
        os.sched_setaffinity(0, usable[:count])  # children start with it
        try:
            runs.append(sweep(n, count))
        finally:
            os.sched_setaffinity(0, usable)
        if not quiet:
            print(runs[-1].line(runs[0]), flush=True)
    return runs


def sweep(n: int, jobs: int) -> Run:
    """The command in a process of its own."""
    text = DEFINITION.read_text(encoding="utf-8").replace("n = 1000", f"n = {n}")
    with tempfile.TemporaryDirectory() as folder:
        definition = Path(folder) / "sweep.toml"
        definition.write_text(text, encoding="utf-8")
        command = ["-m", "lorapack", "sweep", str(definition), "-o", f"{folder}/rows", "-q"]
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command, "--jobs", str(jobs)])
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begun
    if status:
        sys.exit(f"the sweep failed: {status}")
    return Run(n, jobs, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
