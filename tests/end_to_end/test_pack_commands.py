"""`pack`, `maxpack`, `compare`, `diff` as users run them: keys, files, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

FLEET = "adapter,rank,rate_rps\n" + "".join(
    f"a{i:02d},{(8, 16, 32)[i % 3]},{0.2 + i % 7 * 0.3:.1f}\n" for i in range(40)
)


@pytest.fixture
def lorapack(tmp_path):
    (tmp_path / "fleet.csv").write_text(FLEET)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "lorapack", *arguments],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"},
            check=False,
        )

    return run


def answer(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_pack_writes_the_plan_it_prints_and_the_same_bytes_again(lorapack, tmp_path):
    said = answer(lorapack("pack", "fleet.csv", "-o", "plan.json", "--json"))
    text = (tmp_path / "plan.json").read_text()
    written = json.loads(text)
    assert said.pop("wall_s") > 0
    assert said == written
    assert written["verified"] is True
    assert written["n_gpus"] == len(written["gpus"])
    assert 0 < written["lower_bound"] <= written["n_gpus"]
    names = [row["adapter"] for gpu in written["gpus"] for row in gpu["adapters"]]
    assert sorted(names) == [f"a{i:02d}" for i in range(40)]
    lorapack("pack", "fleet.csv", "-o", "plan.json", "--force", "--jobs", "1")
    assert (tmp_path / "plan.json").read_text() == text


def test_file_that_exists_is_refused_before_any_work(lorapack, tmp_path):
    (tmp_path / "plan.json").write_text("mine")
    done = lorapack("pack", "fleet.csv", "-o", "plan.json")
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "plan.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--slo", "interactiv"], 2, "interactive"),
        (["--method", "gredy"], 2, "greedy"),
        (["--profile", "llama"], 2, "llama-3.1-8b"),
        (["--rate-headroom", "-1"], 2, "rate_headroom"),
        (["--objective", "latency"], 2, "number of GPUs"),
        (["--gpus", "1"], 3, "not suffice"),
        (["--ttft-p99-ms", "1"], 3, "ttft_p99_ms"),
        (["--gpu-memory-utilization", "0.5"], 3, "no GPU of the pool starts"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(lorapack, arguments, code, says):
    done = lorapack("pack", "fleet.csv", *arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stdout == ""


def test_shorter_sequences_let_larger_ranks_start(lorapack, tmp_path):
    (tmp_path / "large.csv").write_text("adapter,rank,rate_rps\nbig,512,0.5\n")
    said = answer(lorapack("pack", "large.csv", "--max-model-len", "4096", "--json"))
    assert said["gpus"][0]["engine"]["max_model_len"] == 4096
    assert said["gpus"][0]["engine"]["max_lora_rank"] == 512


def test_baseline_that_fails_exits_zero_and_says_so(lorapack):
    done = lorapack("pack", "fleet.csv", "--method", "round-robin", "--gpus", "1", "--json")
    assert answer(done)["verified"] is False
    assert "not verified" in done.stderr


def test_plan_carried_over_moves_little_and_diff_lists_it(lorapack, tmp_path):
    answer(lorapack("pack", "fleet.csv", "-o", "old.json", "--json"))
    (tmp_path / "fleet.csv").write_text(FLEET.replace("a39,8", "a40,8"))
    said = answer(lorapack("pack", "fleet.csv", "--from", "old.json", "-o", "new.json", "--json"))
    assert said["verified"] is True
    assert said["notes"]["replan"]["moves"] == 0
    found = answer(lorapack("diff", "old.json", "new.json", "--json"))
    assert found["added"] == ["a40"]
    assert found["removed"] == ["a39"]
    assert [step["phase"] for step in found["steps"]] == ["load", "route", "drain", "unload"]


def test_pool_by_price_takes_the_cheaper_gpu(lorapack, tmp_path):
    tables = "".join(
        f'[[gpu]]\nprofile = "{name}/h100-64gb/vllm-0.8.5"\nprice_per_hour = {price}\n'
        for name, price in (("llama-3.1-8b", 9.0), ("qwen-2.5-7b", 1.0))
    )
    (tmp_path / "pool.toml").write_text(tables)
    arguments = ("pack", "fleet.csv", "--pool", "pool.toml", "--objective", "cost", "--json")
    said = answer(lorapack(*arguments))
    assert {gpu["base_model"] for gpu in said["gpus"]} == {"qwen-2.5-7b"}
    assert said["cost_per_hour"] == said["n_gpus"]


def test_several_base_models_go_to_their_own_gpus(lorapack, tmp_path):
    rows = "adapter,rank,rate_rps,model\na,8,0.5,llama-3.1-8b\nb,8,0.5,qwen-2.5-7b\n"
    (tmp_path / "two.csv").write_text(rows)
    profiles = [f"{name}/h100-64gb/vllm-0.8.5" for name in ("llama-3.1-8b", "qwen-2.5-7b")]
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    said = answer(lorapack("pack", "two.csv", *chosen, "--json"))
    held = {gpu["base_model"]: gpu["adapters"][0]["adapter"] for gpu in said["gpus"]}
    assert held == {"llama-3.1-8b": "a", "qwen-2.5-7b": "b"}
    done = lorapack("pack", "two.csv")
    assert done.returncode == 3
    assert "qwen-2.5-7b" in done.stderr


def test_spare_gpu_costs_one_more_and_starves_nobody(lorapack):
    plain = answer(lorapack("pack", "fleet.csv", "--json"))
    spared = answer(lorapack("pack", "fleet.csv", "--spare-gpus", "1", "--json"))
    assert spared["n_gpus"] > plain["n_gpus"]
    assert spared["notes"]["spare"]["losses_that_starve"] == 0


def test_hourly_rates_pack_the_hour_that_binds(lorapack, tmp_path):
    import polars as pl

    rows = [
        {"adapter": f"a{i:02d}", "hour": hour, "rate_rps": rate}
        for i in range(40)
        for hour, rate in ((0, 0.1), (1, 0.9), (2, 0.3))
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "hourly.parquet")
    said = answer(lorapack("pack", "fleet.csv", "--rates", "hourly.parquet", "--json"))
    assert said["notes"]["rates"]["binding_hour"] == 1
    assert said["notes"]["rates"]["holds_in_every_hour"] is True
    rates = {row["rate_rps"] for gpu in said["gpus"] for row in gpu["adapters"]}
    assert rates == {0.9}


def test_compare_runs_every_method_and_draws_them(lorapack, tmp_path):
    arguments = ("compare", "fleet.csv", "--seeds", "1", "--plot", "compare.svg", "--json")
    rows = answer(lorapack(*arguments))["methods"]
    keys = {
        "method",
        "n_gpus",
        "verified",
        "starved_gpus",
        "cost_per_hour",
        "kwh_per_hour",
        "wall_s",
    }
    assert all(keys <= set(row) for row in rows)
    ours = next(row for row in rows if row["method"] == "greedy")
    proven = [row["n_gpus"] for row in rows if row["verified"]]
    assert ours["verified"]
    assert ours["n_gpus"] == min(proven)
    assert (tmp_path / "compare.svg").read_text().startswith("<?xml")


def test_maxpack_draws_the_same_picture_twice(lorapack, tmp_path):
    ask = ("maxpack", "--rate", "4", "--rank", "16", "--json", "--plot")
    first = answer(lorapack(*ask, "one.svg"))
    answer(lorapack(*ask, "two.svg"))
    assert first["maxpack"] >= 1
    assert {"adapters", "max_loras", "throughput_tps"} <= set(first["curve"][0])
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    done = lorapack(*ask, "three.pdf")
    assert done.returncode == 2
    assert ".png or .svg" in done.stderr
