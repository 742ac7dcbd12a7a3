"""A profile from the metric history of servers that nobody tested: what it shows, and how surely.

A history holds what happened to happen. A constant whose term never moved (no adapters, one slot
setting, never saturated) cannot be told from the others, so after the fit each constant's standard
error is worked out from the windows themselves; one that is not known to a quarter keeps the base
profile's value, and the rest are fitted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.observations import Observations, concatenated
from lorapack.fidelity.calibrate.step_time import FITTED, StepTimeFit, fit_step_time
from lorapack.fidelity.calibrate.windows import Setting, cut, observations_of, without_swaps
from lorapack.profile.profile import Profile
from lorapack.profile.step_time import StepTime

KNOWN_TO = 0.25
"""Largest relative standard error of a constant that counts as shown."""

FEWEST_WINDOWS = 20
"""Windows below which nothing is fitted."""

TRIED = 1.02
"""Factor on a constant by which its slope is taken."""


@dataclass(frozen=True)
class Coverage:
    """What a history says of one constant.

    Attributes:
        shown: Whether it was fitted; otherwise the base profile's value stands.
        relative_error: Its standard error over its value, as far as the windows say.
        share: Share of the measured time that its term makes up.
        value: The value in the profile.
        base: The base profile's.
    """

    shown: bool
    relative_error: float
    share: float
    value: float
    base: float


@dataclass(frozen=True)
class PassiveFit:
    """What a history came to.

    Attributes:
        profile: The profile.
        step_time: Errors of the windows.
        coverage: Constant -> what was seen of it.
        n_windows: Windows used.
    """

    profile: Profile
    step_time: StepTimeFit
    coverage: dict[str, Coverage]
    n_windows: int


def fit_history(
    histories: Sequence[tuple[pl.DataFrame, Setting]], base: Profile, *, source: str, command: str
) -> PassiveFit:
    """Fits the step time to histories of servers of one model, GPU and engine.

    Args:
        histories: Polls and the setting of each server.
        base: Where to begin, and what to keep where the history shows nothing.
        source: What the profile calls the data.
        command: The command to name in it.

    Raises:
        InputError: Too few windows in which something ran.
    """
    parts = []
    for polls, setting in histories:
        windows = without_swaps(cut(polls), setting)
        if windows.height:
            parts.append(observations_of(windows, setting, base.lengths))
    n_windows = sum(len(part) for part in parts)
    if n_windows < FEWEST_WINDOWS:
        mend = f"give a longer history: {FEWEST_WINDOWS} windows of 20 s with requests running"
        raise InputError(source, "windows", n_windows, mend)
    rows = concatenated(parts)
    rows = replace(rows, weight=rows.weight / rows.weight.sum())
    first = fit_step_time(rows, base.step_time)
    errors = relative_errors(rows, first.step_time)
    shown = [name for name in FITTED if errors[name] <= KNOWN_TO]
    fit = fit_step_time(rows, base.step_time, shown) if shown else first
    coverage = {
        name: Coverage(
            shown=name in shown,
            relative_error=errors[name],
            share=term_share(rows, fit.step_time, name),
            value=float(getattr(fit.step_time, name)),
            base=float(getattr(base.step_time, name)),
        )
        for name in FITTED
    }
    provenance = replace(
        base.provenance,
        source=source,
        command=command,
        note=f"step time from {n_windows} windows of metric history, the rest of {base.name}",
    )
    profile = replace(base, step_time=fit.step_time, provenance=provenance)
    return PassiveFit(profile, fit, coverage, n_windows)


def relative_errors(rows: Observations, step_time: StepTime) -> dict[str, float]:
    """Standard error of each constant over its value, from the rows' own scatter."""
    now = np.log(rows.predicted_ms(step_time))
    weight = np.sqrt(rows.weight / rows.weight.mean())
    scatter = now - np.log(rows.measured_ms)
    deviation = 1.4826 * float(np.median(np.abs(scatter - np.median(scatter))))
    slopes = []
    for name in FITTED:
        changed: dict[str, Any] = {name: getattr(step_time, name) * TRIED}
        tried = replace(step_time, **changed)
        slopes.append(weight * (np.log(rows.predicted_ms(tried)) - now) / np.log(TRIED))
    slope = np.column_stack(slopes)
    # A prior of one: nothing is known worse than to its own size.
    information = slope.T @ slope / max(deviation, 1e-4) ** 2 + np.eye(len(FITTED))
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    return dict(zip(FITTED, errors.tolist(), strict=True))


def term_share(rows: Observations, step_time: StepTime, name: str) -> float:
    """Share of the rows' time that one constant's term makes up."""
    none: dict[str, Any] = {name: 0.0}
    without = rows.predicted_ms(replace(step_time, **none))
    return float(1 - np.sum(without) / np.sum(rows.predicted_ms(step_time)))
