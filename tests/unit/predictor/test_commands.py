"""``lorapack predict`` and ``lorapack train``, as typed."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lorapack.cli.predict import command as predict
from lorapack.cli.train import command as train
from lorapack.predictor.features import FEATURE_NAMES
from lorapack.predictor.targets import OUTPUTS


@pytest.fixture
def fleet_path(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("adapter,rank,rate_rps\na,8,4\nb,16,2\n")
    return path


WITHIN = ("--duration", "150", "--max-loras", "2")
"""Settings of the kind that the small model was taught with."""


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_fleet_gives_one_prediction(model_path, fleet_path):
    done = run(predict, fleet_path, "--model", model_path, *WITHIN, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert set(OUTPUTS) <= set(told)
    assert 0.7 < told["served_fraction"] <= 1.0


def test_rows_of_features_give_a_prediction_each(model_path, fleet_path, tmp_path):
    rows = tmp_path / "rows.csv"
    run(predict, fleet_path, "--model", model_path, "--features-out", rows)
    with rows.open() as file:
        assert tuple(csv.DictReader(file).fieldnames) == FEATURE_NAMES
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([lines[0], lines[1], lines[1]]))
    told = json.loads(run(predict, rows, "--model", model_path, "--json").stdout)
    assert len(told["predictions"]) == 2
    assert told["predictions"][0] == told["predictions"][1]


def test_scrapes_are_among_the_features(model_path, fleet_path, tmp_path):
    rows = tmp_path / "rows.csv"
    asked = ("--model", model_path, "--scrape-interval", "5s", "--features-out", rows)
    done = run(predict, fleet_path, *asked)
    assert done.exit_code == 0, done.output
    with rows.open() as file:
        assert float(next(csv.DictReader(file))["scrape_hz"]) == pytest.approx(0.2)


def test_a_missing_feature_is_named(model_path, tmp_path):
    from lorapack.errors import InputError

    rows = tmp_path / "rows.csv"
    rows.write_text("n_adapters,rate_rps\n1,2\n")
    done = run(predict, rows, "--model", model_path)
    assert isinstance(done.exception, InputError)
    assert done.exception.place == "column offered_tps"


def test_the_onnx_example_needs_onnxruntime_alone(model_path, fleet_path, tmp_path, repository):
    rows = tmp_path / "rows.csv"
    run(predict, fleet_path, "--model", model_path, *WITHIN, "--features-out", rows)
    example = repository / "examples" / "onnx_only.py"
    assert "lorapack" not in [
        line.split()[1].split(".")[0]
        for line in example.read_text().splitlines()
        if line.startswith(("import ", "from "))
    ]
    done = subprocess.run(
        [sys.executable, example, model_path, rows], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["served_fraction"] > 0.7


@pytest.fixture
def learns_little(monkeypatch):
    from lorapack.predictor import estimators

    monkeypatch.setattr(
        estimators.PhasedMLP.__init__, "__defaults__", ((16, 8), (3e-3,), (10,), (5,), 64, 1e-4, 0)
    )


@pytest.mark.usefixtures("learns_little")
def test_train_says_what_the_model_is_worth(swept, tmp_path):
    done = run(train, swept, "-o", tmp_path / "model.onnx", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {"throughput_tps", "itl_mean_ms", "starved_probability"} <= set(told["targets"])
    assert Path(told["file"]).is_file()
    assert "kinds" not in told


@pytest.mark.usefixtures("learns_little")
def test_train_compares_kinds_of_model_if_asked(swept, tmp_path, monkeypatch):
    from sklearn.linear_model import Ridge

    from lorapack.predictor import compare
    from lorapack.predictor.estimators import PhasedMLP

    few = {"physics alone": None, "ridge": Ridge(), "MLP": PhasedMLP((8,), (1e-2,), (20,), (5,))}
    monkeypatch.setattr(compare, "kinds", lambda _: few)
    done = run(train, swept, "-o", tmp_path / "model.onnx", "--compare", "--json")
    assert done.exit_code == 0, done.output
    physics, ridge, _ = json.loads(done.stdout)["kinds"]
    assert (physics["kind"], physics["row_us"]) == ("physics alone", 0.0)
    assert ridge["row_us"] > 0
    assert ridge["size_kb"] > 0
    # Even a line learns what physics misses of a tail that it has no word for.
    assert ridge["smape"]["ttft_p99_ms"] < physics["smape"]["ttft_p99_ms"]
    (tmp_path / "again").mkdir()
    told = run(train, swept, "-o", tmp_path / "again" / "model.onnx", "--compare")
    assert "kinds of model" in told.output
