"""What a prediction says: the columns of a model's output, and the labels they are learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from lorapack.predictor.features import FEATURE_INDEX
from lorapack.twin.service_level import SERVICE_LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_MARGIN = -4.0
"""A margin is not told from this one below it."""


@dataclass(frozen=True)
class Head:
    """One quantity that the network learns, as what must be added to physics.

    Attributes:
        name: Column of the output, in the unit of its suffix.
        meaning: One line for people.
        base: Feature whose logarithm physics puts in its place; ``None``: learnt as it is.
        label: Column of a sweep's rows that holds what the twin said, or ``None``.
    """

    name: str
    meaning: str
    base: str | None
    label: str | None


HEADS: tuple[Head, ...] = (
    Head(
        "served_fraction",
        "tokens served over tokens that really were offered, 0..1",
        "served_fraction",
        "served_fraction",
    ),
    Head(
        "ttft_mean_ms",
        "time to first token, mean over completed requests",
        "ttft_s",
        "ttft_mean_ms",
    ),
    Head("ttft_p99_ms", "the same, 99th percentile", "ttft_s", "ttft_p99_ms"),
    Head("itl_mean_ms", "time between tokens as a client sees it, mean", "itl_s", "itl_mean_ms"),
    Head("itl_p99_ms", "the same, 99th percentile", "prefill_step_s", "itl_p99_ms"),
    Head(
        "slo_margin",
        "room in the service level `interactive`: 0 is its edge, 1 comfort, -4 far off",
        None,
        None,
    ),
)
"""What the network learns; all but the margin in logarithms."""

N_LOG_HEADS = sum(head.base is not None for head in HEADS)
"""Heads learnt in logarithms; they come first, and each has an interval."""

MILLISECONDS = np.log(1e3)
"""Added to the logarithm of a time in seconds: a model's times are milliseconds."""

OUTPUTS: tuple[str, ...] = (
    "served_fraction",
    "throughput_tps",
    *(head.name for head in HEADS[1:N_LOG_HEADS]),
    *(f"{head.name}_low" for head in HEADS[:N_LOG_HEADS]),
    *(f"{head.name}_high" for head in HEADS[:N_LOG_HEADS]),
    "starved_probability",
    "slo_margin",
    "out_of_range",
)
"""Columns of a model's output, in their order."""


class Prediction(NamedTuple):
    """What a model says of one GPU. Times in milliseconds, as clients see them.

    Attributes:
        served_fraction: Tokens served over tokens that really were offered, 0..1.
        throughput_tps: Prompt and output tokens of completed requests, tokens per second.
        ttft_mean_ms: Time to first token, mean over completed requests.
        ttft_p99_ms: The same, 99th percentile.
        itl_mean_ms: Time between tokens, mean.
        itl_p99_ms: The same, 99th percentile.
        served_fraction_low: Nine in ten runs serve more than this or so; with ``_high`` the
            interval that holds nine in ten. The other ``_low`` and ``_high`` likewise.
        ttft_mean_ms_low: Of ``ttft_mean_ms``.
        ttft_p99_ms_low: Of ``ttft_p99_ms``.
        itl_mean_ms_low: Of ``itl_mean_ms``.
        itl_p99_ms_low: Of ``itl_p99_ms``.
        served_fraction_high: Of ``served_fraction``.
        ttft_mean_ms_high: Of ``ttft_mean_ms``.
        ttft_p99_ms_high: Of ``ttft_p99_ms``.
        itl_mean_ms_high: Of ``itl_mean_ms``.
        itl_p99_ms_high: Of ``itl_p99_ms``.
        starved_probability: That less than 0.9 of the offered tokens are served, 0..1.
        slo_margin: Room in the service level ``interactive``: 0 is its edge, 1 comfort.
        out_of_range: Not 0 where a raw feature lies outside the range of training.
    """

    served_fraction: float
    throughput_tps: float
    ttft_mean_ms: float
    ttft_p99_ms: float
    itl_mean_ms: float
    itl_p99_ms: float
    served_fraction_low: float
    ttft_mean_ms_low: float
    ttft_p99_ms_low: float
    itl_mean_ms_low: float
    itl_p99_ms_low: float
    served_fraction_high: float
    ttft_mean_ms_high: float
    ttft_p99_ms_high: float
    itl_mean_ms_high: float
    itl_p99_ms_high: float
    starved_probability: float
    slo_margin: float
    out_of_range: float


BASES: tuple[int, ...] = tuple(FEATURE_INDEX[head.base] for head in HEADS if head.base is not None)
"""Place of each logarithmic head's base in a row of features."""


def labelled(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that can be learnt from: with figures, and enough completed requests to have any."""
    return rows.filter(
        pl.col("starts"),
        pl.col("completed") >= 5,
        pl.all_horizontal(
            pl.col(head.label).is_finite() & (pl.col(head.label) > 0)
            for head in HEADS
            if head.label is not None
        ),
    )


def labels_of(rows: pl.DataFrame) -> NDArray[np.float64]:
    """What the twin said, a row a scenario and a column a head, in the heads' units."""
    columns = [rows[head.label].to_numpy() if head.label else margins_of(rows) for head in HEADS]
    return np.stack(columns, axis=1).astype(np.float64)


def margins_of(rows: pl.DataFrame) -> NDArray[np.float64]:
    """Room in the service level ``interactive``: the least over its three promises.

    Each is 0 at its edge and at most 1: (served - 0.98) / 0.02, log2(2 s / TTFT p99, unserved
    counted), (least served of an adapter - 0.9) / 0.1.
    """
    level = SERVICE_LEVELS["interactive"]
    least = pl.col("least_served_fraction").fill_null(1.0)
    parts = (
        (pl.col("served_fraction") - level.min_served) / (1.0 - level.min_served),
        (level.ttft_p99_ms / pl.col("ttft_with_unserved_p99_ms")).log(2.0),
        (least - level.adapter_min_served) / (1.0 - (level.adapter_min_served or 0.0)),
    )
    margin = pl.min_horizontal(part.fill_nan(1.0) for part in parts).clip(LEAST_MARGIN, 1.0)
    return rows.select(margin=margin)["margin"].to_numpy()
