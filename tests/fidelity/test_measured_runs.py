"""The shipped profiles against measured engines: a sample of runs, and the toy engine on a CPU."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from lorapack.fidelity.calibrate.recordings import (
    Recording,
    profile_of_recordings,
    read_recordings,
)
from lorapack.fidelity.replay import read_runs
from lorapack.fidelity.validate import validate
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.profile.profile import Profile
from lorapack.trace.trace import SCHEMA, Trace
from lorapack.twin.result import Result
from lorapack.twin.run import simulate

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
    assert summary["throughput"]["mape"] < 1.9
    assert summary["requests"]["mape"] < 1.9
    assert summary["throughput"]["off_by_10_percent"] == 0


def test_times_between_tokens(summary: dict[str, dict[str, float]]) -> None:
    assert summary["itl"]["mape"] < 4.5
    assert summary["tpot"]["mape"] < 4.0


def test_starvation_and_starts(summary: dict[str, dict[str, float]]) -> None:
    assert summary["starvation"]["macro_f1"] > 0.98
    assert summary["starts"]["accuracy"] == 1.0


def test_no_gross_miss_of_levels(summary: dict[str, dict[str, float]]) -> None:
    assert summary["mean_running"]["gross_miss"] < 0.02
    assert summary["kv_usage"]["gross_miss"] < 0.02


@pytest.fixture(scope="module")
def recordings(measured_data: Path) -> dict[str, Recording]:
    return {r.name: r for r in read_recordings(measured_data / "vllm-cpu")}


@pytest.mark.parametrize("judged", ["grouped_ml2", "grouped_ml8"])
def test_the_toy_engine_is_replayed_end_to_end(
    recordings: dict[str, Recording], judged: str
) -> None:
    profile, _ = profile_of_recordings(list(recordings.values()), command="", source="vllm-cpu")
    result, recording = replayed(profile, recordings[judged])
    assert result.makespan_s == pytest.approx(recording.summary["makespan"], rel=0.01)
    assert result.ttft_ms.mean == pytest.approx(mean_ttft_ms(recording), rel=0.03)


def test_a_profile_from_one_recording_foretells_the_other(recordings: dict[str, Recording]) -> None:
    one = recordings["grouped_ml2"]
    profile, _ = profile_of_recordings([one], command="", source="vllm-cpu")
    result, recording = replayed(profile, recordings["grouped_ml8"])
    assert result.makespan_s == pytest.approx(recording.summary["makespan"], rel=0.03)
    assert result.ttft_ms.mean == pytest.approx(mean_ttft_ms(recording), rel=0.12)


def replayed(profile: Profile, recording: Recording) -> tuple[Result, Recording]:
    requests, settings = recording.requests, recording.settings
    ranks = dict(zip(requests["adapter"], requests["rank"], strict=True))
    fleet = Fleet([Adapter(f"a{a}", rank=int(r), rate_rps=0.0) for a, r in sorted(ranks.items())])
    frame = requests.sort("arrival").select(
        pl.col("arrival").alias("arrival_s"),
        pl.format("a{}", "adapter").alias("adapter"),
        pl.col("in").alias("prompt_tokens"),
        pl.col("out").alias("output_tokens"),
    )
    trace = Trace(frame.cast({name: kind() for name, kind in SCHEMA.items()}), recording.name)
    result = simulate(
        profile,
        fleet,
        max_loras=settings["max_loras"],
        max_lora_rank=32,
        max_cpu_loras=settings["max_cpu_loras"],
        kv_cache_tokens=recording.summary["blocks"] * settings["block_size"],
        duration_s=None,
        trace=trace,
    )
    return result, recording


def mean_ttft_ms(recording: Recording) -> float:
    return float(recording.requests["ttft"].to_numpy().mean() * 1e3)
