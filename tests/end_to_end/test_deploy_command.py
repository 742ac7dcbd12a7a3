"""`lorapack deploy` as a user runs it."""

from __future__ import annotations

import json

import pytest

from lorapack.cli.main import run

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


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.json"
    gpu = {
        "profile": "llama-3.1-8b/h100-64gb/vllm-0.8.5",
        "base_model": "llama-3.1-8b",
        "engine": ENGINE,
        "adapters": [{"adapter": "sql", "rank": 16, "rate_rps": 0.5, "share": 1.0, "path": None}],
    }
    path.write_text(json.dumps({"n_gpus": 1, "gpus": [gpu]}))
    return path


def test_files_are_listed_as_json_and_there(plan, tmp_path, capsys):
    folder = tmp_path / "out"
    assert run(["deploy", str(plan), "-o", str(folder), "--json", "--routing", "litellm"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["files"] == [
        str(folder / name) for name in ("gpu-0.sh", "routing.csv", "routing.litellm.yaml")
    ]
    assert sorted(map(str, folder.iterdir())) == sorted(json.loads(out)["files"])
    assert "warning" in err
    assert "LORA_ROOT" in err


@pytest.mark.parametrize("form", ["vllm", "kubernetes", "ray-serve"])
@pytest.mark.parametrize("root", [[], ["--adapter-root", "s3://bucket/loras"]])
def test_a_fleet_without_paths_can_be_deployed_everywhere(plan, tmp_path, form, root):
    arguments = ["deploy", str(plan), "--format", form, *root, "-o", str(tmp_path / "out")]
    assert run([*arguments, "--quiet"]) == 0


def test_a_second_run_needs_force(plan, tmp_path, capsys):
    arguments = ["deploy", str(plan), "-o", str(tmp_path / "out")]
    assert run(arguments) == 0
    assert run(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*arguments, "--force"]) == 0
