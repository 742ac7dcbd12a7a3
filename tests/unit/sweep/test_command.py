"""``lorapack sweep``, as typed."""

import json

import pytest
from click.testing import CliRunner

from lorapack.cli.sweep import command
from lorapack.errors import InputError

DEFINITION = """
duration_s = 20
[design]
kind = "grid"
[fleet]
n_adapters = [1, 3]
rates = "equal"
rate_rps = 0.5
"""


@pytest.fixture
def definition(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(DEFINITION)
    return str(path)


def test_it_says_how_much_was_done(definition, tmp_path):
    done = CliRunner().invoke(command, [definition, "-o", str(tmp_path / "rows"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["scenarios"], told["done"]) == (2, 2)
    assert told["simulated_s"] == pytest.approx(40.0)
    assert told["wall_s"] > 0


def test_a_second_run_needs_resume(definition, tmp_path):
    arguments = [definition, "-o", str(tmp_path / "rows"), "--json"]
    CliRunner().invoke(command, arguments)
    again = CliRunner().invoke(command, arguments)
    assert isinstance(again.exception, InputError)
    resumed = CliRunner().invoke(command, [*arguments, "--resume"])
    assert json.loads(resumed.stdout)["done"] == 0


def test_the_profile_may_be_given(definition, tmp_path):
    name = "qwen-2.5-7b/h100-64gb/vllm-0.8.5"
    rows = tmp_path / "rows"
    CliRunner().invoke(command, [definition, "-o", str(rows), "--profile", name])
    from lorapack.sweep import scan_sweep

    assert scan_sweep(rows).collect()["profile"].to_list() == [name, name]
