"""What a scrape costs is found again in polls that were made with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lorapack.fidelity.calibrate.scrapes import SERIES, WINDOW_S, answer_times, fit_scrapes
from lorapack.fidelity.calibrate.serving import MeanShape, Replayed, Totals

SERIES_US, SERIES_ADAPTER_US = 12.0, 0.2
SLEPT_S = 2.0

RUNS = [
    {
        "model": "m",
        "case": f"case {number}",
        "max_loras": 16,
        "n_adapters": 10 * number,
        "max_lora_rank": 8,
        "series": series,
        "names": names,
        "waiting": 0,
    }
    for number, (series, names) in enumerate(
        [(100, 400), (3_000, 20_000), (20_000, 900_000), (50_000, 500_000), (40_000, 4_000_000)], 1
    )
]
"""Time series by the end of an hour, and adapters named in them."""


def _polls(run: dict[str, object]) -> pl.DataFrame:
    """Polls late in an hour through which what there is to render grew evenly."""
    times = [WINDOW_S[0] - 50]
    while times[-1] < WINDOW_S[1] + 50:
        share = times[-1] / 3600 * 1e-6
        answer_s = (SERIES_US * run["series"] + SERIES_ADAPTER_US * run["names"]) * share
        times.append(times[-1] + SLEPT_S + answer_s)
    keys = {name: run[name] for name in ("model", "case", "max_loras", "n_adapters")}
    return pl.DataFrame({"t_s": times, "waiting": [run["waiting"]] * len(times)}).with_columns(
        max_lora_rank=pl.lit(8),
        running=pl.lit(1),
        kv_usage=pl.lit(0.1),
        **{name: pl.lit(value) for name, value in keys.items()},
    )


def _replayed(run: dict[str, object]) -> Replayed:
    shape = MeanShape(np.zeros(1), np.zeros(1), *[0.0] * 10)
    totals = Totals(0, 0, 0, 0, 0, 0, 0, 0, int(run["series"]), int(run["names"]))
    return Replayed(run, totals, shape, shape)


@pytest.fixture
def polls(tmp_path: Path) -> Path:
    idle = {**RUNS[0], "case": "nothing to render", "series": 0, "names": 0}
    behind = {**RUNS[3], "case": "too busy to answer", "waiting": 20_000}
    pl.concat([_polls(run) for run in [*RUNS, idle, behind]]).write_parquet(tmp_path / SERIES)
    return tmp_path / SERIES


def test_an_answer_took_what_a_gap_has_beyond_the_least(polls: Path) -> None:
    times = answer_times(polls).sort("n_adapters", "answer_s")
    assert "too busy to answer" not in times["case"].to_list()
    found = times.filter(pl.col("case") == "case 4")["answer_s"].item()
    share = sum(WINDOW_S) / 2 / 3600 * 1e-6
    made = (SERIES_US * 50_000 + SERIES_ADAPTER_US * 500_000) * share
    assert found == pytest.approx(made, rel=0.02)


def test_finds_both_prices_again(polls: Path) -> None:
    fit = fit_scrapes(answer_times(polls), [_replayed(run) for run in RUNS])
    assert fit.series_us == pytest.approx(SERIES_US, rel=0.05)
    assert fit.series_adapter_us == pytest.approx(SERIES_ADAPTER_US, rel=0.05)
    assert fit.n == len(RUNS)
    assert fit.error_percent < 5
