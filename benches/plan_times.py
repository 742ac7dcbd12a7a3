"""How long a plan by prediction alone takes: the first in a process, and the best of some later.

    python benches/plan_times.py [--sizes 1000 10000 100000] [--trace FILE] [--tries 5] [--seed 1]

Each fleet is packed in a process of its own, in which the profile's model is loaded before the
clock starts: what a scheduler pays that plans more than once. `cores` is time on all cores: on a
machine that is busy with other work, the wall says more of that. `lp.Packer` places the same
adapters one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drawn_fleets import KINDS, PROFILES, RANK_SHARES, RANKS, large_fleet

from lorapack import Adapter, Infeasible, Packer, Predictor, Profile, Trace, pack
from lorapack.fleet.draw import Popularity, RankMix
from lorapack.fleet.from_trace import Dealing, fleet_from_trace

ONE_BY_ONE = 10_000
"""Adapters that `lp.Packer` is given at most."""


def main() -> None:
    """Prints a row a fleet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--profiles", nargs="+", default=PROFILES)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("PROFILE", "KIND", "N"), help="in this process")
    arguments = parser.parse_args()
    if arguments.one is not None:
        profile, kind, n = arguments.one
        print(json.dumps(timed(profile, kind, int(n), arguments)))
        return
    rows = list(in_processes_of_their_own(arguments))
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "rows": rows}))


def in_processes_of_their_own(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a fleet."""
    kinds = [*arguments.kinds, *(["trace"] if arguments.trace else [])]
    for profile in arguments.profiles:
        for n in arguments.sizes:
            for kind in kinds:
                command = [sys.executable, __file__, "--one", profile, kind, str(n)]
                command += ["--tries", str(arguments.tries), "--seed", str(arguments.seed)]
                command += ["--trace", str(arguments.trace)] if arguments.trace else []
                done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
                row = json.loads(done.stdout)
                if not arguments.json:
                    print(line(row), flush=True)
                yield row


def timed(name: str, kind: str, n: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The first plan of a process, and the best of those after it."""
    profile = Profile.load(name)
    Predictor.load(profile)
    fleet = drawn(kind, n, arguments)
    taken = []
    for _ in range(1 + arguments.tries):
        begun, cores_begun = time.perf_counter(), time.process_time()
        plan = pack(profile, fleet, verify=False)
        taken.append((time.perf_counter() - begun, time.process_time() - cores_begun))
    packer = Packer(profile)
    adds = []
    for adapter in fleet[:ONE_BY_ONE]:
        begun = time.perf_counter()
        # One that is too hot for a GPU is refused here, where `pack` divides it.
        with contextlib.suppress(Infeasible):
            packer.add(adapter)
        adds.append(time.perf_counter() - begun)
    adds.sort()
    return {
        "profile": name.split("/")[0],
        "kind": kind,
        "n_adapters": len(fleet),
        "n_gpus": plan.n_gpus,
        "bound": plan.lower_bound,
        "first_s": taken[0][0],
        "first_cores_s": taken[0][1],
        "best_s": min(wall for wall, _ in taken[1:]),
        "best_cores_s": min(cores for _, cores in taken[1:]),
        "add_p50_us": 1e6 * adds[len(adds) // 2],
        "add_p99_us": 1e6 * adds[len(adds) * 99 // 100],
        "add_first_ms": 1e3 * adds[-1],
    }


def drawn(kind: str, n: int, arguments: argparse.Namespace) -> list[Adapter]:
    """A fleet of that kind: `trace` has the rates, lengths and clumps of requests dealt by Zipf."""
    if kind != "trace":
        return large_fleet(kind, n, arguments.seed)
    ranks = RankMix(dict(zip(RANKS, RANK_SHARES, strict=True)))
    rates = sum(adapter.rate_rps for adapter in large_fleet("zipf", n, arguments.seed))
    dealing = Dealing(n, Popularity("zipf", 1.0), ranks, rate_rps=rates, seed=arguments.seed)
    fleet = fleet_from_trace(Trace.read(arguments.trace), dealing).fleet
    return [
        Adapter(adapter.adapter, adapter.rank, adapter.rate_rps)
        for adapter in fleet
        if adapter.rate_rps > 0
    ]


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    return (
        "{profile:14s} {kind:10s} {n_adapters:7d}: {n_gpus:4d} GPUs (bound {bound:6.1f}), first "
        "{first_s:.3f} s ({first_cores_s:.3f} on cores), then {best_s:.3f} s ({best_cores_s:.3f}); "
        "add {add_p50_us:.0f} us, 99 % {add_p99_us:.0f} us, longest {add_first_ms:.1f} ms"
    ).format(**row)


if __name__ == "__main__":
    main()
