"""A profile from metric history: read in both forms, and fitted to a server that the twin plays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.passive import fit_history
from lorapack.fidelity.calibrate.prometheus import read_files
from lorapack.fidelity.calibrate.windows import Setting, cut, without_swaps
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.profile.profile import Profile
from lorapack.twin.run import simulate

NAMES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:gpu_cache_usage_perc",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
}
SLOTS, RANK, ADAPTERS, KV_TOKENS = 48, 16, 48, 200_000


@pytest.fixture(scope="module")
def truth() -> Profile:
    return Profile.load()


@pytest.fixture(scope="module")
def polls(truth: Profile) -> pl.DataFrame:
    """What a poller would see every two seconds of a server under a load that comes and goes."""
    parts, start_s, prompts, made = [], 0.0, 0.0, 0.0
    for number, rate in enumerate((0.02, 0.08, 0.2, 0.35, 0.6)):
        fleet = Fleet(Adapter(f"a{i}", rank=RANK, rate_rps=rate) for i in range(ADAPTERS))
        result = simulate(
            truth,
            fleet,
            max_loras=SLOTS,
            max_lora_rank=RANK,
            kv_cache_tokens=KV_TOKENS,
            duration_s=300.0,
            seed=number,
            warm=True,
            records=True,
        )
        steps = result.steps
        assert steps is not None
        end = (steps["start_s"] + steps["duration_s"]).to_numpy()
        at = np.arange(2.0, 298.0, 2.0)
        now = np.searchsorted(steps["start_s"].to_numpy(), at, side="right") - 1
        done = np.searchsorted(end, at, side="right")
        prefill = (steps["batched_tokens"] - steps["scheduled"]).to_numpy().astype(float)
        # A prompt's last chunk makes a token, too: its own token is one of the prompt's.
        tokens = np.concatenate([[0.0], np.cumsum(steps["scheduled"].to_numpy().astype(float))])
        prompt = np.concatenate([[0.0], np.cumsum(prefill * 1.0045)])
        idle = at > end[now]
        parts.append(
            pl.DataFrame(
                {
                    "t_s": start_s + at,
                    "running": np.where(idle, 0.0, steps["running"].to_numpy()[now]),
                    "waiting": np.where(idle, 0.0, steps["waiting"].to_numpy()[now]),
                    "kv_usage": steps["used_blocks"].to_numpy()[now] * 16 / KV_TOKENS,
                    "prompt_tokens": prompts + prompt[done],
                    "generation_tokens": made + tokens[done],
                    "distinct_adapters": steps["distinct_adapters"].to_numpy()[now].astype(float),
                }
            )
        )
        start_s, prompts, made = start_s + 300.0, prompts + prompt[-1], made + tokens[-1]
    return pl.concat(parts)


def setting() -> Setting:
    return Setting(SLOTS, RANK, KV_TOKENS, 2048, 16, ADAPTERS)


def test_a_window_says_the_step_time_of_a_steady_batch() -> None:
    # 10 running for 40 s, 500 tokens a second: a step makes 10 tokens in 20 ms.
    t = np.arange(0.0, 40.5, 2.0)
    frame = pl.DataFrame(
        {
            "t_s": t,
            "running": np.full(t.size, 10.0),
            "waiting": np.zeros(t.size),
            "kv_usage": np.full(t.size, 0.1),
            "prompt_tokens": 100 * t,
            "generation_tokens": 500 * t,
        }
    )
    windows = cut(frame)
    assert windows.height == 2
    assert windows["step_ms"].to_list() == pytest.approx([20.0, 20.0])
    assert windows["prompt_per_step"].to_list() == pytest.approx([2.0, 2.0])


def test_a_window_with_an_idle_poll_or_a_long_gap_is_left_out() -> None:
    t = np.array([0.0, 2, 4, 6, 8, 20, 40, 42, 44, 46, 48, 60])
    running = np.array([5.0, 5, 0, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    frame = pl.DataFrame({"t_s": t, "running": running})
    frame = frame.with_columns(
        waiting=pl.lit(0.0),
        kv_usage=pl.lit(0.1),
        prompt_tokens=pl.col("t_s"),
        generation_tokens=pl.col("t_s") * 100,
    )
    assert cut(frame)["window"].to_list() == [2.0]


def test_a_history_brings_a_wrong_base_to_the_measured_steps(
    truth: Profile, polls: pl.DataFrame
) -> None:
    wrong = replace(
        truth,
        step_time=replace(
            truth.step_time,
            fixed_ms=truth.step_time.fixed_ms * 1.6,
            adapter_ms=truth.step_time.adapter_ms * 1.3,
            request_ms=truth.step_time.request_ms * 1.5,
        ),
    )
    fit = fit_history([(polls, setting())], wrong, source="s", command="c")
    assert fit.n_windows > 40
    assert abs(fit.step_time.bias_percent["windows"]) < 1.0

    def step_ms(profile: Profile, requests: int, adapters: int) -> float:
        tables = profile.step_time.tables(SLOTS, RANK, 2048, ADAPTERS)
        ps = int(tables.base[requests]) + adapters * int(tables.distinct_adapter[requests])
        ps += requests * tables.request_ps + requests * 360 * tables.context_token_ps
        return ps * 1e-9

    for requests, adapters in ((20, 16), (60, 30), (100, 32)):
        measured = step_ms(truth, requests, adapters)
        assert step_ms(fit.profile, requests, adapters) == pytest.approx(measured, rel=0.04)
        assert abs(step_ms(wrong, requests, adapters) / measured - 1) > 0.04


def test_windows_in_which_adapters_push_each_other_out_are_left_out(polls: pl.DataFrame) -> None:
    windows = cut(polls)
    crowded = replace(setting(), max_loras=20, cpu_loras=48)
    kept = without_swaps(windows, crowded)
    assert 0 < kept.height < windows.height
    assert kept["distinct_adapters"].max() < 18
    assert without_swaps(windows, setting()).height == windows.height


def test_what_never_moved_keeps_the_base(truth: Profile, polls: pl.DataFrame) -> None:
    fit = fit_history([(polls, setting())], truth, source="s", command="c")
    # Nobody was skipped in the windows and no step is known to have had none: not to be told.
    for name in ("skipped_ms", "eager_ms"):
        assert not fit.coverage[name].shown
        assert fit.coverage[name].value == fit.coverage[name].base
    assert fit.profile.memory == truth.memory
    assert fit.profile.front_end == truth.front_end


def test_too_short_a_history_is_refused(truth: Profile, polls: pl.DataFrame) -> None:
    with pytest.raises(InputError, match="longer history"):
        fit_history([(polls.head(30), setting())], truth, source="s", command="c")


def test_range_queries_and_scrapes_say_the_same(polls: pl.DataFrame, tmp_path: Path) -> None:
    head = polls.head(20)
    files = []
    for column, metric in NAMES.items():
        values = [[1e9 + t, str(v)] for t, v in zip(head["t_s"], head[column], strict=True)]
        series = {"metric": {"__name__": metric, "model_name": "m"}, "values": values}
        document = {"status": "success", "data": {"resultType": "matrix", "result": [series]}}
        files.append(tmp_path / f"{column}.json")
        files[-1].write_text(json.dumps(document))
    lines = ["# HELP vllm:num_requests_running Requests running."]
    for row in head.iter_rows(named=True):
        at = round((1e9 + row["t_s"]) * 1000)
        for column, metric in NAMES.items():
            lines.append(f'{metric}{{model_name="m"}} {row[column]!r} {at}')
        lines.append(
            'vllm:lora_requests_info{max_lora="48",running_lora_adapters="a1,a2,a3",'
            f'waiting_lora_adapters=""}} {at / 1000} {at}'
        )
        lines.append(f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="12500"}} 1.0 {at}')
    scrape = tmp_path / "scrape.txt"
    scrape.write_text("\n".join(lines))
    of_json, of_text = read_files(files), read_files([scrape])
    columns = list(NAMES)
    a, b = of_json.history("json"), of_text.history("text")
    assert a["t_s"].to_list() == pytest.approx(b["t_s"].to_list())
    for column in columns:
        assert a[column].to_list() == pytest.approx(b[column].to_list()), column
    assert b["distinct_adapters"].to_list() == [3.0] * 20
    assert (of_text.max_loras, of_text.kv_cache_tokens, of_text.block_size) == (48, 200_000, 16)


def test_a_missing_metric_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scrape.txt"
    path.write_text("vllm:num_requests_running 3 1000\n")
    with pytest.raises(InputError, match="num_requests_waiting"):
        read_files([path]).history("scrape.txt")


def test_a_sample_without_a_time_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "scrape.txt"
    path.write_text("# scrape 12.5\nvllm:num_requests_running 3\n")
    assert read_files([path]).points["running"] == {12.5: 3.0}
    path.write_text("vllm:num_requests_running 3\n")
    with pytest.raises(InputError, match="line 1"):
        read_files([path])


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("vllm:num_requests_running many 1000", "line 2"),
        ("# scrape 1.2.3", "line 2"),
        ("vllm:num_requests_running{a=} ", "line 2"),
    ],
)
def test_what_is_no_number_is_refused_with_its_line(tmp_path: Path, line: str, place: str) -> None:
    path = tmp_path / "scrape.txt"
    path.write_text(f"vllm:num_requests_running 3 1000\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_files([path])
    assert caught.value.place == place


def test_what_is_not_finite_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "scrape.txt"
    path.write_text("vllm:num_requests_running 3 1000\nvllm:num_requests_running NaN 2000\n")
    assert read_files([path]).points["running"] == {1.0: 3.0}


def test_the_adapters_seen_last_count_whatever_the_order(tmp_path: Path) -> None:
    def series(names: str, seen_s: float) -> str:
        labels = f'max_lora="4",running_lora_adapters="{names}",waiting_lora_adapters=""'
        return f"vllm:lora_requests_info{{{labels}}} {seen_s}"

    path = tmp_path / "scrape.txt"
    lines = ["# scrape 50", series("a,b,c", 40.0), series("a", 49.0), series("a,b", 12.0)]
    path.write_text("\n".join(lines))
    samples = read_files([path])
    assert samples.adapters == {50.0: (49.0, 1)}
    assert samples.max_loras == 4
