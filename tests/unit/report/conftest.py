"""A plan made by hand, and what stands beside one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorapack.packer.plan import Plan, PlannedAdapter, PlannedGpu

ENGINE = {
    "max_loras": 8,
    "max_lora_rank": 16,
    "max_cpu_loras": 20,
    "max_model_len": 131072,
    "max_num_seqs": 2048,
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": 0.9,
    "block_size": 16,
    "enable_prefix_caching": False,
}

HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a&b\"'", "模型"]


def gpu_of(index: int, names: list[str], margin: float = 0.08) -> PlannedGpu:
    adapters = tuple(
        PlannedAdapter(
            name, 1.0, (8, 16, 32)[number % 3], 0.05 * (1 + number % 7), None, {"cv": 1.0}
        )
        for number, name in enumerate(names)
    )
    return PlannedGpu(
        gpu=f"gpu-{index}",
        profile="llama-3.1-8b/h100-64gb/vllm-0.8.5",
        base_model="llama-3.1-8b",
        engine={**ENGINE, "max_lora_rank": 32},
        adapters=adapters,
        exempt=False,
        memory={
            "kv_cache_tokens": 250_000,
            "parts_gib": {"weights": 15.0, "lora_slots": 2.0, "kv_cache": 30.5, "unused": 3.0},
        },
        predicted={"served_fraction": 0.99},
        twin={
            "served_fraction": 0.991,
            "ttft_p99_ms": 812.0,
            "throughput_tps": 9000.0,
            "kv_usage_max": 0.7,
            "violations": [],
        },
        seeds=(1, 2, 3),
        margin=margin,
        failing_probability=0.01,
    )


@pytest.fixture
def plan() -> Plan:
    gpus = (
        gpu_of(0, [f"tenant-{n:03d}" for n in range(40)]),
        gpu_of(1, [*HOSTILE, "z"], margin=1.0),
    )
    return Plan(
        n_gpus=2,
        lower_bound=1.43,
        bound={"true": 1.43},
        slo="interactive",
        service_level={"min_served": 0.98, "ttft_p99_ms": 2000.0},
        rate_headroom=0.1,
        method="greedy",
        objective="gpus",
        seed=0,
        verified=True,
        gpus=gpus,
        exempt=({"adapter": HOSTILE[0], "ttft_p99_ms": 5000.0},),
        cost_per_hour=5.9,
        kwh_per_hour=1.4,
    )


@pytest.fixture
def folder(plan: Plan, tmp_path: Path) -> Path:
    """A folder with everything a report can show but a sweep."""
    import polars as pl

    plan.write(tmp_path / "plan.json")
    methods = [
        {
            "method": "greedy",
            "n_gpus": 2,
            "verified": True,
            "starved_gpus": 0,
            "cost_per_hour": 5.9,
        },
        {"method": "round-robin", "n_gpus": 5, "verified": True, "starved_gpus": 0},
        {"method": "</script>", "n_gpus": 1, "verified": False, "starved_gpus": 1},
    ]
    (tmp_path / "compare.json").write_text(json.dumps({"methods": methods}))
    curve = [
        {"adapters": 90, "max_loras": n, "starts": n < 512, "holds": n == 32, "throughput_tps": t}
        for n, t in [(8, 900.0), (32, 1900.0), (128, 1700.0), (512, 0.0)]
    ]
    answer = {"maxpack": 90, "max_loras": 32, "curve": curve}
    (tmp_path / "maxpack.json").write_text(json.dumps(answer))
    rows = pl.DataFrame(
        {
            "model": ["llama"] * 5 + ["qwen"] * 5,
            "measured_tps": [float(10**n) for n in range(10)],
            "simulated_tps": [float(1.1 * 10**n) for n in range(10)],
            "mean_itl_ms": [20.0 + n for n in range(10)],
            "simulated_itl_ms": [20.5 + n for n in range(10)],
        }
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    return tmp_path
