"""How far greedy is from optimal on small fleets, and whether any bound exceeds the optimum.

    pip install '.[optimum]'
    python benches/cpsat.py [--adapters 60] [--draws 3] [--seed S] [--json]

Verified plans of small fleets give the share of a GPU that each adapter takes
(`lorapack.packer.surface`). On those shares CP-SAT finds the fewest GPUs there can be, and proves
it; the plan's own number and the dual bound stand beside. The command fails if a bound exceeds an
optimum.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass

import numpy as np
from drawn_fleets import KINDS, PROFILES, poisson_fleet
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from lorapack import Adapter, Profile
from lorapack.packer.dual import GRID, dual_bound
from lorapack.packer.estimate import places_of
from lorapack.packer.margins import most_traffic, next_rung
from lorapack.packer.placing import judges_of
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.settings import Settings
from lorapack.packer.solve import prove
from lorapack.packer.surface import Full, sizes_on_surface
from lorapack.twin.service_level import SERVICE_LEVELS

LEAST_RPS, MOST_RPS = 40.0, 160.0
"""Requests per second of a fleet: two GPUs to eight or so."""


@dataclass(frozen=True)
class Row:
    """One fleet.

    Attributes:
        profile: The GPU.
        kind: How the fleet was drawn.
        n_items: Adapters, shares of split ones counted one by one.
        greedy: GPUs of the verified plan.
        optimum: The fewest on the same surface.
        proven: Whether CP-SAT proved it.
        shares: The sum of all shares.
        bound: The dual bound.
    """

    profile: str
    kind: str
    n_items: int
    greedy: int
    optimum: int
    proven: bool
    shares: float
    bound: float


def main() -> int:
    """Prints a row a fleet; 1 if a bound exceeds an optimum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=60)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="for CP-SAT, a fleet")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for name in PROFILES:
        profile = Profile.load(name)
        for seed in range(arguments.seed, arguments.seed + arguments.draws):
            for kind in KINDS:
                rate = np.random.default_rng([seed, 1]).uniform(LEAST_RPS, MOST_RPS)
                fleet = poisson_fleet(kind, arguments.adapters, rate, seed)
                rows.append(compared(profile, kind, fleet, arguments.seconds))
                if not arguments.json:
                    print(line(rows[-1]), flush=True)
    exceeding = sum(math.ceil(row.bound - 1e-6) > row.optimum for row in rows)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        gaps = [row.greedy - row.optimum for row in rows]
        print(
            f"{len(rows)} fleets: greedy over the optimum by {max(gaps)} GPUs at most, "
            f"equal in {gaps.count(0)}; bounds over the optimum: {exceeding}"
        )
    return int(exceeding > 0)


def compared(profile: Profile, kind: str, fleet: list[Adapter], seconds: float) -> Row:
    """One fleet packed, and packed again by CP-SAT on the surface of that plan."""
    problem = Problem.build(fleet, [kind_of(profile)], SERVICE_LEVELS["interactive"])
    settings = Settings()
    steer, judges = judges_of(problem, settings)
    gpus = prove(problem, settings, steer, judges).gpus
    full = [
        Full(gpu, next_rung(rung))
        for gpu, rung in zip(gpus, most_traffic(gpus, steer), strict=True)
    ]
    items = [item for gpu in gpus for item in gpu.items]
    sizes = sizes_on_surface(items, problem.pool, full, steer.level, problem.slo)
    optimum, proven = fewest(sizes, len(gpus), seconds)
    return Row(
        profile.name.split("/")[0],
        kind,
        len(items),
        len(gpus),
        optimum,
        proven,
        float(sizes.min(axis=0).sum()),
        dual_bound(sizes, places_of(full)),
    )


def fewest(sizes: NDArray[np.float64], n_gpus: int, seconds: float) -> tuple[int, bool]:
    """The fewest GPUs on which items of these sizes fit, and whether that is proven.

    Args:
        sizes: A row a class of GPU, a column an item.
        n_gpus: With so many they do.
        seconds: To look for fewer.
    """
    model = cp_model.CpModel()
    n_classes, n_items = sizes.shape
    weights = np.where(np.isfinite(sizes), np.floor(np.minimum(sizes, 2.0) * GRID), 2 * GRID)
    inside = [[model.new_bool_var("") for _ in range(n_gpus)] for _ in range(n_items)]
    is_of = [[model.new_bool_var("") for _ in range(n_classes)] for _ in range(n_gpus)]
    for places in inside:
        model.add_exactly_one(places)
    for gpu in range(n_gpus):
        model.add_at_most_one(is_of[gpu])
        for item in range(n_items):
            model.add_implication(inside[item][gpu], _any(model, is_of[gpu]))
        for row in range(n_classes):
            load = sum(int(weights[row, item]) * inside[item][gpu] for item in range(n_items))
            model.add(load <= GRID).only_enforce_if(is_of[gpu][row])
        if gpu:
            model.add(sum(is_of[gpu]) <= sum(is_of[gpu - 1]))
    # Implied by the rest, and what proves most optima: no GPU holds more than its whole.
    least = int(weights.min(axis=0).sum())
    model.add(GRID * sum(sum(classes) for classes in is_of) >= least)
    model.minimize(sum(sum(classes) for classes in is_of))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 2
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return n_gpus, False
    return round(solver.objective_value), status == cp_model.OPTIMAL


def _any(model: cp_model.CpModel, choices: list[cp_model.IntVar]) -> cp_model.IntVar:
    """A variable that is true if one of the choices is."""
    chosen = model.new_bool_var("")
    model.add_bool_or([*choices, ~chosen])
    return chosen


def line(row: Row) -> str:
    """A row as text."""
    return (
        f"{row.profile:14s} {row.kind:10s} {row.n_items:4d} items: greedy {row.greedy}, optimum "
        f"{row.optimum}{'' if row.proven else ' (not proven)'}, dual bound {row.bound:.2f}, "
        f"sum of shares {row.shares:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
