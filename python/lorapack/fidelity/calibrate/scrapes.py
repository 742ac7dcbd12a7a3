"""What a scrape of the metrics costs the API server, from the gaps between the polls of a run.

The campaign's poller slept for a fixed time after each answer, so a gap beyond that is what the
answer took. It grows all through a run, with the time series that the server has to render.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import least_squares

from lorapack.fidelity.calibrate.serving import Replayed
from lorapack.fidelity.replay import RUN_KEYS
from lorapack.fidelity.trajectories import read_timeseries

SERIES = "serving_timeseries.parquet"
"""The file of polls, in a campaign's folder."""

WINDOW_S = (3000.0, 3590.0)
"""The polls that are looked at: late in the hour, when there is most to render."""

MAX_WAITING = 2000
"""Mean requests waiting from which the server is too busy to answer at once."""

LEAST_S = 0.02
"""Answers about as short as this say little."""

START = (10.0, 0.1)
"""Where the fit begins, microseconds a series and a name."""

DIFFERENCE = 0.15
"""Relative error beyond which a run counts linearly."""


@dataclass(frozen=True)
class ScrapeFit:
    """What the fit came to.

    Attributes:
        series_us: To render one time series.
        series_adapter_us: Further, for each adapter named.
        error_percent: Median absolute error of the time an answer took.
        n: Runs.
    """

    series_us: float
    series_adapter_us: float
    error_percent: float
    n: int


def answer_times(path: Path) -> pl.DataFrame:
    """What an answer took late in each run: the median gap less the least of the campaign.

    Args:
        path: The campaign's time series.

    Returns:
        One row a run that kept up: its keys and ``answer_s``.
    """
    polls = read_timeseries(path).sort(*RUN_KEYS, "t_s")
    gap = (pl.col("t_s").shift(-1) - pl.col("t_s")).over(RUN_KEYS)
    polls = polls.with_columns(gap.cast(pl.Float64).alias("gap_s")).filter(pl.col("gap_s") > 0)
    late = polls.filter(pl.col("t_s").is_between(*WINDOW_S))
    runs = late.group_by(RUN_KEYS).agg(pl.col("gap_s").median(), pl.col("waiting").mean())
    slept_s = runs["gap_s"].min()
    kept_up = runs.filter(pl.col("waiting") < MAX_WAITING).sort(RUN_KEYS)
    return kept_up.select(
        pl.col(RUN_KEYS[:2]),
        pl.col(RUN_KEYS[2:]).cast(pl.Int64),
        answer_s=pl.col("gap_s") - slept_s,
    )


def fit_scrapes(answers: pl.DataFrame, replayed: Sequence[Replayed]) -> ScrapeFit:
    """Fits what rendering costs to what answers took in runs that the twin has replayed.

    Args:
        answers: Rows of :func:`answer_times`.
        replayed: Runs of one model, with the time series that each would have by its end.
    """
    counts = pl.DataFrame(
        [
            {
                **{name: one.run[name] for name in RUN_KEYS},
                "series": one.totals.lora_series,
                "names": one.totals.lora_series_adapters,
            }
            for one in replayed
        ]
    )
    rows = counts.join(answers, on=RUN_KEYS, maintain_order="left")
    # In the middle of the polls looked at; what there is to render grows evenly.
    share = sum(WINDOW_S) / 2 / 3600.0
    rendered = rows.select("series", "names").to_numpy() * share * 1e-6
    took = rows["answer_s"].to_numpy()

    def residuals(prices: np.ndarray) -> np.ndarray:
        return np.asarray((rendered @ prices - took) / (took + LEAST_S))

    fit = least_squares(residuals, START, bounds=(0, np.inf), loss="soft_l1", f_scale=DIFFERENCE)
    series_us, series_adapter_us = fit.x.tolist()
    error = float(np.median(np.abs(residuals(fit.x)))) * 100
    return ScrapeFit(series_us, series_adapter_us, error, rows.height)
