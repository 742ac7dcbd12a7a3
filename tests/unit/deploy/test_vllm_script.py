"""Scripts are run by a real shell with a `vllm` that only says what it was given."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess

import pytest

from lorapack.deploy import DeploySettings, assemble
from lorapack.errors import InputError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def vllm_parser() -> argparse.ArgumentParser:
    """vLLM 0.8.5's own flags as far as a plan uses them: names, types and allowed values."""
    parser = argparse.ArgumentParser(prog="vllm serve", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("model_tag")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--max-num-batched-tokens", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--block-size", type=int, choices=[1, 8, 16, 32, 64, 128])
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    parser.add_argument("--enable-lora", action=argparse.BooleanOptionalAction)
    parser.add_argument("--max-loras", type=int)
    parser.add_argument("--max-lora-rank", type=int, choices=RANKS)
    parser.add_argument("--max-cpu-loras", type=int)
    parser.add_argument("--lora-modules", nargs="+", type=json.loads)
    parser.add_argument("--tensor-parallel-size", type=int)
    parser.add_argument("--kv-cache-dtype", choices=["auto", "fp8", "fp8_e5m2", "fp8_e4m3"])
    return parser


@pytest.fixture
def started(tmp_path):
    """Runs a script with a stand-in for `vllm`; gives its parsed arguments and environment."""
    fake = tmp_path / "bin" / "vllm"
    fake.parent.mkdir()
    fake.write_text(
        "#!/usr/bin/env python3\n"
        "import json, os, sys\n"
        "keep = ('CUDA_VISIBLE_DEVICES', 'PORT')\n"
        "json.dump([sys.argv[1:], {k: os.environ.get(k) for k in keep}], open('said', 'w'))\n"
    )
    fake.chmod(0o755)

    def run(script: str, **environment: str) -> tuple[argparse.Namespace, dict[str, str]]:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "serve.sh").write_text(script)
        path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "serve.sh"],
            cwd=folder,
            env={"PATH": path, "LC_ALL": "C", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert {p.name for p in folder.iterdir()} == {"serve.sh", "said"}, "something else ran"
        arguments, seen = json.loads((folder / "said").read_text())
        assert arguments.pop(0) == "serve"
        return vllm_parser().parse_args(arguments), seen

    return run


def test_every_simulated_setting_reaches_the_engine(gpus, started):
    files = assemble(gpus(["a"]), DeploySettings(adapter_root="/adapters")).files
    arguments, seen = started(files["gpu-0.sh"])
    assert vars(arguments) == {
        "model_tag": "meta-llama/Llama-3.1-8B-Instruct",
        "port": 8000,
        "served_model_name": ["meta-llama/Llama-3.1-8B-Instruct"],
        "max_model_len": 131072,
        "max_num_seqs": 2048,
        "max_num_batched_tokens": 2048,
        "gpu_memory_utilization": 0.9,
        "block_size": 16,
        "enable_prefix_caching": False,
        "enable_lora": True,
        "max_loras": 8,
        "max_lora_rank": 16,
        "max_cpu_loras": 20,
        "lora_modules": [{"name": "a", "path": "/adapters/a"}],
        "tensor_parallel_size": None,
        "kv_cache_dtype": None,
    }
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"


def test_hostile_names_are_served_under_exactly_that_name(gpus, started, hostile):
    rows = [{"adapter": name, "path": f"/adapters/{name}"} for name in hostile]
    files = assemble(gpus(rows), DeploySettings()).files
    arguments, _ = started(files["gpu-0.sh"])
    assert arguments.lora_modules == [{"name": n, "path": f"/adapters/{n}"} for n in hostile]


def test_hostile_names_below_the_root_variable(gpus, started, hostile):
    names = [name for name in hostile if len(name) < 255 and "\\" not in name]
    files = assemble(gpus(names), DeploySettings()).files
    arguments, _ = started(files["gpu-0.sh"], LORA_ROOT="/some where/$(x)")
    assert [m["path"] for m in arguments.lora_modules] == [f"/some where/$(x)/{n}" for n in names]
    assert [m["name"] for m in arguments.lora_modules] == names


@pytest.mark.parametrize("root", ['/a"b', "/a\\b", "/a\nb", ""])
def test_a_root_that_would_break_the_json_stops_the_script(gpus, tmp_path, root):
    script = assemble(gpus(["a"]), DeploySettings()).files["gpu-0.sh"]
    done = subprocess.run(["sh", "-c", script], env={"LORA_ROOT": root}, check=False)
    assert done.returncode == 2


def test_names_that_cannot_be_logged_are_refused(gpus, refused):
    with pytest.raises(InputError, match="name"):
        gpus([refused])


@pytest.mark.parametrize("name", ["../up", "a/../b", "/etc/passwd", "a//b", ".", "..", "x" * 256])
def test_a_name_that_leaves_the_root_is_refused(gpus, name):
    for root in ("/adapters", None):
        with pytest.raises(InputError, match="path"):
            assemble(gpus([name]), DeploySettings(adapter_root=root))


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%2e%2e"])
def test_a_name_that_would_change_a_uri_is_refused(gpus, name):
    with pytest.raises(InputError, match="path"):
        assemble(gpus([name]), DeploySettings(adapter_root="s3://bucket/loras"))


@pytest.mark.parametrize(
    ("planned", "written"), [(8, 8), (9, 16), (33, 64), (257, 320), (512, 512)]
)
def test_the_rank_is_rounded_up_to_one_that_vllm_takes(gpus, planned, written):
    row = {"adapter": "a", "rank": 4}
    deployment = assemble(gpus([row], max_lora_rank=planned), DeploySettings())
    assert f"--max-lora-rank {written} " in deployment.files["gpu-0.sh"]
    assert any("max_lora_rank" in text for text in deployment.warnings) == (planned != written)


def test_rank_1_is_kept_for_the_version_that_takes_it(plan_of):
    from lorapack.deploy.plan_reader import plan_of as read_document

    plan = plan_of([{"adapter": "a", "rank": 1}], max_lora_rank=1)
    assert "--max-lora-rank 8 " in assemble(read_document(plan), DeploySettings()).files["gpu-0.sh"]
    plan["gpus"][0]["profile"] = "toy/cpu/vllm-0.33"
    assert "--max-lora-rank 1 " in assemble(read_document(plan), DeploySettings()).files["gpu-0.sh"]


def test_no_lora_flag_where_no_adapter_is_served(gpus, started):
    row = {"adapter": "chat", "rank": 0}
    engine = {"max_loras": 0, "max_lora_rank": None, "max_cpu_loras": None}
    files = assemble(gpus([row], **engine), DeploySettings()).files
    arguments, _ = started(files["gpu-0.sh"])
    assert arguments.enable_lora is None
    assert arguments.served_model_name == ["meta-llama/Llama-3.1-8B-Instruct", "chat"]
    assert "lora" not in files["gpu-0.sh"].split("exec")[1].lower()


def test_every_gpu_has_its_own_port_and_device(gpus, started):
    files = assemble(gpus(["a"], ["b"], tensor_parallel_size=2), DeploySettings(port=9000)).files
    arguments, seen = started(files["gpu-1.sh"], LORA_ROOT="/x")
    assert (arguments.port, seen["CUDA_VISIBLE_DEVICES"]) == (9001, "2,3")
    arguments, seen = started(files["gpu-1.sh"], LORA_ROOT="/x", PORT="1", CUDA_VISIBLE_DEVICES="7")
    assert (arguments.port, seen["CUDA_VISIBLE_DEVICES"]) == (1, "7")


@pytest.mark.parametrize("key", ["max_model_len", "max_cpu_loras", "enable_prefix_caching"])
def test_a_setting_that_is_missing_is_an_error(gpus, key):
    with pytest.raises(InputError, match=f"{key}.*missing"):
        assemble(gpus(["a"], **{key: None}), DeploySettings())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_model_len", "8192; reboot"),
        ("max_num_seqs", True),
        ("max_num_seqs", 0),
        ("gpu_memory_utilization", 1.5),
        ("gpu_memory_utilization", "0.9"),
        ("enable_prefix_caching", "false"),
        ("max_cpu_loras", 7),
        ("max_lora_rank", 513),
        ("max_lora_rank", 8),
        ("kv_cache_dtype", "fp8 --api-key x"),
        ("no_such_setting", 1),
    ],
)
def test_a_setting_out_of_range_is_an_error(gpus, key, value):
    with pytest.raises(InputError, match=re.escape(key)):
        assemble(gpus(["a"], **{key: value}), DeploySettings())


def test_an_adapter_may_not_carry_the_base_models_name(gpus):
    with pytest.raises(InputError, match="base model's name"):
        assemble(gpus(["meta-llama/Llama-3.1-8B-Instruct"]), DeploySettings())


def test_a_base_model_that_looks_like_a_flag_is_refused(gpus):
    with pytest.raises(InputError, match="dash"):
        assemble(gpus(["a"]), DeploySettings(base_model="--config=/etc/passwd"))


def test_a_uri_that_vllm_cannot_read_is_warned_of(gpus):
    deployment = assemble(gpus(["a"]), DeploySettings(adapter_root="s3://bucket/loras"))
    assert any("s3://bucket/loras/a" in text for text in deployment.warnings)


def test_the_stand_in_parser_can_fail():
    with pytest.raises(argparse.ArgumentError):
        vllm_parser().parse_args(["model", "--max-lora-rank", "20"])


def test_the_ranks_are_those_of_the_fleet_room():
    from lorapack.fleet.adapter import MAX_LORA_RANKS

    assert MAX_LORA_RANKS == RANKS
