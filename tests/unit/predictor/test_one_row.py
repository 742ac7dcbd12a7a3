"""The network for one row says what onnxruntime says of the same file."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lorapack._native import Network
from lorapack.predictor.features import FEATURES
from lorapack.predictor.one_row import constants_of, network_of
from lorapack.predictor.predictor import Predictor, builtin_models
from lorapack.predictor.targets import OUTPUTS


def runtime_of(predictor):
    return predictor._run


def test_constants_are_those_that_onnx_reads(model_path):
    read = constants_of(model_path.read_bytes())
    graph = onnx.load(model_path).graph
    meant = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    meant = {name: values for name, values in meant.items() if values.dtype == np.float32}
    assert read.keys() == meant.keys()
    for name, values in meant.items():
        assert np.array_equal(read[name], values), name


def test_one_row_says_what_onnxruntime_says(predictor, kept_aside):
    assert predictor._network is not None
    draw = np.random.default_rng(0)
    rows = kept_aside.features[draw.integers(0, len(kept_aside), 2000)]
    rows = rows * draw.uniform(0.8, 1.25, rows.shape).astype(np.float32)
    said = np.stack([predictor.predict(row) for row in rows])
    np.testing.assert_allclose(said, runtime_of(predictor)(rows), rtol=5e-5, atol=2e-5)


@pytest.mark.parametrize("name", builtin_models())
def test_every_model_that_comes_with_lorapack_has_it(name):
    model = Predictor.load(name)
    assert model._network is not None


def test_by_name_and_as_an_array_are_the_same_bits(predictor, kept_aside):
    for row in kept_aside.features[:50]:
        assert np.array_equal(np.float32(predictor.tell(row)), predictor.predict(row))
        assert predictor.predict(row[None]).shape == (1, len(OUTPUTS))


def test_a_row_need_not_be_contiguous(predictor, kept_aside):
    row = kept_aside.features[0]
    wide = np.repeat(row, 2)[::2]
    assert not wide.flags.c_contiguous
    assert np.array_equal(predictor.predict(wide), predictor.predict(row))


def test_a_row_without_logarithms_is_left_to_onnxruntime(predictor, kept_aside):
    row = kept_aside.features[0].copy()
    row[0] = -1e6
    assert predictor._network.row(row) is None
    assert predictor._network.numbers(row) is None
    assert len(predictor.predict(row)) == len(predictor.tell(row)) == len(OUTPUTS)


def test_a_row_of_another_width_is_refused(predictor):
    with pytest.raises(ValueError, match="features"):
        predictor.tell(np.ones(len(FEATURES) - 1, np.float32))


def test_a_graph_with_other_constants_or_other_arithmetic_is_left_to_onnxruntime(
    model_path, predictor
):
    proto = onnx.load(model_path)
    assert isinstance(network_of(proto.SerializeToString(), runtime_of(predictor)), Network)
    without = onnx.ModelProto()
    without.CopyFrom(proto)
    del without.graph.initializer[:]
    assert network_of(without.SerializeToString(), runtime_of(predictor)) is None
    doubled = network_of(proto.SerializeToString(), lambda rows: 2 * runtime_of(predictor)(rows))
    assert doubled is None
