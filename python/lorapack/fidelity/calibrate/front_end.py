"""The fit of the time to first token, by replaying runs that were not starved.

The median shows it where nothing queues, the mean with what the first uses at the start of a run
and the scrapes of the metrics add. Both are replayed: the queue before the API server is no closed
formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from lorapack.fidelity.calibrate.observations import Floats
from lorapack.fidelity.calibrate.serving import Totals
from lorapack.fidelity.replay import scenario_of
from lorapack.profile.front_end import FrontEnd
from lorapack.profile.profile import Profile
from lorapack.twin.run import simulate_many

TIMES: Mapping[str, float] = {
    "first_use_ms": 30.0,
    "first_token_fixed_ms": 2.0,
    "first_token_request_ms": 0.01,
    "first_token_step_fraction": 0.1,
}
"""Constants of the time to first token, and the step by which each is tried.

The step logs show the first use of an adapter on a server that does nothing else; one that serves
takes longer over it, which the mean time to first token of runs with many adapters shows."""

LOWEST: Mapping[str, float] = {"first_token_fixed_ms": -20.0}
"""Lower bounds other than zero."""

ROUNDS = 2
"""Times that the replayed slopes are renewed."""

REQUEST_MS = 1.3
"""API-server time a request. Runs that are not starved hardly queue there and do not show it; it is
what overloaded starts let through (some 340 requests a second beside 600 streaming ones)."""

ROBUST = 0.1
"""Relative error of a time to first token beyond which a run counts linearly."""


@dataclass(frozen=True)
class FrontEndFit:
    """What the fit came to.

    Attributes:
        front_end: The constants.
        ttft_error_percent: Absolute error of the mean time to first token, median over the runs.
        ttft_p50_error_percent: The same of the run's median.
        n: Runs.
    """

    front_end: FrontEnd
    ttft_error_percent: float
    ttft_p50_error_percent: float
    n: int


def fit_times(
    runs: Sequence[dict[str, Any]], profile: Profile, seed: int, jobs: int | None = None
) -> FrontEndFit:
    """Fits the constants of the time to first token by replaying runs that were not starved.

    Args:
        runs: Measured rows of one model, none of them starved.
        profile: Everything else; its front end is where to begin.
        seed: One seed for all.
        jobs: Threads.
    """
    names = list(TIMES)
    measured = np.log([[float(run["mean_ttft_ms"]), float(run["median_ttft_ms"])] for run in runs])

    def errors(front_end: FrontEnd) -> Floats:
        changed = replace(profile, front_end=front_end)
        results = simulate_many([scenario_of(run, changed, seed) for run in runs], jobs=jobs)
        totals = [Totals.of(result) for result in results]
        return np.log([[t.ttft_ms, t.ttft_p50_ms] for t in totals]) - measured

    front_end = profile.front_end
    for _ in range(ROUNDS):
        now = errors(front_end)
        slopes = []
        for name, step in TIMES.items():
            tried = replace(front_end, **{name: getattr(front_end, name) + step})
            slopes.append((errors(tried) - now).ravel() / step)
        front_end = _stepped(front_end, names, np.column_stack(slopes), now.ravel())
    last = np.abs(np.expm1(errors(front_end))) * 100
    return FrontEndFit(
        front_end, float(np.median(last[:, 0])), float(np.median(last[:, 1])), len(runs)
    )


def _stepped(front_end: FrontEnd, names: Sequence[str], slopes: Floats, now: Floats) -> FrontEnd:
    """One robust step along the replayed slopes, within bounds and not too far."""
    start = np.array([getattr(front_end, name) for name in names])
    reach = np.array([8 * TIMES[name] for name in names])
    low = np.array([LOWEST.get(name, 0.0) for name in names])
    solution = least_squares(
        lambda move: np.concatenate([now + slopes @ move, 0.02 * move / reach]),
        np.zeros(len(names)),
        bounds=(np.maximum(low - start, -reach) - 1e-12, reach),
        x_scale=reach,
        loss="soft_l1",
        f_scale=ROBUST,
    )
    moved = np.maximum(start + solution.x, low)
    return replace(front_end, **dict(zip(names, moved.tolist(), strict=True)))
