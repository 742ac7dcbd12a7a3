"""The models that come with lorapack."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import lorapack.predictor
from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter
from lorapack.predictor.features import matrix_of
from lorapack.predictor.gpu_state import GpuState
from lorapack.predictor.predictor import Predictor, builtin_models
from lorapack.profile.digest import digest_of
from lorapack.profile.profile import Profile

MODELS = Path(lorapack.predictor.__file__).parent / "models"


def test_every_fitted_profile_has_a_model_that_is_not_stale():
    fitted = [name for name in Profile.names() if Profile.load(name).provenance.kind == "fitted"]
    assert set(builtin_models()) >= set(fitted)
    for name in builtin_models():
        model = Predictor.load(name)
        assert model.profile.name == name
        assert digest_of(model.profile) == digest_of(Profile.load(name))


def test_all_of_them_are_small_and_have_their_cards():
    models = list(MODELS.glob("*.onnx"))
    assert models
    assert sum(path.stat().st_size for path in models) < 2_000_000
    for path in models:
        assert path.with_suffix(".json").is_file()
        assert path.with_suffix(".md").is_file()


@pytest.mark.parametrize("name", builtin_models())
def test_more_load_never_helps(name):
    model = Predictor.load(name)
    served = []
    for factor in (0.1, 0.5, 1.0, 2.0, 5.0, 20.0):
        state = GpuState(model, max_lora_rank=16, max_loras=32)
        for i in range(32):
            state.add(Adapter(f"a{i}", 16, 0.5 * factor))
        served.append(state.predict().served_fraction)
    assert served[0] > 0.98
    assert served[-1] < 0.5
    assert all(later <= earlier + 0.02 for earlier, later in itertools.pairwise(served))


def test_a_profile_that_has_changed_is_refused_unless_wished(tmp_path):
    name = builtin_models()[0]
    text = Profile.load(name).to_toml()
    line = next(line for line in text.splitlines() if line.startswith("weights_ms"))
    changed = Profile.from_toml(text.replace(line, "weights_ms = 99.0"))
    with pytest.raises(InputError, match="changed since"):
        Predictor.load(changed)
    assert Predictor.load(changed, stale=True).profile.name == name


def test_an_estimated_profile_has_none_and_is_told_how_to_get_one(tmp_path):
    text = Profile.load().to_toml().replace('name = "llama-3.1-8b/', 'name = "mine/', 1)
    with pytest.raises(InputError, match="lorapack sweep training"):
        Predictor.load(Profile.from_toml(text))


def test_measured_runs_are_told_blind(measured_data):
    # The models saw the twin alone; the papers' model saw such runs: 4.4 and 5.3 % SMAPE.
    from lorapack.fidelity.replay import read_runs, scenario_of

    runs = read_runs(measured_data / "vllm-h100" / "serving_runs.csv")
    runs = runs.filter(pl.col("out_of_memory") == 0)
    for name in builtin_models():
        model = Predictor.load(name)
        own = runs.filter(pl.col("model").str.starts_with(name.split("/")[0]))
        scenarios = [scenario_of(run, model.profile, 0) for run in own.iter_rows(named=True)]
        told = model.predict_many(matrix_of(scenarios))[:, model.targets.index("throughput_tps")]
        tokens = own["input_tokens"] + own["output_tokens"]
        measured = (tokens / own["duration_s"]).to_numpy()
        smape = np.mean(np.abs(told - measured) / (told + measured)) * 100
        assert smape < 1.2, name
