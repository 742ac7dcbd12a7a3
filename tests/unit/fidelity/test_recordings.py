"""Step recordings made from known prices give those prices back."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lorapack import Adapter, Fleet, Profile, simulate
from lorapack.cli.main import run
from lorapack.errors import InputError
from lorapack.fidelity.calibrate import recorded_replay
from lorapack.fidelity.calibrate.recorded_batch import attention_pairs, context_tokens
from lorapack.fidelity.calibrate.recorded_run import is_recordings, read_recordings
from lorapack.fidelity.calibrate.recordings import fit_recordings, profile_of_recordings
from lorapack.trace.trace import SCHEMA, Trace

FIXED, REQUEST, TOKEN, ADAPTER = 9.0, 0.3, 0.17, 2.7
DISK, COPY, FIRST_USE = 2.0, 1.0, 3.0
SKIPPED, WAITING = 0.002, 0.0005
SETTINGS = {
    "block_size": 32,
    "max_num_seqs": 32,
    "max_batched": 512,
    "max_loras": 8,
    "max_cpu_loras": 8,
}


def record(
    folder: Path, name: str, *, grouped: bool, seed: int, factor: float = 1.0, noise: float = 0.0
) -> None:
    """Writes a recording whose steps cost what the constants above say, times ``factor``.

    Args:
        folder: Where.
        name: Of the recording.
        grouped: Whether it says so.
        seed: Of its batches.
        factor: On every step.
        noise: Standard deviation of a step's time, a share of it.
    """
    random = np.random.default_rng(seed)
    n = 400
    decodes = random.integers(0, 20, n)
    prompts = random.integers(0, 2, n) * random.integers(40, 200, n)
    requests = decodes + (prompts > 0)
    distinct = np.minimum(random.integers(1, 9, n), np.maximum(requests, 1))
    loads = (random.random(n) < 0.1).astype(int)
    waiting = random.integers(0, 100, n)
    full = random.random(n) < 0.2
    requests = np.where(full, SETTINGS["max_num_seqs"], requests)
    queue = SKIPPED * waiting * ~full + WAITING * waiting
    cost = FIXED + REQUEST * requests + TOKEN * (decodes + prompts) + ADAPTER * distinct + queue
    cost = (cost + FIRST_USE * loads) * (1 + noise * random.standard_normal(n))
    took = (cost + (DISK + COPY) * loads) * factor / 1e3
    start = np.concatenate([[0.0], np.cumsum(took)[:-1]])
    steps = {
        "t": start,
        "dt": took,
        "t_sched": (0.1 + 0.01 * requests + queue) / 1e3,
        "batch": requests,
        "tokens": decodes + prompts,
        "prefill_reqs": (prompts > 0).astype(int),
        "prefill_tokens": prompts,
        "distinct": distinct,
        "waiting_after": waiting,
        "load": DISK * loads / 1e3,
        "n_load": loads,
        "activate": COPY * loads / 1e3,
        "n_act": loads,
    }
    requests_made = {
        "adapter": [0, 1, 2, 3],
        "rank": [8, 8, 16, 16],
        "in": [100, 120, 140, 90],
        "out": [50, 40, 60, 55],
        "arrival": [0.0] * 4,
        "first": [1e9] * 4,
        "done": [2e9] * 4,
    }
    write(folder, name, pl.DataFrame(steps), pl.DataFrame(requests_made), grouped=grouped)


def write(
    folder: Path, name: str, steps: pl.DataFrame, requests: pl.DataFrame, **settings: object
) -> None:
    (folder / f"{name}_steps.csv.gz").write_bytes(gzip.compress(steps.write_csv().encode()))
    requests.write_csv(folder / f"{name}_requests.csv")
    summary = {"args": SETTINGS | settings, "blocks": 4096}
    (folder / f"{name}_summary.json").write_text(json.dumps(summary))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record(tmp_path, "grouped_a", grouped=True, seed=1)
    record(tmp_path, "grouped_b", grouped=True, seed=2)
    record(tmp_path, "stock", grouped=False, seed=3, factor=3.0)
    return tmp_path


def test_prices_are_recovered(folder: Path) -> None:
    profile, fit = profile_of_recordings(read_recordings(folder), command="c", source="s")
    step_time = profile.step_time
    assert step_time.fixed_ms == pytest.approx(FIXED, rel=1e-6)
    assert step_time.request_ms == pytest.approx(REQUEST, rel=1e-6)
    assert step_time.token_ms == pytest.approx(TOKEN, rel=1e-6)
    assert step_time.adapter_ms == pytest.approx(ADAPTER, rel=1e-6)
    assert profile.adapter_loading.gpu_load_ms(8, 8) == pytest.approx(COPY, rel=1e-6)
    assert profile.adapter_loading.disk_load_ms(8) == pytest.approx(DISK + FIRST_USE, rel=1e-6)
    assert profile.rule_set == "vllm-0.33"
    assert fit.errors["grouped_a"].total == pytest.approx(0.0, abs=1e-6)


def test_the_schedulers_own_time_prices_the_queue(folder: Path) -> None:
    profile, _ = profile_of_recordings(read_recordings(folder), command="c", source="s")
    assert profile.step_time.skipped_ms == pytest.approx(SKIPPED, rel=1e-6)
    assert profile.step_time.waiting_ms == pytest.approx(WAITING, rel=1e-6)


def test_noise_that_is_a_share_of_the_step_does_not_move_the_price_of_short_steps(
    tmp_path: Path,
) -> None:
    record(tmp_path, "grouped", grouped=True, seed=4, noise=0.05)
    profile, _ = profile_of_recordings(read_recordings(tmp_path), command="c", source="s")
    assert profile.step_time.fixed_ms == pytest.approx(FIXED, rel=0.04)
    assert profile.step_time.adapter_ms == pytest.approx(ADAPTER, rel=0.04)


def test_another_kernel_is_reported_and_never_mixed_in(folder: Path) -> None:
    _, fit = profile_of_recordings(read_recordings(folder), command="c", source="s")
    assert -66.7 < fit.errors["stock"].total < -64


def test_each_recording_is_foretold_from_the_others(folder: Path) -> None:
    profile, fit = profile_of_recordings(read_recordings(folder), command="c", source="s")
    assert set(fit.left_out) == {"grouped_a", "grouped_b"}
    assert all(abs(errors.total) < 1e-6 for errors in fit.left_out.values())
    assert profile.provenance.uncertainty.step_time_fraction == pytest.approx(0.0, abs=1e-6)


def test_one_recording_says_nothing_of_its_uncertainty(tmp_path: Path) -> None:
    record(tmp_path, "grouped", grouped=True, seed=1)
    profile, fit = profile_of_recordings(read_recordings(tmp_path), command="c", source="s")
    assert not fit.left_out
    assert profile.provenance.uncertainty.step_time_fraction is None


def test_errors_are_reported_by_kind_of_step(folder: Path) -> None:
    a, b, stock = read_recordings(folder)
    errors = fit_recordings([a], [stock, replace(b, steps=b.steps.filter(pl.col("tokens") < 20))])
    assert errors.errors["stock"].decode is not None
    assert errors.errors["stock"].prompts is not None
    assert errors.errors["grouped_b"].prompts is None


def test_the_profile_is_priced_as_its_recordings(folder: Path) -> None:
    profile, _ = profile_of_recordings(read_recordings(folder), command="c", source="s")
    tables = profile.step_time.tables(8, 32, 512)
    step = int(tables.base[110]) + 3 * int(tables.distinct_adapter[110]) + 11 * tables.request_ps
    expected = FIXED + TOKEN * 110 + 3 * ADAPTER + 11 * REQUEST
    assert step * 1e-9 == pytest.approx(expected, rel=1e-3)


def test_context_grows_from_the_prompt_with_every_token() -> None:
    start = np.array([0.5, 1.0, 1.5, 2.0, 3.0])
    context = context_tokens(
        start,
        np.array([1.0, 1.5]),
        np.array([2.0, 3.0]),
        np.array([100.0, 10]),
        np.array([20.0, 6]),
    )
    assert context == pytest.approx([0, 100, 110 + 10, 10 + 2, 0])


def test_pairs_of_prompts_whole_cut_and_several_in_a_step() -> None:
    start = np.array([0.0, 1.0, 2.0, 3.0])
    prompts = np.array([4.0, 3, 10])
    ends = np.array([1.0, 1.0, 3.0])
    # Both short prompts and 5 tokens of the long one, then 3 more, then the last 2.
    pairs = attention_pairs(start, np.array([12.0, 3, 2, 0]), ends, prompts)
    assert pairs == pytest.approx([10 + 6 + 15, 36 - 15, 55 - 36, 0])


@pytest.fixture
def truth(folder: Path) -> Profile:
    """A profile with every price that recordings show."""
    profile, _ = profile_of_recordings(read_recordings(folder), command="c", source="s")
    attention = {"context_token_ms": 8e-4, "mixed_context_token_ms": 1.2e-3}
    step_time = replace(profile.step_time, **attention, attention_tflops=0.5)
    return replace(profile, step_time=step_time)


def recorded(profile: Profile, folder: Path, name: str, max_loras: int) -> None:
    """Writes a run of the twin as if an engine had been recorded, all its adapters read before."""
    random = np.random.default_rng(5)
    n = 200
    sent = pl.DataFrame(
        {
            "arrival_s": np.cumsum(random.exponential(0.12, n)),
            "adapter": [f"{i}" for i in random.integers(0, 16, n)],
            "prompt_tokens": random.integers(20, 300, n),
            "output_tokens": random.integers(5, 100, n),
        }
    )
    result = simulate(
        profile,
        Fleet([Adapter(f"{i}", rank=8, rate_rps=0.0) for i in range(16)]),
        max_loras=max_loras,
        max_lora_rank=8,
        max_cpu_loras=16,
        kv_cache_tokens=4096 * SETTINGS["block_size"],
        duration_s=None,
        trace=Trace(sent.cast({name: kind() for name, kind in SCHEMA.items()}), name),
        warm=True,
        records=True,
    )
    assert result.steps is not None
    assert result.requests is not None
    requests = result.requests.select(
        pl.col("adapter").cast(pl.String).cast(pl.Int64),
        pl.lit(8).alias("rank"),
        pl.col("prompt_tokens").alias("in"),
        pl.col("output_tokens").alias("out"),
        pl.col("arrival_s").alias("arrival"),
        pl.col("first_token_s").alias("first"),
        pl.col("done_s").alias("done"),
    )
    start = result.steps["start_s"].to_numpy() + 1e-6
    begun = np.searchsorted(np.sort(requests["first"].to_numpy()), start)
    decodes = begun - np.searchsorted(np.sort(requests["done"].to_numpy()), start)
    queue = SKIPPED * pl.col("skipped") + WAITING * pl.col("waiting")
    steps = result.steps.select(
        pl.col("start_s").alias("t"),
        pl.col("duration_s").alias("dt"),
        ((0.1 + 0.01 * pl.col("scheduled") + queue) / 1e3).alias("t_sched"),
        pl.col("scheduled").alias("batch"),
        pl.col("batched_tokens").alias("tokens"),
        (pl.col("scheduled") - pl.Series(decodes)).alias("prefill_reqs"),
        (pl.col("batched_tokens") - pl.Series(decodes)).alias("prefill_tokens"),
        pl.col("distinct_adapters").alias("distinct"),
        pl.col("waiting").alias("waiting_after"),
        pl.lit(0.0).alias("load"),
        pl.lit(0).alias("n_load"),
        pl.col("load_s").alias("activate"),
        pl.col("adapter_loads").alias("n_act"),
    )
    write(folder, name, steps, requests, grouped=True, max_loras=max_loras, max_cpu_loras=16)


@pytest.fixture
def twin(truth: Profile, tmp_path: Path) -> Path:
    folder = tmp_path / "twin"
    folder.mkdir()
    for max_loras in (2, 8):
        recorded(truth, folder, f"slots_{max_loras}", max_loras)
    return folder


def test_an_engine_that_is_the_twin_itself_is_found_again(truth: Profile, twin: Path) -> None:
    recordings = read_recordings(twin)
    found, fit = profile_of_recordings(recordings, command="c", source="s")
    for constant in ("fixed_ms", "request_ms", "token_ms", "adapter_ms", "mixed_context_token_ms"):
        true = getattr(truth.step_time, constant)
        assert getattr(found.step_time, constant) == pytest.approx(true, rel=0.03), constant
    assert found.step_time.context_token_ms == pytest.approx(8e-4, rel=0.03)
    # The least of a step's parts; and what a cut prompt had computed is context to the twin, too.
    assert found.step_time.attention_tflops == pytest.approx(0.5, rel=0.2)
    assert all(abs(errors.total) < 0.2 for errors in fit.errors.values())
    left_out = recorded_replay.left_out_errors(recordings)
    assert set(left_out) == {"slots_2", "slots_8"}
    assert all(abs(errors.makespan) < 0.2 for errors in left_out.values())
    assert all(abs(errors.mean_ttft) < 1.0 for errors in left_out.values())


def test_the_command_fits_replays_and_leaves_each_out(
    twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "one.toml", tmp_path / "two.toml"]
    for file in files:
        assert run(["calibrate", str(twin), "-o", str(file), "--json"]) == 0
        residuals = json.loads(capsys.readouterr().out)["residuals"]
        for part in ("steps", "left_out_steps", "replay", "left_out_replay"):
            assert set(residuals[f"{part}_error_percent"]) == {"slots_2", "slots_8"}
        assert abs(residuals["replay_error_percent"]["slots_8"]["mean_ttft"]) < 1
    assert files[0].read_bytes() == files[1].read_bytes()
    assert Profile.load(files[0]).rule_set == "vllm-0.33"


def test_a_folder_without_the_kernel_is_refused(tmp_path: Path) -> None:
    record(tmp_path, "stock", grouped=False, seed=3)
    with pytest.raises(InputError, match="grouped"):
        profile_of_recordings(read_recordings(tmp_path), command="c", source="s")


def test_a_missing_companion_is_named(folder: Path) -> None:
    (folder / "grouped_b_summary.json").unlink()
    assert is_recordings(folder)
    with pytest.raises(InputError, match="grouped_b_summary"):
        read_recordings(folder)


def test_a_missing_column_is_named(folder: Path) -> None:
    requests = pl.read_csv(folder / "grouped_b_requests.csv")
    requests.drop("first").write_csv(folder / "grouped_b_requests.csv")
    with pytest.raises(InputError, match=r"grouped_b_requests\.csv.*first"):
        read_recordings(folder)


@pytest.mark.parametrize("summary", ["[]", "{", '{"args": {}}', '{"args": {}, "blocks": 1}'])
def test_a_summary_that_is_none_is_refused(folder: Path, summary: str) -> None:
    (folder / "grouped_a_summary.json").write_text(summary)
    with pytest.raises(InputError, match="grouped_a"):
        read_recordings(folder)


def test_a_recording_without_steps_is_refused(folder: Path) -> None:
    steps = pl.read_csv(folder / "grouped_a_steps.csv.gz").head(0)
    (folder / "grouped_a_steps.csv.gz").write_bytes(gzip.compress(steps.write_csv().encode()))
    with pytest.raises(InputError, match="no rows"):
        read_recordings(folder)


@pytest.mark.parametrize("bad", ["soon", None, float("nan")])
def test_a_time_that_is_none_is_refused(folder: Path, bad: object) -> None:
    requests = pl.read_csv(folder / "grouped_a_requests.csv")
    requests = requests.with_columns(pl.Series("done", ["1.0", "2.0", bad, "3.0"], strict=False))
    requests.write_csv(folder / "grouped_a_requests.csv")
    with pytest.raises(InputError, match="done"):
        read_recordings(folder)
