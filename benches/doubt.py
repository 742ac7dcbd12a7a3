"""How far a predictor's doubt is to be trusted: intervals on real clients, flags, flips.

    python benches/doubt.py --clients FILE [--n FLEETS] [--profile NAME] [--model FILE]

Intervals: GPUs of ServeGen's own clients, whom no model was shown (it learns from a law of
clients), each run once by the twin; nine in ten should lie inside. Flags: fleets of the kind that
was learnt from, then the same with one raw feature moved out of its range. Flips: the same fleets
with ever more traffic; a step after which a GPU is no longer called starved is one too many.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from drawn_fleets import client_fleet
from numpy.typing import NDArray
from unseen import unseen

from lorapack import Predictor, Scenario
from lorapack.fleet.fleet import Fleet
from lorapack.predictor.features import FEATURE_NAMES, N_RAW, matrix_of
from lorapack.predictor.targets import HEADS, N_LOG_HEADS
from lorapack.profile.profile import DEFAULT_PROFILE
from lorapack.twin.physics import capacity_rps
from lorapack.twin.run import simulate_many

SEED = 2002
"""Of the clients that are drawn, and of their requests."""

LOADS = np.geomspace(0.1, 4.0, 75)
"""Of the flips: rates over what the GPU can do, each 5 % above the one before."""

BEYOND = 1.1
"""A raw feature is moved so far beyond its range."""


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--profile", default=DEFAULT_PROFILE)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    model = Predictor.load(arguments.model or arguments.profile)
    real = list(clients(model, arguments.clients, arguments.n))
    for name, share in coverage(model, real).items():
        print(f"intervals on {arguments.n} GPUs of real clients hold {name:16s} {share:.3f}")
    seen = list(drawn(arguments.profile, arguments.n))
    rows = matrix_of(seen)
    false, missed = flags(model, rows)
    print(f"flagged in vain: {false:.4f} of {len(rows)} fleets")
    print(f"not flagged with one raw feature outside its range: {missed:.4f}")
    steps, flips = count_flips(model, seen)
    print(f"more load flips starved to served in {flips} of {steps} steps: {flips / steps:.5f}")


def drawn(profile: str, n: int) -> Iterator[Scenario]:
    """Fleets by the law that was learnt from."""
    sweep = unseen(profile, n)
    for point in range(n):
        scenario = sweep.scenario(point * (sweep.design.seeds or 1))
        if isinstance(scenario, Scenario):
            yield scenario


def clients(model: Predictor, path: str, n: int) -> Iterator[Scenario]:
    """GPUs of real clients at loads from light to twice what they can do."""
    draw = np.random.default_rng(SEED)
    for seed in range(n):
        size, slots = (int(np.exp(draw.uniform(np.log(4), np.log(most)))) for most in (120, 64))
        fleet = Fleet(client_fleet(path, size, seed))
        slots = min(slots, size)
        asked = Scenario(model.profile, fleet, max_loras=slots, warm=True, seed=SEED + seed)
        load = float(np.exp(draw.uniform(np.log(0.2), np.log(2.0))))
        yield replace(asked, fleet=fleet.scaled(load * capacity_rps(asked) / fleet.rate_rps))


def coverage(model: Predictor, scenarios: Sequence[Scenario]) -> dict[str, float]:
    """Share of the runs that lie within the interval, by quantity."""
    told = model.predict_many(matrix_of(scenarios))
    results = list(simulate_many(scenarios))
    column = {name: told[:, i] for i, name in enumerate(model.targets)}
    actual = {
        "served_fraction": [result.served_fraction for result in results],
        "ttft_mean_ms": [result.ttft_ms.mean for result in results],
        "ttft_p99_ms": [result.ttft_ms.p99 for result in results],
        "itl_mean_ms": [result.itl_ms.mean for result in results],
        "itl_p99_ms": [result.itl_ms.p99 for result in results],
    }
    return {
        head.name: float(
            np.mean(
                (column[f"{head.name}_low"] <= actual[head.name])
                & (np.array(actual[head.name]) <= column[f"{head.name}_high"])
            )
        )
        for head in HEADS[:N_LOG_HEADS]
    }


def flags(model: Predictor, rows: NDArray[np.float32]) -> tuple[float, float]:
    """Share of rows in range that are flagged, and of rows outside that are not."""
    flag = model.targets.index("out_of_range")
    false = float(np.mean(model.predict_many(rows)[:, flag] > 0))
    ranges = model.card["ranges"]
    missed = []
    for at, name in enumerate(FEATURE_NAMES[:N_RAW]):
        low, high = ranges[name]
        for end in (high * BEYOND, low / BEYOND):
            # Below nothing there is nothing, and none asks for less than none.
            if low <= end <= high:
                continue
            moved = rows.copy()
            moved[:, at] = end
            missed.append(np.mean(model.predict_many(moved)[:, flag] == 0))
    return false, float(np.mean(missed))


def count_flips(model: Predictor, scenarios: Sequence[Scenario]) -> tuple[int, int]:
    """Steps to more load, and in how many of them a starved GPU becomes one that is not."""
    starved = model.targets.index("starved_probability")
    steps = flips = 0
    for scenario in scenarios:
        capacity = capacity_rps(scenario)
        factors = LOADS * capacity / scenario.fleet.rate_rps
        more = [replace(scenario, fleet=scenario.fleet.scaled(float(k))) for k in factors]
        said = model.predict_many(matrix_of(more))[:, starved] >= 0.5
        steps += len(said) - 1
        flips += int(np.sum(said[:-1] & ~said[1:]))
    return steps, flips


if __name__ == "__main__":
    main()
