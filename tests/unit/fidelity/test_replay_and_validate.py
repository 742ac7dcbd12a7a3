"""Measured runs replayed and scored, on runs that the twin itself 'measured'."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.fidelity.replay import (
    FURTHER_REQUESTS,
    MAX_IN_FLIGHT,
    fleet_of,
    offered_tps,
    profiles_by_model,
    read_runs,
    scenario_of,
)
from lorapack.fidelity.validate import validate
from lorapack.profile.profile import Profile
from lorapack.twin.run import run as run_twin

RUN = {
    "model": "llama-3.1-8b-instruct",
    "case": "by_hand",
    "max_loras": 8,
    "n_adapters": 7,
    "max_lora_rank": 16,
    "adapter_ranks": "8 16",
    "adapter_rates_rps": "0.4 0.2 0.1",
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "block_size": 16,
    "out_of_memory": 0,
    "duration_s": 200.0,
}


@pytest.fixture(scope="module")
def profile() -> Profile:
    return Profile.load()


def measured(profile: Profile, run: dict[str, object], stretch: float = 1.0) -> dict[str, object]:
    """A row as an engine would have left it: the twin's own figures, times stretched."""
    result = run_twin(scenario_of(run, profile, seed=11))
    return {
        **run,
        "completed": result.completed,
        "input_tokens": float(result.input_tokens),
        "output_tokens": float(result.output_tokens),
        "mean_ttft_ms": result.ttft_ms.mean * stretch,
        "median_ttft_ms": result.ttft_ms.p50 * stretch,
        "mean_tpot_ms": result.tpot_ms.mean * stretch,
        "mean_itl_ms": result.itl_ms.mean * stretch,
        "mean_running": result.mean_running,
        "mean_kv": result.kv_usage.mean,
        "max_kv": result.kv_usage.max,
        "preemptions": result.preemptions,
    }


def blank(run: dict[str, object]) -> dict[str, object]:
    """A row of an engine that did not start."""
    return {**run, "max_loras": 384, "n_adapters": 384, "max_lora_rank": 32, "out_of_memory": 1}


def frame(*rows: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)


def test_ranks_and_rates_are_dealt_round_robin_and_shuffled_apart() -> None:
    more = FURTHER_REQUESTS / 200.0
    fleets = [fleet_of(RUN, seed) for seed in range(4)]
    for fleet in fleets:
        assert Counter(a.rank for a in fleet) == {8: 4, 16: 3}
        rates = Counter(round(a.rate_rps - more, 6) for a in fleet)
        assert rates == {0.4: 3, 0.2: 2, 0.1: 2}
    deals = {tuple((a.rank, a.rate_rps) for a in fleet) for fleet in fleets}
    assert len(deals) == 4
    assert list(fleet_of(RUN, 2)) == list(fleets[2])


def test_a_scenario_is_the_run_as_it_was(profile: Profile) -> None:
    scenario = scenario_of(RUN, profile, seed=3)
    assert scenario.engine.max_loras == 8
    assert scenario.engine.max_cpu_loras >= 7
    assert scenario.max_in_flight == MAX_IN_FLIGHT == 25_200
    assert scenario.duration_s == 200.0


def test_offered_is_rates_times_mean_tokens(profile: Profile) -> None:
    assert offered_tps(RUN, profile) == pytest.approx((3 * 0.4 + 2 * 0.2 + 2 * 0.1) * 417)


def test_the_model_column_chooses_the_profile(profile: Profile) -> None:
    chosen = profiles_by_model(frame(RUN), [profile])
    assert chosen == {"llama-3.1-8b-instruct": profile}
    with pytest.raises(InputError, match="mistral"):
        profiles_by_model(frame({**RUN, "model": "mistral-7b"}), [profile])


def test_a_twin_that_measures_itself_is_right(profile: Profile) -> None:
    validation = validate(frame(measured(profile, RUN), blank(RUN)), [profile], seeds=1, seed=11)
    summary = validation.summary()
    for metric in ("throughput", "requests", "itl", "tpot", "ttft"):
        assert summary[metric]["mape"] == pytest.approx(0.0, abs=1e-9), metric
    assert summary["starts"] == {"accuracy": 1.0, "n": 2, "refusals": 1}
    assert summary["n_runs"] == 1
    assert summary["by_model"]["llama-3.1-8b-instruct"]["n_runs"] == 1


def test_an_error_put_in_comes_out(profile: Profile) -> None:
    rows = frame(measured(profile, RUN, stretch=1.25))
    summary = validate(rows, [profile], seeds=1, seed=11).summary()
    assert summary["itl"]["mape"] == pytest.approx(20.0)
    assert summary["itl"]["median_error"] == pytest.approx(-20.0)
    assert summary["throughput"]["mape"] == pytest.approx(0.0, abs=1e-9)


def test_an_engine_that_started_against_the_rule_is_a_wrong_start(profile: Profile) -> None:
    wrong = {**measured(profile, RUN), "max_loras": 384, "max_lora_rank": 32}
    summary = validate(frame(wrong), [profile], seeds=1).summary()
    assert summary["starts"]["accuracy"] == 0.0
    assert summary["n_runs"] == 0


def test_seeds_are_averaged_and_threads_change_nothing(profile: Profile) -> None:
    rows = frame(measured(profile, RUN))
    one, two = (
        validate(rows, [profile], seeds=2, jobs=jobs).rows["simulated_tps"][0] for jobs in (1, 2)
    )
    single = [
        validate(rows, [profile], seeds=1, seed=seed).rows["simulated_tps"][0] for seed in (0, 1)
    ]
    assert one == two == pytest.approx(sum(single) / 2)


def test_a_file_without_the_columns_says_which(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("model,case\nllama,one\n")
    with pytest.raises(InputError, match="max_loras"):
        read_runs(path)
