import json

import polars as pl
import pytest
from click.testing import CliRunner

from lorapack.cli.duration import duration
from lorapack.cli.main import run
from lorapack.cli.simulate import command

FLEET = "adapter,rank,rate_rps\na,8,0.5\nb,16,1.5\n"
SCENARIO = """
duration_s = 30
seed = 3
[engine]
kv_cache_tokens = 65_536
[[adapter]]
adapter = "a"
rank = 16
rate_rps = 0.5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "fleet.csv").write_text(FLEET)
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    (tmp_path / "trace.csv").write_text(
        "arrival_s,adapter,prompt_tokens,output_tokens\n0,a,100,10\n1,b,200,20\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def simulated(*arguments):
    return json.loads(invoke(*arguments, "--json").stdout)


def test_a_fleet_runs_under_the_flags(folder):
    found = simulated(
        "fleet.csv", "--duration", "1m", "--max-loras", "1", "--max-lora-rank", "32", "--warm"
    )
    assert found["simulated_s"] == 60
    assert found["engine"]["max_loras"] == 1
    assert found["engine"]["max_lora_rank"] == 32
    assert found["warm"] is True
    assert [row["adapter"] for row in found["per_adapter"]] == ["a", "b"]


def test_a_scenario_s_values_hold_unless_a_flag_says_otherwise(folder):
    assert simulated("scenario.toml")["seed"] == 3
    assert simulated("scenario.toml", "--seed", "0")["seed"] == 0
    assert simulated("scenario.toml", "--duration", "10")["duration_s"] == 10
    assert simulated("scenario.toml")["engine"]["kv_cache_tokens"] == 65_536


def test_a_trace_replays_until_it_is_done(folder):
    found = simulated("fleet.csv", "--trace", "trace.csv")
    assert found["completed"] == found["offered"] == 2
    assert found["duration_s"] is None


def test_records_are_written_whole_and_the_same_each_time(folder):
    outputs = ("--requests-out", "r.parquet", "--steps-out", "s.parquet")
    found = simulated("fleet.csv", "--duration", "30s", *outputs)
    requests = (folder / "r.parquet").read_bytes()
    assert pl.read_parquet("r.parquet").height == found["offered"]
    assert pl.read_parquet("s.parquet").height == found["steps"]
    simulated("fleet.csv", "--duration", "30s", *outputs, "--force")
    assert (folder / "r.parquet").read_bytes() == requests
    names = {"fleet.csv", "scenario.toml", "trace.csv", "r.parquet", "s.parquet"}
    assert {path.name for path in folder.iterdir()} == names


def test_a_file_that_is_there_is_not_replaced_unasked(folder, capsys):
    (folder / "r.parquet").write_text("mine")
    assert run(["simulate", "fleet.csv", "--requests-out", "r.parquet"]) == 2
    assert (folder / "r.parquet").read_text() == "mine"
    assert "--force" in capsys.readouterr().err


def test_people_see_totals_and_adapters(folder):
    text = invoke("fleet.csv", "--duration", "30").stdout
    for word in ("served_fraction", "throughput_tps", "ttft_ms", "starved", "adapter"):
        assert word in text


def test_quiet_says_nothing(folder):
    done = invoke("fleet.csv", "--duration", "30", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_starvation_is_a_warning_on_stderr(folder):
    (folder / "heavy.csv").write_text("adapter,rank,rate_rps\na,8,900\n")
    done = invoke("heavy.csv", "--duration", "20", "--max-in-flight", "50", "--json")
    assert "starved" in done.stderr
    assert "dropped" in done.stderr
    assert json.loads(done.stdout)["starved"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fleet.csv", "--duration", "1x"], 2, "s, m, h or d"),
        (["fleet.csv", "--duration", "-1"], 2, "--duration"),
        (["fleet.csv", "--duration", "0"], 2, "duration_s"),
        (["fleet.csv", "--max-lora-rank", "8"], 2, "rank 16 of adapter b"),
        (["fleet.csv", "--max-loras", "0"], 2, "max_loras"),
        (["fleet.csv", "--rule-set", "vllm-0.9"], 2, "vllm-0.8.5"),
        (["fleet.csv", "--profile", "lama"], 2, "profile"),
        (["fleet.csv", "--warmup", "2h"], 2, "warmup_s"),
        (["absent.csv"], 2, "absent.csv"),
        (["fleet.csv", "--max-loras", "4000"], 3, "cuda_out_of_memory"),
        (["fleet.csv", "--kv-cache-tokens", "1600", "--max-model-len", "4096"], 3, "1584"),
    ],
)
def test_each_mistake_has_its_exit_code_and_says_what_is_wrong(
    folder, capsys, arguments, code, words
):
    before = {path.name for path in folder.iterdir()}
    assert run(["simulate", *arguments]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("2D", 172_800)]
)
def test_durations_have_units(text, seconds):
    assert duration(text) == seconds
