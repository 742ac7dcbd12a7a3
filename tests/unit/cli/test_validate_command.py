"""`lorapack validate`: what it keeps, and that nothing is replayed for what cannot be kept."""

from __future__ import annotations

import json

import polars as pl
import pytest

from lorapack.cli.main import run
from lorapack.fidelity import validate as module

RUN = {
    "model": "llama-3.1-8b-instruct",
    "case": "by_hand",
    "max_loras": 8,
    "n_adapters": 4,
    "max_lora_rank": 16,
    "adapter_ranks": "8 16",
    "adapter_rates_rps": "0.4 0.2 0.1",
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "block_size": 16,
    "out_of_memory": 0,
    "duration_s": 60.0,
    "completed": 60,
    "input_tokens": 13_000.0,
    "output_tokens": 12_000.0,
    "mean_ttft_ms": 90.0,
    "median_ttft_ms": 80.0,
    "mean_tpot_ms": 12.0,
    "mean_itl_ms": 12.0,
    "mean_running": 2.5,
    "mean_kv": 0.01,
    "max_kv": 0.02,
    "preemptions": 0,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the commands run, with one run measured."""
    monkeypatch.chdir(tmp_path)
    pl.DataFrame([RUN]).write_csv("runs.csv")
    return tmp_path


@pytest.fixture
def replays(monkeypatch):
    """Counts the batches that were replayed."""
    batches = []
    replay = module.simulate_many

    def counting(scenarios, **options):
        batches.append(len(scenarios))
        return replay(scenarios, **options)

    monkeypatch.setattr(module, "simulate_many", counting)
    return batches


def validate(*arguments):
    return run(["validate", "runs.csv", "--seeds", "1", *map(str, arguments)])


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "ROWS.CSV"])
def test_rows_have_the_format_of_their_name(folder, name, capsys):
    assert validate("--rows", name, "--json") == 0
    read = pl.read_parquet if name.endswith("parquet") else pl.read_csv
    rows = read(folder / name)
    assert rows.height == 1
    assert {"measured_tps", "simulated_tps", "regime", "starved"} <= set(rows.columns)
    assert json.loads(capsys.readouterr().out)["n_runs"] == 1


def test_rows_as_csv_are_what_the_report_reads(folder):
    from lorapack.report import read_sources

    assert validate("--rows", "rows.csv") == 0
    assert read_sources([folder / "rows.csv"]).rows.height == 1


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("rows.json", "mend:  name it .parquet or .csv"),
        ("rows", "found: no suffix"),
        ("rows.csv.gz", "found: .gz"),
        ("absent/rows.csv", "make this folder first"),
    ],
)
def test_rows_that_cannot_be_written_are_refused_before_a_replay(
    folder, replays, name, mend, capsys
):
    assert validate("--rows", name) == 2
    assert mend in capsys.readouterr().err
    assert replays == []
    assert [path.name for path in folder.iterdir()] == ["runs.csv"]


def test_older_rows_stay_unless_forced(folder, replays, capsys):
    (folder / "rows.csv").write_text("mine")
    assert validate("--rows", "rows.csv") == 2
    assert "exists already: pass --force" in capsys.readouterr().err
    assert replays == []
    assert (folder / "rows.csv").read_text() == "mine"
    assert validate("--rows", "rows.csv", "--force") == 0
    assert pl.read_csv(folder / "rows.csv").height == 1


def test_older_plots_stay_unless_forced(folder, replays, capsys):
    pytest.importorskip("matplotlib", reason="MATPLOTLIB ABSENT: plots were not drawn")
    (folder / "plots").mkdir()
    (folder / "plots" / "mine.svg").write_text("mine")
    (folder / "plots" / "itl.svg").write_text("old")
    assert validate("--plot", "plots") == 2
    assert "plots/itl.svg: output" in capsys.readouterr().err
    assert replays == []
    assert validate("--plot", "plots", "--force") == 0
    assert (folder / "plots" / "mine.svg").read_text() == "mine"
    assert "<svg" in (folder / "plots" / "itl.svg").read_text()


def test_a_missing_plotting_library_is_told_before_a_replay(folder, replays, monkeypatch, capsys):
    from lorapack.cli import validate as command

    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert validate("--plot", "plots") == 2
    assert "lorapack[plot]" in capsys.readouterr().err
    assert replays == []
    assert not (folder / "plots").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--predictor", "no-such-model.onnx"], "no-such-model"),
        (["--timeseries", "runs.csv"], "is not Parquet"),
        (["--profile", "no-such-profile"], "no-such-profile"),
    ],
)
def test_what_cannot_be_read_is_told_before_a_replay(folder, replays, arguments, named, capsys):
    assert validate(*arguments) == 2
    assert named in capsys.readouterr().err
    assert replays == []
