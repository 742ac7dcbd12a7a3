"""`lorapack profiles`: list, show, estimate, and what an estimate is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lorapack.cli import main
from lorapack.profile.profile import Profile

LLAMA = "llama-3.1-8b/h100-64gb/vllm-0.8.5"
QWEN = "qwen-2.5-7b/h100-64gb/vllm-0.8.5"

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}


def lorapack(*arguments: str) -> Result:
    return CliRunner().invoke(main.cli, ["profiles", *arguments])


def config(folder: Path) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(CONFIG), encoding="utf-8")
    return str(file)


def test_the_list_names_every_profile() -> None:
    listed = json.loads(lorapack("--json").stdout)["profiles"]
    assert [profile["name"] for profile in listed] == list(Profile.names())
    assert LLAMA in lorapack().stdout


def test_show_prints_the_file_itself() -> None:
    text = lorapack("show", LLAMA).stdout
    assert Profile.from_toml(text) == Profile.load(LLAMA)
    shown = json.loads(lorapack("show", LLAMA, "--json").stdout)["profiles"][0]
    assert shown["step_time"]["weights_ms"] == Profile.load(LLAMA).step_time.weights_ms
    assert shown["derived"]["kv_bytes_per_token"] == 131072


def test_an_estimate_is_a_profile_that_loads(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    flags = ("estimate", "--model", config(tmp_path), "--gpu", "h100-80gb")
    done = lorapack(*flags, "--name", "mine", "-o", str(file), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["profiles"][0]["provenance"]["kind"] == "estimated"
    assert Profile.load(file).name == "mine"
    assert Profile.from_toml(lorapack(*flags).stdout).gpu.name == "h100-80gb"


@pytest.mark.parametrize(("source", "against"), [(LLAMA, QWEN), (QWEN, LLAMA)])
def test_an_estimate_is_held_against_what_was_measured(source: str, against: str) -> None:
    flags = ("estimate", "--from", source, "--against", against)
    errors = json.loads(lorapack(*flags, "--json").stdout)
    assert errors["from"] == source
    assert max(map(abs, errors["step_errors"].values())) < 0.3
    assert "step_time.token_ms" in errors["term_errors"]
    assert "error of a step's time" in lorapack(*flags).stdout


def test_bad_usage_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        ("show", "llama-3.1-8b"): "known are",
        ("shw",): "did you mean show",
        ("estimate", "--gpu", "h100-80gb"): "give --model and --gpu",
        ("estimate", "--model", config(tmp_path), "--gpu", "h100-80"): "did you mean h100-80gb",
        ("estimate", "--against", QWEN, "--gpu", "l4-24gb"): "stands alone",
        ("estimate", "--model", str(tmp_path / "no"), "--gpu", "l4-24gb"): "cannot be read",
    }
    for arguments, message in wrong.items():
        assert main.run(["profiles", *arguments]) == 2
        assert message in capsys.readouterr().err
