"""A small predictor, trained once for all tests of this room."""

import pytest

SWEEP = """
duration_s = { from = 60.0, to = 200.0 }
warm = [true, false]
[engine]
max_loras = { from = 1, to = 64, scale = "log" }
[design]
kind = "latin-hypercube"
n = 420
fit_memory = true
most_requests = 20_000
[fleet]
n_adapters = { from = 1, to = 60, scale = "log" }
rates = ["equal", "zipf", "lognormal", "clients"]
load = { from = 0.1, to = 4.0, scale = "log" }
ranks = [[8], [8, 16]]
cv = { from = 1.0, to = 5.0, focus = [1.0, 1.0] }
"""


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """The folder of a small sweep."""
    from lorapack.sweep import Sweep, run_sweep

    folder = tmp_path_factory.mktemp("predictor") / "rows"
    run_sweep(Sweep.from_toml(SWEEP), folder)
    return folder


@pytest.fixture(scope="session")
def rows_and_profile(swept):
    from lorapack.predictor.train import rows_of_sweep

    return rows_of_sweep(swept)


@pytest.fixture(scope="session")
def distilled(rows_and_profile):
    from lorapack.predictor.estimators import PhasedMLP
    from lorapack.predictor.train import distil, split

    learn, doubt, _ = split(rows_and_profile[0], seed=0)
    quick = PhasedMLP((24, 12), (3e-3, 5e-4), (40, 20), (20, 10), batch_size=64, alpha=0.1)
    return distil(learn, doubt, mlp=quick)


@pytest.fixture(scope="session")
def kept_aside(rows_and_profile):
    from lorapack.predictor.train import split

    return split(rows_and_profile[0], seed=0)[2]


@pytest.fixture(scope="session")
def model_path(distilled, rows_and_profile, tmp_path_factory):
    from lorapack.predictor.card import Card
    from lorapack.predictor.export import write_model

    path = tmp_path_factory.mktemp("model") / "small.onnx"
    card = Card("small", {}, {}, {}, {}, 0, "none")
    write_model(distilled, rows_and_profile[1], card, path)
    return path


@pytest.fixture(scope="session")
def predictor(model_path):
    from lorapack.predictor.predictor import Predictor

    return Predictor.load(model_path)
