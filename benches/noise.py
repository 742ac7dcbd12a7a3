"""How much what a GPU holds varies from seed to seed: the constant behind the headroom of plans.

    python benches/noise.py [--slo interactive] [--sizes 1000] [--seeds 8] [--seed S]

Fleets are drawn from a seed that is new each time unless one is given. Each is packed and verified;
then the twin is asked, seed by seed, at how many times its traffic each GPU breaks. Printed is the
deviation of that, times the square root of the GPU's requests per second: a constant, if the noise
is that of the number of requests (`NOISE` and `SERVED_NOISE` in `lorapack.packer.margins`).
"""

from __future__ import annotations

import argparse
import math
import secrets
from dataclasses import dataclass

import numpy as np
from drawn_fleets import KINDS, PROFILES, large_fleet

from lorapack import Profile, pack
from lorapack.packer.margins import LADDER, most_traffic
from lorapack.packer.placement import GpuPlacement
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.replan import carried_over
from lorapack.packer.verify import Judges, short_of_slots
from lorapack.twin.service_level import SERVICE_LEVELS, ServiceLevel
from lorapack.twin.trial import HOUR, TwinJudge

FIRST_SEED = 3_000_000
"""Seeds from here on are no plan's."""

BELOW_RPS = (6.0, 9.0, 12.0, 16.0, 22.0, 30.0, math.inf)
"""Classes of GPUs by their requests per second."""


@dataclass(frozen=True)
class Spread:
    """Of one GPU.

    Attributes:
        rate_rps: Its requests per second.
        crowded: Whether it has fewer slots than adapters.
        variance: Of the multiple of its traffic at which it breaks.
    """

    rate_rps: float
    crowded: bool
    variance: float


def main() -> None:
    """Prints a row a class of GPUs, and all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slo", default="interactive", choices=sorted(SERVICE_LEVELS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000])
    parser.add_argument("--profiles", nargs="+", default=PROFILES)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    arguments = parser.parse_args()
    slo = SERVICE_LEVELS[arguments.slo]
    spreads: list[Spread] = []
    for profile in map(Profile.load, arguments.profiles):
        for n in arguments.sizes:
            for kind in arguments.kinds:
                fleet = large_fleet(kind, n, arguments.seed)
                plan = pack(profile, fleet, slo=slo)
                gpus, _ = carried_over(Problem.build(fleet, [kind_of(profile)], slo), plan)
                spreads += spread_of(gpus, slo, arguments.seeds)
    print(f"seed {arguments.seed}, slo {slo.name}: deviation x sqrt(requests per second)")
    least = 0.0
    for below in BELOW_RPS:
        print(
            line(
                f"{least:g} to {below:g} req/s", [s for s in spreads if least <= s.rate_rps < below]
            )
        )
        least = below
    print(line("short of slots", [s for s in spreads if s.crowded]))
    print(line("a slot each", [s for s in spreads if not s.crowded]))
    print(line("all", spreads))


def spread_of(gpus: list[GpuPlacement], slo: ServiceLevel, n_seeds: int) -> list[Spread]:
    """Where GPUs break, over seeds; those that hold at most multiples are left out."""
    broke = []
    for seed in range(FIRST_SEED, FIRST_SEED + n_seeds):
        judge = TwinJudge(slo, HOUR, (seed,))
        judges = Judges(judge, judge, slo, slo)
        broke.append([LADDER[max(rung, 0)] for rung in most_traffic(gpus, judges)])
    return [
        Spread(
            sum(load.rate_rps for load in gpu.loads),
            short_of_slots(gpu),
            float(np.var(own, ddof=1)),
        )
        for gpu, own in zip(gpus, np.transpose(broke), strict=True)
        if max(own) < LADDER[-6]
    ]


def line(name: str, spreads: list[Spread]) -> str:
    """A class of GPUs as text."""
    if not spreads:
        return f"{name:18s}    0 GPUs"
    scaled = math.sqrt(np.mean([s.variance * s.rate_rps for s in spreads]))
    deviation = math.sqrt(np.mean([s.variance for s in spreads]))
    return f"{name:18s} {len(spreads):4d} GPUs, deviation {deviation:.4f}, scaled {scaled:.4f}"


if __name__ == "__main__":
    main()
