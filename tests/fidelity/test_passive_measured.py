"""Measured time series fed to passive calibration as if they were servers' histories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lorapack.fidelity.calibrate.passive import PassiveFit, fit_history
from lorapack.fidelity.calibrate.windows import Setting
from lorapack.fidelity.replay import RUN_KEYS, fleet_of, read_runs
from lorapack.fidelity.trajectories import load_begins_s
from lorapack.profile.estimate import step_errors
from lorapack.profile.profile import Profile

FIRST_USE_S = 0.35
"""Seconds at the start, an adapter, in which first uses queue: no history of a warm server."""


@pytest.fixture(scope="module")
def campaign(measured_data: Path) -> Path:
    return measured_data / "vllm-h100"


@pytest.fixture(scope="module")
def llama() -> Profile:
    return Profile.load("llama-3.1-8b/h100-64gb/vllm-0.8.5")


def fitted(campaign: Path, llama: Profile, *, light: bool) -> tuple[PassiveFit, Profile]:
    """Llama's histories against Qwen's constants on Llama's shape."""
    runs = read_runs(campaign / "serving_runs.csv").filter(
        pl.col("model").str.starts_with("llama") & (pl.col("out_of_memory") == 0)
    )
    series = pl.read_parquet(campaign / "serving_timeseries.parquet")
    polled = dict(series.group_by(RUN_KEYS))
    histories = []
    for run in runs.to_dicts()[::3]:
        if light and run["mean_waiting"] > 5:
            continue
        polls = polled[tuple(run[name] for name in RUN_KEYS)].sort("t_s")
        begins = load_begins_s(polls) + FIRST_USE_S * run["n_adapters"]
        rates = np.array([adapter.rate_rps for adapter in fleet_of(run, 0)])
        plan = llama.memory_plan(run["max_loras"], run["max_lora_rank"])
        setting = Setting(
            max_loras=run["max_loras"],
            max_lora_rank=run["max_lora_rank"],
            kv_cache_tokens=plan.kv_cache_tokens,
            max_num_batched_tokens=2048,
            block_size=16,
            cpu_loras=run["n_adapters"],
            shares=rates / rates.sum(),
        )
        histories.append((polls.filter(pl.col("t_s") > begins), setting))
    qwen = Profile.load("qwen-2.5-7b/h100-64gb/vllm-0.8.5")
    step_time = replace(qwen.step_time, model=llama.model)
    base = replace(qwen, model=llama.model, lengths=llama.lengths, step_time=step_time)
    return fit_history(histories, base, source="time series", command=""), base


def test_light_load_alone_finds_the_other_models_steps(campaign: Path, llama: Profile) -> None:
    fit, base = fitted(campaign, llama, light=True)
    assert fit.n_windows > 500
    found, begun = step_errors(fit.profile, llama), step_errors(base, llama)
    with_lora = [name for name in found if not name.startswith("0 slots")]
    assert max(abs(found[name]) for name in with_lora) < 0.07
    mean = {
        key: np.mean([abs(e[name]) for name in with_lora])
        for key, e in (("found", found), ("begun", begun))
    }
    assert mean["found"] < mean["begun"]


def test_what_light_load_cannot_show_is_said(campaign: Path, llama: Profile) -> None:
    fit, _ = fitted(campaign, llama, light=True)
    for name in ("skipped_ms", "waiting_ms", "arrival_ms"):
        assert not fit.coverage[name].shown, name
    assert fit.coverage["fixed_ms"].shown
    assert fit.coverage["adapter_ms"].shown
