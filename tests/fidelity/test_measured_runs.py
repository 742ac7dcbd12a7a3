"""The shipped profiles against a sample of measured runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorapack.fidelity.replay import read_runs
from lorapack.fidelity.validate import validate
from lorapack.profile.profile import Profile

EVERY = 9
"""Of how many measured runs one is replayed here; `lorapack validate` replays them all."""


@pytest.fixture(scope="module")
def summary(measured_data: Path) -> dict[str, object]:
    runs = read_runs(measured_data / "vllm-h100" / "serving_runs.csv")
    names = [name for name in Profile.names() if "h100-64gb/vllm-0.8.5" in name]
    sample = runs.gather_every(EVERY)
    assert sample.height > 50
    validation = validate(sample, [Profile.load(name) for name in names], seeds=2)
    return validation.summary()["without_runs_that_began_with_less_kv"]


def test_throughput_and_requests(summary: dict[str, dict[str, float]]) -> None:
    assert summary["throughput"]["mape"] < 1.5
    assert summary["requests"]["mape"] < 1.5
    assert summary["throughput"]["off_by_10_percent"] == 0


def test_times_between_tokens(summary: dict[str, dict[str, float]]) -> None:
    assert summary["itl"]["mape"] < 3.2
    assert summary["tpot"]["mape"] < 3.2


def test_starvation_and_starts(summary: dict[str, dict[str, float]]) -> None:
    assert summary["starvation"]["macro_f1"] > 0.98
    assert summary["starts"]["accuracy"] == 1.0


def test_no_gross_miss_of_levels(summary: dict[str, dict[str, float]]) -> None:
    assert summary["mean_running"]["gross_miss"] < 0.02
    assert summary["kv_usage"]["gross_miss"] < 0.02
