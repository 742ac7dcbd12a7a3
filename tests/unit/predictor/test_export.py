"""The graph says what the trained pipeline says."""

import json

import numpy as np
import onnx
import onnxruntime

from lorapack.predictor.features import FEATURES, N_RAW
from lorapack.predictor.targets import OUTPUTS, Prediction


def spread_rows(features, n, seed=0):
    """Rows between and somewhat beyond those of a sweep."""
    draw = np.random.default_rng(seed)
    one, other = (features[draw.integers(0, len(features), n)] for _ in range(2))
    part = draw.random((n, 1)).astype(np.float32)
    return (one + part * (other - one)) * draw.uniform(0.9, 1.1, (n, 1)).astype(np.float32)


def test_onnx_equals_scikit_learn_within_a_ten_thousandth(distilled, predictor, kept_aside):
    rows = spread_rows(kept_aside.features, 10_000)
    said, meant = predictor.predict_many(rows), distilled.predict(rows)
    for i, name in enumerate(OUTPUTS):
        if name == "out_of_range":
            continue
        # What may be zero is held against its scale.
        floor = {"slo_margin": 0.1, "starved_probability": 1e-3}.get(name, 0.0)
        off = np.abs(said[:, i] - meant[:, i]) / np.maximum(np.abs(meant[:, i]), floor)
        assert off.max() < 1e-4, (name, off.max())


def test_flags_agree_away_from_the_edges(distilled, predictor, kept_aside):
    rows = spread_rows(kept_aside.features, 2000)
    place = OUTPUTS.index("out_of_range")
    said, meant = predictor.predict_many(rows)[:, place], distilled.predict(rows)[:, place]
    assert (said == meant).mean() > 0.999


def test_a_row_outside_the_range_of_training_is_flagged(distilled, predictor, kept_aside):
    place = OUTPUTS.index("out_of_range")
    draw = np.random.default_rng(1)
    rows = kept_aside.features[draw.integers(0, len(kept_aside), 1000)].copy()
    for row in rows:
        at = draw.integers(N_RAW)
        offset = distilled.log_features.offset_[at]
        high, low = (np.exp(edge[at]) - offset for edge in (distilled.high, distilled.low))
        outside = high * 1.01 + 0.01 if draw.random() < 0.5 or low < 0.1 else low * 0.99 - 0.001
        row[at] = outside
    assert (predictor.predict_many(rows)[:, place] > 0).mean() > 0.99


def test_the_file_says_what_goes_in_and_what_comes_out(model_path):
    session = onnxruntime.InferenceSession(str(model_path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    features = json.loads(metadata["lorapack.features"])
    assert [feature["name"] for feature in features] == [feature.name for feature in FEATURES]
    assert all(feature["unit"] and feature["meaning"] for feature in features)
    assert tuple(json.loads(metadata["lorapack.outputs"])) == OUTPUTS == Prediction._fields
    assert session.get_inputs()[0].shape == ["rows", len(FEATURES)]
    assert session.get_outputs()[0].shape == ["rows", len(OUTPUTS)]


def test_the_graph_passes_onnx_own_checks(model_path):
    onnx.checker.check_model(str(model_path), full_check=True)


def test_the_same_training_writes_the_same_bytes(distilled, rows_and_profile, model_path, tmp_path):
    from lorapack.predictor.card import Card
    from lorapack.predictor.export import write_model

    card = Card("small", {}, {}, {}, {}, 0, "none")
    write_model(distilled, rows_and_profile[1], card, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == model_path.read_bytes()
