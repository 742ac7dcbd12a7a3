"""The fit of a step's price: constants of the physical form from measured step times.

Robust (soft L1), non-negative, weakly held to physical starting values where the data say nothing.
Errors are relative, so a step of 12 ms and one of 200 ms count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from lorapack.fidelity.calibrate.observations import Floats, Observations
from lorapack.profile.step_time import StepTime

TYPICAL_ERROR = 0.01
"""Relative error of a step time beyond which a row counts linearly, not squared."""

PULL = 0.002
"""Weight of holding a constant to its start, against all the data together at a weight of 1."""

TIED_ROUNDS = 2
"""Times that the weights' time is renewed from the context's price; the last moves it by 1 %."""

LOGGING_MS = 1.0
"""Where the time that a step's log took begins; it is of the measurement, not of the engine."""

FITTED = (
    "fixed_ms",
    "eager_ms",
    "request_ms",
    "token_ms",
    "context_token_ms",
    "mixed_context_token_ms",
    "lora_fixed_ms",
    "lora_block_ns",
    "lora_token_ms",
    "adapter_ms",
    "adapter_rank_ms",
    "adapter_small_batch_ms",
    "adapter_block_ns",
    "adapter_lookup_ns",
    "lora_mapping_ms",
    "lora_mapping_request_ms",
    "skipped_ms",
    "waiting_ms",
    "arrival_ms",
)
"""Constants that measurements decide; the rest of the form is counted from the model's shape."""


@dataclass(frozen=True)
class StepTimeFit:
    """What a fit came to.

    Attributes:
        step_time: The constants.
        logging_ms: What the log of the adapters in a step took the engine that wrote it.
        error_percent: By source of the rows: median of the absolute error, per cent.
        bias_percent: By source: median of the signed error, per cent.
        n: By source: rows.
    """

    step_time: StepTime
    logging_ms: float
    error_percent: Mapping[str, float]
    bias_percent: Mapping[str, float]
    n: Mapping[str, int]


def fit_step_time(
    rows: Observations, start: StepTime, names: Sequence[str] = FITTED
) -> StepTimeFit:
    """Fits the named constants to the rows; the others stay as they are in ``start``.

    Args:
        rows: Measured times and shapes; weights should sum to about 1.
        start: Where to begin, and what to hold to where the rows say nothing.
        names: Constants to fit.
    """
    begin = np.array([*(getattr(start, name) for name in names), LOGGING_MS])
    scale = np.maximum(np.abs(begin), 1e-6)
    weight = np.sqrt(rows.weight / rows.weight.sum())
    measured = np.log(rows.measured_ms)

    def candidate(scaled: Floats) -> StepTime:
        values = dict(zip(names, (scaled * scale)[:-1].tolist(), strict=True))
        return replace(start, **values)

    def residuals(scaled: Floats) -> Floats:
        predicted = rows.predicted_ms(candidate(scaled), scaled[-1] * LOGGING_MS)
        error = rows.gain * (np.log(predicted) - measured)
        # Soft L1 by hand, so that the pull below stays quadratic.
        soft = np.sqrt(2 * (np.sqrt(1 + (error / TYPICAL_ERROR) ** 2) - 1))
        return np.concatenate([weight * soft * np.sign(error), np.sqrt(PULL) * (scaled - 1)])

    solution = least_squares(
        residuals, np.ones(begin.size), bounds=(0.0, np.inf), x_scale=1.0, max_nfev=200
    )
    return assessed(candidate(solution.x), rows, float(solution.x[-1]) * LOGGING_MS)


def weights_tied_to_context(step_time: StepTime) -> StepTime:
    """Sets the time to read the weights by the bandwidth at which context is read.

    The data do not tell a step's fixed time from the reading of the weights: both are there in
    every step. The price of a context token does: it is KV bytes over the same memory's bandwidth.
    """
    model = step_time.model
    lm_head = model.vocab_size * model.hidden_size
    read = model.linear_parameters * model.linear_weight_bits / 8 + lm_head * model.dtype_bytes
    per_byte = step_time.context_token_ms / model.kv_bytes_per_token()
    weights_ms = read * per_byte
    moved = step_time.weights_ms - weights_ms
    fixed_ms = max(step_time.fixed_ms + moved, 0.0)
    return replace(step_time, weights_ms=weights_ms, fixed_ms=fixed_ms)


def fit_with_weights_tied(rows: Observations, start: StepTime) -> StepTimeFit:
    """Fits all of :data:`FITTED`, with the weights' time held to the context's bandwidth."""
    fit = fit_step_time(rows, start)
    for _ in range(TIED_ROUNDS):
        fit = fit_step_time(rows, weights_tied_to_context(fit.step_time))
    return fit


def assessed(step_time: StepTime, rows: Observations, logging_ms: float = 0.0) -> StepTimeFit:
    """The errors of given constants on the rows, by source."""
    error = (np.log(rows.predicted_ms(step_time, logging_ms)) - np.log(rows.measured_ms)) * 100
    sources = sorted(set(rows.source.tolist()))
    by = {source: error[rows.source == source] for source in sources}
    return StepTimeFit(
        step_time=step_time,
        logging_ms=logging_ms,
        error_percent={key: float(np.median(np.abs(value))) for key, value in by.items()},
        bias_percent={key: float(np.median(value)) for key, value in by.items()},
        n={key: int(value.size) for key, value in by.items()},
    )
