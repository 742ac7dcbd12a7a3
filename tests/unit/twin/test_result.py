import json
import math

import polars as pl
import pytest

from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.twin.run import simulate

KEYS = (
    "served_fraction",
    "throughput_tps",
    "offered_tps",
    "completed",
    "input_tokens",
    "output_tokens",
    "ttft_ms",
    "tpot_ms",
    "itl_ms",
    "preemptions",
    "adapter_loads",
    "load_s",
    "mean_running",
    "max_running",
    "kv_usage",
    "starved",
    "makespan_s",
    "per_adapter",
    "simulated_s",
    "wall_s",
    "steps",
)
"""Keys of `lorapack simulate --json` that scripts depend on."""


@pytest.fixture(scope="module")
def result(profile, fleet):
    return simulate(profile, fleet, max_loras=4, duration_s=120, records=True)


def test_the_keys_scripts_depend_on_are_there(result):
    found = result.to_dict()
    assert [key for key in KEYS if key not in found] == []
    for name in ("ttft_ms", "tpot_ms", "itl_ms"):
        assert list(found[name]) == ["mean", "p50", "p90", "p99"]
    assert list(found["kv_usage"]) == ["mean", "max"]
    assert found["engine"]["max_loras"] == 4
    json.dumps(found)


def test_totals_agree_with_the_records(result):
    done = result.requests.filter(pl.col("status") == "completed")
    assert result.completed == done.height
    assert result.offered == result.requests.height
    assert result.input_tokens == done["prompt_tokens"].sum()
    assert result.output_tokens == done["output_tokens"].sum()
    assert result.ttft_ms.mean == pytest.approx(done["ttft_ms"].mean(), rel=1e-9)
    assert result.n_steps == result.steps.height
    assert result.adapter_loads == result.steps["adapter_loads"].sum()
    assert result.max_running == result.steps["running"].max()
    assert result.makespan_s == pytest.approx(
        (result.steps["start_s"] + result.steps["duration_s"])[-1], rel=1e-12
    )
    window = result.throughput_tps * 120
    assert window == pytest.approx(result.input_tokens + result.output_tokens)


def test_per_adapter_rows_are_in_fleet_order_and_add_up(result, fleet):
    frame = result.per_adapter
    assert frame.columns == [
        "adapter",
        "rank",
        "offered",
        "offered_tokens",
        "completed",
        "input_tokens",
        "output_tokens",
        "ttft_mean_ms",
        "judged_offered",
        "judged_completed",
        "served_fraction",
        "starved",
    ]
    assert frame["adapter"].to_list() == [adapter.adapter for adapter in fleet]
    assert frame["rank"].to_list() == [adapter.rank for adapter in fleet]
    assert frame["completed"].sum() == result.completed
    assert frame["offered"].sum() == result.offered


def test_time_goes_forward_in_every_request(result):
    done = result.requests.filter(pl.col("status") == "completed")
    assert (done["arrival_s"] <= done["engine_arrival_s"]).all()
    assert (done["engine_arrival_s"] < done["first_token_s"]).all()
    assert (done["first_token_s"] <= done["done_s"]).all()
    assert result.requests["arrival_s"].is_sorted()


def test_without_records_there_are_no_frames(profile, fleet):
    bare = simulate(profile, fleet, max_loras=4, duration_s=10)
    assert bare.requests is None
    assert bare.steps is None


def test_nothing_offered_is_nothing_starved(profile):
    idle = simulate(profile, Fleet([Adapter("a", rank=8, rate_rps=0.0)]), duration_s=10)
    assert (idle.offered, idle.served_fraction, idle.starved) == (0, 1.0, False)
    assert idle.throughput_tps == 0.0
    assert math.isnan(idle.ttft_ms.mean)
    assert idle.per_adapter["served_fraction"].to_list() == [None]
    assert idle.per_adapter["ttft_mean_ms"].to_list() == [None]


def test_an_overloaded_gpu_is_starved_and_says_which_adapters(profile):
    fleet = Fleet([Adapter(f"a{i}", rank=16, rate_rps=3.0) for i in range(16)])
    result = simulate(profile, fleet, max_loras=2, duration_s=120, max_in_flight=100)
    assert result.starved
    assert result.dropped > 0
    assert result.per_adapter["starved"].all()
    assert result.ttft_with_unserved_p99_ms == math.inf


def test_a_warm_start_pays_no_first_use(profile, fleet):
    cold = simulate(profile, fleet, max_loras=6, duration_s=60)
    warm = simulate(profile, fleet, max_loras=6, duration_s=60, warm=True)
    assert (cold.adapter_loads, cold.disk_loads) == (6, 6)
    assert (warm.adapter_loads, warm.disk_loads) == (0, 0)
    assert warm.ttft_ms.mean < cold.ttft_ms.mean


def test_a_warmup_counts_only_what_comes_after(profile, fleet):
    whole = simulate(profile, fleet, max_loras=6, duration_s=120, records=True)
    late = simulate(profile, fleet, max_loras=6, duration_s=120, warmup_s=60)
    assert late.offered == whole.requests.filter(pl.col("arrival_s") >= 60).height
    done = whole.requests.filter(pl.col("status") == "completed")
    assert late.completed == done.filter(pl.col("done_s") >= 60).height
    assert late.window_s == 60
