"""`lorapack memory`: JSON keys, words, and bad usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lorapack.cli import main
from lorapack.cli.memory import PARTS

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}


def lorapack(*arguments: str) -> Result:
    return CliRunner().invoke(main.cli, ["memory", *arguments])


def test_an_engine_that_starts() -> None:
    done = lorapack("--max-loras", "32", "--max-lora-rank", "16", "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == 0
    assert answer["starts"] is True
    assert answer["refusal"] is None
    assert answer["mends"] == []
    assert answer["kv_cache_tokens"] == answer["num_blocks"] * 16
    assert set(answer["parts_gib"]) == set(PARTS)
    assert sum(answer["parts_gib"].values()) == pytest.approx(answer["gpu_memory_gib"])


def test_a_refusal_is_an_answer_with_mends() -> None:
    done = lorapack("--max-loras", "256", "--max-lora-rank", "16", "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == 0
    assert answer["starts"] is False
    assert answer["refusal"] == "max_model_len"
    assert answer["mends"][0]["flag"].startswith("--max-model-len ")
    assert answer["mends"][0]["kv_cache_tokens"] >= answer["mends"][0]["value"]


def test_words_for_people() -> None:
    text = lorapack("--max-loras", "256", "--max-lora-rank", "16").stdout
    assert "refuses to start (max_model_len)" in text
    assert "--max-loras" in text
    assert "KV cache" in text
    assert "starts: " in lorapack("--max-loras", "8", "--max-lora-rank", "8").stdout


def test_host_memory_counts_adapters_at_their_own_rank() -> None:
    flags = ("--max-loras", "8", "--max-lora-rank", "32", "--max-cpu-loras", "100", "--json")
    full = json.loads(lorapack(*flags).stdout)["host_gib"]
    half = json.loads(lorapack(*flags, "--adapter-rank", "16").stdout)["host_gib"]
    assert full == pytest.approx(2 * half)
    assert full == pytest.approx(100 * 32 * 2_621_440 * 2 / 2**30)


def test_a_model_and_a_gpu_that_nobody_measured(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG), encoding="utf-8")
    flags = ("--model", str(file), "--gpu", "h100-80gb", "--max-loras", "16")
    done = lorapack(*flags, "--max-lora-rank", "64", "--json")
    answer = json.loads(done.stdout)
    assert answer["starts"] is True
    assert answer["engine"]["max_model_len"] == 40960
    assert "estimate" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-loras", "8", "--max-lora-rank", "17"), "round up to 32"),
        (("--max-loras", "8", "--max-lora-rank", "999"), "512 at most"),
        (("--max-loras", "8"), "give --max-lora-rank"),
        (("--max-loras", "-1", "--max-lora-rank", "8"), "-1"),
        (("--max-loras", "8", "--max-lora-rank", "8", "--gpu", "l4-24gb"), "go together"),
        (
            ("--max-loras", "8", "--max-lora-rank", "8", "--kv-cache-dtype", "fp9"),
            "did you mean fp8",
        ),
        (("--max-loras", "8", "--max-lora-rank", "8", "--profile", "llama"), "known are"),
    ],
)
def test_bad_usage_exits_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["memory", *arguments]) == 2
    assert message in capsys.readouterr().err
