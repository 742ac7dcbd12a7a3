"""Plans of fleets nobody has seen, checked on seeds nobody has used.

    python benches/holdout.py [--sizes 1000 ...] [--draws 2] [--clients FILE] [--seed S]

Fleets are drawn from a seed that is new each time unless one is given (it is printed, so that a run
can be made again). Each is packed by prediction alone and with verification; then the twin runs
every GPU of both plans for an hour on seeds that no plan uses. GPU-hours that break the service
level are counted, of Poisson fleets and of clients apart.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from drawn_fleets import KINDS, PROFILES, client_fleet, large_fleet

from lorapack import Adapter, Predictor, Profile, pack
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.replan import carried_over
from lorapack.twin.service_level import SERVICE_LEVELS
from lorapack.twin.trial import HOUR, TwinJudge

FIRST_FRESH_SEED = 1_000_000
"""Seeds from here on are no plan's."""


@dataclass(frozen=True)
class Row:
    """One plan of one fleet.

    Attributes:
        profile: The GPU.
        kind: How the fleet was drawn.
        n_adapters: Its size.
        evidence: `predicted` or `verified`.
        n_gpus: GPUs of the plan.
        bound: Its lower bound.
        wall_s: What the plan took.
        cores_s: The same, on all cores together.
        gpu_hours: GPUs times fresh seeds.
        failing: Of these, how many broke the level.
        exempt: Clients that are exempt.
        proven: Whether the plan says that it is verified.
    """

    profile: str
    kind: str
    n_adapters: int
    evidence: str
    n_gpus: int
    bound: float
    wall_s: float
    cores_s: float
    gpu_hours: int
    failing: int
    exempt: int
    proven: bool


def main() -> None:
    """Prints a row a plan, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000])
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--profiles", nargs="+", default=PROFILES)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--clients", type=Path)
    parser.add_argument("--evidence", nargs="+", default=["predicted", "verified"])
    parser.add_argument("--fresh-seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    profiles = [Profile.load(name) for name in arguments.profiles]
    for profile in profiles if "predicted" in arguments.evidence else ():
        Predictor.load(profile)  # which every plan would else pay for once
    rows = []
    for profile in profiles:
        for kind, fleet in drawn(arguments):
            for evidence in arguments.evidence:
                rows.append(planned(profile, kind, fleet, evidence, arguments))
                if not arguments.json:
                    print(line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "rows": [asdict(row) for row in rows]}))
        return
    print(f"seed {arguments.seed}")
    for evidence in arguments.evidence:
        for poisson in (True, False):
            mine = [r for r in rows if r.evidence == evidence and (r.kind in KINDS) == poisson]
            if mine:
                print(summary(mine))


def drawn(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Adapter]]]:
    """The fleets, by kind."""
    for n in arguments.sizes:
        for number in range(arguments.draws):
            seed = arguments.seed + number
            for kind in arguments.kinds:
                yield kind, large_fleet(kind, n, seed)
            if arguments.clients is not None:
                yield "clients", client_fleet(arguments.clients, n, seed)


def planned(
    profile: Profile, kind: str, fleet: list[Adapter], evidence: str, arguments: argparse.Namespace
) -> Row:
    """One plan, made and checked."""
    begun, cores_begun = time.perf_counter(), time.process_time()
    plan = pack(profile, fleet, verify=evidence == "verified")
    wall_s, cores_s = time.perf_counter() - begun, time.process_time() - cores_begun
    problem = Problem.build(fleet, [kind_of(profile)], SERVICE_LEVELS[plan.slo])
    first = FIRST_FRESH_SEED + arguments.seed
    gpus, _ = carried_over(problem, plan)
    failing = 0
    for seed in range(first, first + arguments.fresh_seeds):
        for exempt in (False, True):
            judge = TwinJudge(SERVICE_LEVELS["batch" if exempt else plan.slo], HOUR, (seed,))
            trials = [gpu.trial() for gpu in gpus if gpu.exempt == exempt]
            failing += sum(not verdict.holds for verdict in judge.judge(trials))
    return Row(
        profile.name.split("/")[0],
        kind,
        len(fleet),
        evidence,
        plan.n_gpus,
        plan.lower_bound,
        wall_s,
        cores_s,
        len(gpus) * arguments.fresh_seeds,
        failing,
        len(plan.exempt),
        plan.verified,
    )


def line(row: Row) -> str:
    """A row as text."""
    exempt = f", {row.exempt} exempt" if row.exempt else ""
    unproven = ", NOT verified" if row.evidence == "verified" and not row.proven else ""
    return (
        f"{row.profile:14s} {row.kind:10s} {row.n_adapters:6d} {row.evidence:10s}"
        f"{row.n_gpus:4d} GPUs (bound {row.bound:6.2f}) {row.wall_s:7.2f} s "
        f"({row.cores_s:.2f} s on cores), "
        f"{row.failing} of {row.gpu_hours} GPU-hours fail{exempt}{unproven}"
    )


def summary(rows: list[Row]) -> str:
    """Sums of rows."""
    failing, hours = sum(row.failing for row in rows), sum(row.gpu_hours for row in rows)
    kind = "Poisson fleets" if rows[0].kind in KINDS else "clients"
    return (
        f"{rows[0].evidence}, {kind}: {sum(row.n_gpus for row in rows)} GPUs in {len(rows)} plans, "
        f"{failing} of {hours} GPU-hours fail ({1000 * failing / hours:.1f} in 1,000), "
        f"{np.median([row.wall_s for row in rows]):.2f} s a plan "
        f"in the median ({np.median([row.cores_s for row in rows]):.2f} s on cores)"
    )


if __name__ == "__main__":
    main()
