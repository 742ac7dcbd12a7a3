"""Running a sweep: the same bytes however it is cut, stopped and taken up again."""

import os
import random
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.sweep import Sweep, read_sweep_definition, run_sweep, scan_sweep

DEFINITION = """
duration_s = 120
[engine]
max_loras = { from = 1, to = 16, scale = "log" }
[design]
kind = "latin-hypercube"
n = 40
adapters = true
fit_memory = true
[fleet]
n_adapters = { from = 1, to = 30, scale = "log" }
rates = ["equal", "zipf", "clients"]
load = { from = 0.1, to = 2.0, scale = "log" }
ranks = [[8], [8, 16]]
"""


@pytest.fixture
def definition(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(DEFINITION)
    return path


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_one_row_a_scenario_and_one_an_adapter(definition, tmp_path):
    done = run_sweep(definition, tmp_path / "rows", chunk=16)
    assert (done.scenarios, done.done) == (40, 40)
    rows = scan_sweep(tmp_path / "rows").collect()
    assert rows["scenario"].to_list() == list(range(40))
    assert rows["starts"].all()
    assert done.simulated_s == pytest.approx(rows["simulated_s"].sum())
    adapters = scan_sweep(tmp_path / "rows", adapters=True).collect()
    assert len(adapters) == rows["n_adapters"].sum()
    offered = adapters.group_by("scenario").agg(pl.col("offered").sum()).sort("scenario")
    assert offered["offered"].to_list() == rows["offered"].to_list()


def test_the_same_bytes_for_any_number_of_jobs(definition, tmp_path):
    for jobs in (1, 2):
        run_sweep(definition, tmp_path / f"jobs{jobs}", jobs=jobs, chunk=16)
    assert contents(tmp_path / "jobs1") == contents(tmp_path / "jobs2")


def kill_until_done(definition, folder, runs):
    """Starts the sweep again and again, each time killed a random while after its next part."""
    command = [
        sys.executable,
        "-c",
        "import sys; from lorapack.sweep import run_sweep;"
        "run_sweep(sys.argv[1], sys.argv[2], chunk=4, resume=True)",
        str(definition),
        str(folder),
    ]
    draw = random.Random(0)
    kills = 0
    for _ in range(runs):
        process = subprocess.Popen(command)
        begun = time.monotonic()
        parts = len(list(folder.glob("scenarios/*.parquet")))
        while process.poll() is None and time.monotonic() - begun < 60:
            if len(list(folder.glob("scenarios/*"))) > parts:
                break
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.05))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            return kills
    run_sweep(definition, folder, chunk=4, resume=True)
    return kills


@pytest.mark.parametrize("runs", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(definition, tmp_path, runs):
    definition.write_text(DEFINITION.replace("n = 40", "n = 200"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_sweep(definition, whole, chunk=4)
    assert kill_until_done(definition, killed, runs) >= 2
    assert contents(killed) == contents(whole)


def test_ctrl_c_stops_cleanly_and_the_rest_follows(definition, tmp_path):
    definition.write_text(DEFINITION.replace("n = 40", "n = 4000"))
    folder = tmp_path / "rows"
    command = [sys.executable, "-m", "lorapack", "sweep", str(definition), "-o", str(folder), "-q"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    begun = time.monotonic()
    while not list(folder.glob("scenarios/*.parquet")) and time.monotonic() - begun < 60:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not list(folder.rglob("*.tmp"))
    read = scan_sweep(folder).collect()
    assert 0 < len(read) < 4000


def test_a_folder_with_something_in_it_is_left_alone(definition, tmp_path):
    run_sweep(definition, tmp_path / "rows", chunk=16)
    before = contents(tmp_path / "rows")
    with pytest.raises(InputError, match="--resume"):
        run_sweep(definition, tmp_path / "rows")
    other = Sweep.from_toml(DEFINITION.replace("n = 40", "n = 41"))
    with pytest.raises(InputError, match="another sweep"):
        run_sweep(other, tmp_path / "rows", resume=True)
    with pytest.raises(InputError, match="no sweep"):
        run_sweep(definition, tmp_path)
    assert contents(tmp_path / "rows") == before


def test_a_finished_sweep_resumes_to_nothing(definition, tmp_path):
    run_sweep(definition, tmp_path / "rows", chunk=16)
    assert run_sweep(definition, tmp_path / "rows", resume=True).done == 0


def test_the_definition_comes_back_with_the_rows(definition, tmp_path):
    run_sweep(definition, tmp_path / "rows", chunk=40)
    again = read_sweep_definition(tmp_path / "rows")
    assert again.scenario(7).fleet == Sweep.read(definition).scenario(7).fleet
    assert again.identity == Sweep.read(definition).identity


def test_engines_that_do_not_start_are_rows_without_figures(tmp_path):
    sweep = Sweep.from_toml(
        DEFINITION.replace("fit_memory = true", "").replace("to = 16", "to = 4000")
    )
    run_sweep(sweep, tmp_path / "rows")
    refused = scan_sweep(tmp_path / "rows").filter(~pl.col("starts")).collect()
    assert len(refused) > 0
    assert refused["refusal"].null_count() == 0
    assert refused["served_fraction"].null_count() == len(refused)


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(InputError, match="not there"):
        scan_sweep(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as on POSIX")
def test_progress_counts_every_scenario_once(definition, tmp_path):
    told = []
    run_sweep(definition, tmp_path / "rows", chunk=16, progress=told.append)
    assert sum(told) == 40
    assert min(told) >= 0
