"""Scripts are read back by vLLM's own argument parser, where there is a vLLM: no GPU is needed.

CONTRIBUTING.md says how to give it one. Read so with vllm 0.8.5.post1 and 0.33.0.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lorapack.deploy import DeploySettings, assemble

HELPER = Path(__file__).with_name("vllm_parser.py")

SETTINGS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "block_size",
    "enable_prefix_caching",
    "max_loras",
    "max_lora_rank",
    "max_cpu_loras",
)


class OwnParser:
    """vLLM's parser, loaded once in a process of its own."""

    def __init__(self, python: str, complaints: Path) -> None:
        self.complaints = complaints
        self.running = subprocess.Popen(
            [python, str(HELPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints.open("w"),
            text=True,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_LOGGING_LEVEL": "ERROR",
            },
        )
        first = self.running.stdout.readline()
        if not first:
            pytest.fail(f"vLLM is there, yet its parser is not: {complaints.read_text()}")
        self.version = tuple(int(n) for n in json.loads(first)["version"].split(".")[:2])

    def read(self, words: list[str]) -> dict[str, object]:
        print(json.dumps(words), file=self.running.stdin, flush=True)
        answer = self.running.stdout.readline()
        assert answer, self.complaints.read_text()
        return json.loads(answer)

    def settings(self, words: list[str]) -> dict[str, object]:
        answer = self.read(words)
        assert "settings" in answer, answer
        return answer["settings"]


@pytest.fixture(scope="module")
def own_parser(vllm_python, tmp_path_factory):
    parser = OwnParser(vllm_python, tmp_path_factory.mktemp("vllm") / "complaints")
    yield parser
    parser.running.stdin.close()
    parser.running.wait(60)


@pytest.fixture
def words_of(tmp_path):
    """Runs a script with a stand-in for `vllm`; gives the words after `vllm`."""
    fake = tmp_path / "vllm"
    fake.write_text(
        "#!/usr/bin/env python3\nimport json, sys\njson.dump(sys.argv[1:], open('said', 'w'))\n"
    )
    fake.chmod(0o755)

    def run(script: str, **environment: str) -> list[str]:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            ["sh", "-c", script],
            cwd=tmp_path,
            env={"PATH": path, "LC_ALL": "C", **environment},
            check=True,
        )
        return json.loads((tmp_path / "said").read_text())

    return run


def test_every_simulated_setting_is_what_vllm_reads(own_parser, gpus, words_of):
    plan = gpus(["a", "b"])
    script = assemble(plan, DeploySettings(adapter_root="/adapters")).files["gpu-0.sh"]
    read = own_parser.settings(words_of(script))
    planned = plan.gpus[0].engine
    assert {name: read[name] for name in SETTINGS} == {name: planned[name] for name in SETTINGS}
    assert read["model_tag"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert read["served_model_name"] == ["meta-llama/Llama-3.1-8B-Instruct"]
    assert (read["port"], read["enable_lora"]) == (8000, True)
    assert read["lora_modules"] == [{"name": n, "path": f"/adapters/{n}"} for n in ("a", "b")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tensor_parallel_size", 2),
        ("dtype", "bfloat16"),
        ("kv_cache_dtype", "fp8"),
        ("quantization", "awq"),
        ("enable_chunked_prefill", True),
        ("enable_chunked_prefill", False),
        ("long_prefill_token_threshold", 512),
        ("lora_dtype", "bfloat16"),
        ("fully_sharded_loras", True),
        ("fully_sharded_loras", False),
        ("enable_prefix_caching", True),
        ("gpu_memory_utilization", 0.123456789),
    ],
)
def test_every_further_setting_is_one_of_vllm_s(own_parser, gpus, words_of, name, value):
    script = assemble(gpus(["a"], **{name: value}), DeploySettings()).files["gpu-0.sh"]
    assert own_parser.settings(words_of(script, LORA_ROOT="/x"))[name] == value


def test_hostile_names_are_read_as_themselves(own_parser, gpus, words_of, hostile):
    rows = [{"adapter": name, "path": f"/adapters/{name}"} for name in hostile]
    script = assemble(gpus(rows), DeploySettings()).files["gpu-0.sh"]
    modules = own_parser.settings(words_of(script))["lora_modules"]
    assert modules == [{"name": name, "path": f"/adapters/{name}"} for name in hostile]


@pytest.mark.parametrize("rank", [1, 8, 9, 33, 200, 257, 321, 512])
def test_a_rank_rounded_up_is_one_that_this_vllm_takes(own_parser, plan_of, words_of, rank):
    from lorapack.deploy.plan_reader import plan_of as read_document

    plan = plan_of([{"adapter": "a", "rank": 1}], max_lora_rank=rank)
    engine = "vllm-0.8.5" if own_parser.version < (0, 33) else "vllm-0.33"
    plan["gpus"][0]["profile"] = f"llama-3.1-8b/h100-64gb/{engine}"
    script = assemble(read_document(plan), DeploySettings()).files["gpu-0.sh"]
    read = own_parser.settings(words_of(script, LORA_ROOT="/x"))
    assert read["max_lora_rank"] >= rank


def test_a_server_of_the_base_model_alone(own_parser, gpus, words_of):
    engine = {"max_loras": 0, "max_lora_rank": None, "max_cpu_loras": None}
    plan = gpus([{"adapter": "chat", "rank": 0}], **engine)
    read = own_parser.settings(words_of(assemble(plan, DeploySettings()).files["gpu-0.sh"]))
    assert not read["enable_lora"]
    assert read["served_model_name"] == ["meta-llama/Llama-3.1-8B-Instruct", "chat"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--no-such-flag"],
        ["--max-lora-rank", "20"],
        ["--max-loras", "many"],
        ["--lora-modules", '{"name": "a"}'],
    ],
)
def test_the_parser_can_refuse(own_parser, wrong):
    assert "error" in own_parser.read(["serve", "model", "--enable-lora", *wrong])
