"""How far two columns of numbers or of verdicts are apart: MAPE, SMAPE, F1. Their one home.

MAPE and SMAPE are in per cent; everything else is a share of 1. SMAPE is ``|a-b| / (|a|+|b|)``, the
measure of arXiv 2508.08343, half of the more common form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mape(simulated: ArrayLike, measured: ArrayLike) -> float:
    """Mean of ``|simulated - measured| / measured``, per cent, over pairs that are both known.

    Args:
        simulated: Values to judge.
        measured: Positive values to judge them by; a pair with a zero or unknown one is left out.

    Returns:
        Per cent; NaN when no pair is left.

    Example:
        >>> round(mape([110.0, 95.0], [100.0, 100.0]), 3)
        7.5
    """
    a, b = _pairs(simulated, measured)
    return float(np.mean(np.abs(a - b) / b) * 100) if a.size else float("nan")


def smape(simulated: ArrayLike, measured: ArrayLike) -> float:
    """Mean of ``|a - b| / (|a| + |b|)``, per cent, over the pairs :func:`mape` counts.

    Example:
        >>> round(smape([300.0], [100.0]), 3)
        50.0
    """
    a, b = _pairs(simulated, measured)
    return float(np.mean(np.abs(a - b) / (np.abs(a) + np.abs(b))) * 100) if a.size else float("nan")


def median_error(simulated: ArrayLike, measured: ArrayLike) -> float:
    """Median of the *signed* error ``(simulated - measured) / measured``, per cent."""
    a, b = _pairs(simulated, measured)
    return float(np.median((a - b) / b) * 100) if a.size else float("nan")


def share_off_by(simulated: ArrayLike, measured: ArrayLike, fraction: float) -> float:
    """Share of pairs whose relative error is above ``fraction``."""
    a, b = _pairs(simulated, measured)
    return float(np.mean(np.abs(a - b) > fraction * b)) if a.size else float("nan")


@dataclass(frozen=True)
class Errors:
    """The errors of one metric.

    Attributes:
        n: Pairs compared.
        mape: Per cent.
        smape: Per cent.
        median_error: Signed, per cent: above zero where the simulation says too much.
        off_by_5_percent: Share of pairs further off than 5 %.
        off_by_10_percent: Share of pairs further off than 10 %.
    """

    n: int
    mape: float
    smape: float
    median_error: float
    off_by_5_percent: float
    off_by_10_percent: float


def errors(simulated: ArrayLike, measured: ArrayLike) -> Errors:
    """All errors of one metric at once."""
    a, b = _pairs(simulated, measured)
    return Errors(
        n=int(a.size),
        mape=mape(a, b),
        smape=smape(a, b),
        median_error=median_error(a, b),
        off_by_5_percent=share_off_by(a, b, 0.05),
        off_by_10_percent=share_off_by(a, b, 0.10),
    )


@dataclass(frozen=True)
class Verdicts:
    """Agreement of yes/no verdicts.

    Attributes:
        n: Verdicts compared.
        precision: Of those simulated positive, the share measured positive (1 if there are none).
        recall: Of those measured positive, the share simulated positive (1 if there are none).
        macro_f1: Mean of the F1 of both classes; a class that neither side names counts as 1.
    """

    n: int
    precision: float
    recall: float
    macro_f1: float


def verdicts(simulated: ArrayLike, measured: ArrayLike) -> Verdicts:
    """Scores yes/no verdicts.

    Example:
        >>> verdicts([True, True, False, False], [True, False, False, False]).precision
        0.5
    """
    a = np.asarray(simulated, dtype=bool)
    b = np.asarray(measured, dtype=bool)
    hits = int(np.sum(a & b))
    return Verdicts(
        n=int(a.size),
        precision=hits / int(a.sum()) if a.any() else 1.0,
        recall=hits / int(b.sum()) if b.any() else 1.0,
        macro_f1=(_f1(a, b) + _f1(~a, ~b)) / 2,
    )


def _f1(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    named = int(a.sum()) + int(b.sum())
    return 2 * int(np.sum(a & b)) / named if named else 1.0


def _pairs(
    simulated: ArrayLike, measured: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a = np.asarray(simulated, dtype=np.float64)
    b = np.asarray(measured, dtype=np.float64)
    known = np.isfinite(a) & np.isfinite(b) & (b > 0)
    return a[known], b[known]
