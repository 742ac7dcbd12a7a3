"""Asking a model."""

import threading

import numpy as np
import pytest

from lorapack.errors import InputError
from lorapack.predictor.predictor import Predictor
from lorapack.predictor.targets import OUTPUTS


def test_one_row_and_many_say_the_same(predictor, kept_aside):
    rows = kept_aside.features[:32]
    many = predictor.predict_many(rows)
    assert many.shape == (32, len(OUTPUTS))
    one = np.stack([predictor.predict(row) for row in rows])
    np.testing.assert_allclose(one, many, rtol=2e-5, atol=1e-6)
    named = predictor.tell(rows[0])
    assert named.served_fraction == pytest.approx(float(many[0, 0]), rel=1e-4)


def test_threads_may_ask_at_once(predictor, kept_aside):
    rows = kept_aside.features
    expected = predictor.predict(rows[:1])
    wrong = []

    def ask():
        for _ in range(300):
            if not np.array_equal(predictor.predict(rows[:1]), expected):
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_matrix_of_another_width_is_refused(predictor):
    with pytest.raises(InputError, match="columns"):
        predictor.predict_many(np.zeros((3, 4)))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Predictor.load(tmp_path / "none.onnx")
    path = tmp_path / "text.onnx"
    path.write_text("not a graph")
    with pytest.raises(InputError, match="no ONNX graph"):
        Predictor.load(path)


def test_another_graph_is_refused(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="lorapack train"):
        Predictor.load(tmp_path / "other.onnx")
