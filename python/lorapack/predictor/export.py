"""A trained predictor as one ONNX graph, with all that a reader needs in its metadata.

The graph takes ``features`` (float32, rows x features, in their own units) and gives
``predictions`` (float32, rows x outputs). Logarithms and scaling are nodes of their own: folded
into the first layer they would cost four digits of float32. Written with onnx's own helper, since
skl2onnx (1.20) gives a multi-output MLPRegressor the wrong output shape.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lorapack.atomic_file import atomic_file
from lorapack.errors import MissingPackageError
from lorapack.predictor.digest import digest_of
from lorapack.predictor.features import FEATURE_INDEX, FEATURES, RAW
from lorapack.predictor.targets import BASES, HEADS, MILLISECONDS, N_LOG_HEADS, OUTPUTS
from lorapack.twin.scenario import STARVED_BELOW

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError:
    raise MissingPackageError("exporting a model", "onnx", "train") from None

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lorapack.predictor.card import Card
    from lorapack.predictor.train import Distilled
    from lorapack.profile.profile import Profile

FORMAT = 1
"""Of the graph's inputs, outputs and metadata."""

OPSET = 17
"""Old enough for every onnxruntime that lorapack takes."""


class _Graph:
    """Nodes and constants, in the order written."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: ArrayLike, kind: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:  # noqa: ANN401 - onnx's
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def columns(self, source: str, start: int, stop: int, name: str) -> str:
        """Columns ``start``..``stop`` of a matrix."""
        ends = [
            self.constant(f"{name}_{which}", [value], np.int64)
            for which, value in (("start", start), ("stop", stop), ("axis", 1))
        ]
        return self.node("Slice", source, *ends, name=name)


def write_model(
    model: Distilled,
    profile: Profile,
    card: Card,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
) -> str:
    """Writes the graph.

    Args:
        model: What was trained.
        profile: What it was trained for; goes into the metadata.
        card: What it is worth; goes into the metadata.
        path: The file.
        force: Replace a file that exists.

    Returns:
        SHA-256 of the file.
    """
    proto = model_proto(model, profile, card)
    data = proto.SerializeToString(deterministic=True)
    with atomic_file(path, force=force) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def model_proto(model: Distilled, profile: Profile, card: Card) -> Any:  # noqa: ANN401 - onnx's
    """The graph, as onnx's own object."""
    graph = _Graph()
    logs, hidden = _network(graph, model)
    middle, margin, width = _heads(graph, model, logs, hidden)
    _outputs(graph, model, middle, margin, width)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "lorapack-predictor",
            [_matrix("features", len(FEATURES))],
            [_matrix("predictions", len(OUTPUTS))],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="lorapack",
    )
    helper.set_model_props(proto, metadata_of(profile, card))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def metadata_of(profile: Profile, card: Card) -> dict[str, str]:
    """What the file says about itself; every value is text, tables are JSON."""
    return {
        "lorapack.format": str(FORMAT),
        "lorapack.profile": profile.name,
        "lorapack.profile_digest": digest_of(profile),
        "lorapack.profile_toml": profile.to_toml(),
        "lorapack.features": json.dumps([asdict(feature) for feature in FEATURES]),
        "lorapack.outputs": json.dumps(OUTPUTS),
        "lorapack.card": json.dumps(card.to_dict()),
    }


def _matrix(name: str, columns: int) -> Any:  # noqa: ANN401 - onnx's
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", columns])


def _network(graph: _Graph, model: Distilled) -> tuple[str, str]:
    """Features -> their logarithms, and the last hidden layer."""
    offset = graph.constant("offset", model.log_features.offset_)
    logs = graph.node(
        "Log", graph.node("Add", "features", offset, name="offset_features"), name="logs"
    )
    mean = graph.constant("mean", model.scaler.mean_)
    scale = graph.constant("scale", model.scaler.scale_)
    layer = graph.node("Div", graph.node("Sub", logs, mean, name="centred"), scale, name="scaled")
    for i, (weights, bias) in enumerate(model.mlp.layers_[:-1]):
        constants = graph.constant(f"weights_{i}", weights), graph.constant(f"bias_{i}", bias)
        layer = graph.node("Gemm", layer, *constants, name=f"layer_{i}")
        layer = graph.node("Relu", layer, name=f"relu_{i}")
    return logs, layer


def _heads(graph: _Graph, model: Distilled, logs: str, hidden: str) -> tuple[str, str, str]:
    """The last layer: heads on top of physics (in logarithms), the margin, half widths."""
    targets = model.network.transformer_
    weights, bias = model.mlp.layers_[-1]
    heads = weights * targets.scale_
    shift = bias * targets.scale_ + targets.mean_
    shift[1:N_LOG_HEADS] += MILLISECONDS
    doubt = model.doubt
    last = np.concatenate([heads, doubt.width_weights], axis=1)
    base = np.zeros((len(FEATURES), last.shape[1]))
    for head, feature in enumerate(BASES):
        base[feature, head] = 1.0
    learnt = graph.node(
        "Gemm",
        hidden,
        graph.constant("weights_last", last),
        graph.constant("bias_last", np.concatenate([shift, doubt.width_bias])),
        name="learnt",
    )
    added = graph.node("Gemm", logs, graph.constant("physics", base), learnt, name="heads")
    n_heads = len(HEADS)
    cap = np.full(N_LOG_HEADS, np.float32(1e30))
    cap[0] = 0.0
    unbounded = graph.columns(added, 0, N_LOG_HEADS, "unbounded")
    middle = graph.node("Min", unbounded, graph.constant("cap", cap), name="middle")
    margin = graph.columns(added, N_LOG_HEADS, n_heads, "unbounded_margin")
    margin = graph.node("Min", margin, graph.constant("one", [1.0]), name="margin")
    width = graph.columns(added, n_heads, n_heads + N_LOG_HEADS, "log_width")
    return middle, margin, graph.node("Exp", width, name="width")


def _outputs(graph: _Graph, model: Distilled, middle: str, margin: str, width: str) -> None:
    low = graph.node("Sub", middle, width, name="low")
    high = graph.node("Min", graph.node("Add", middle, width, name="above"), "cap", name="high")
    every = graph.node("Concat", middle, low, high, name="log_figures", axis=1)
    figures = graph.node("Exp", every, name="figures")
    served = graph.columns(figures, 0, 1, "served")
    times = graph.columns(figures, 1, N_LOG_HEADS, "times")
    intervals = graph.columns(figures, N_LOG_HEADS, 3 * N_LOG_HEADS, "intervals")
    place = FEATURE_INDEX["offered_tps"]
    offered = graph.columns("features", place, place + 1, "offered")
    throughput = graph.node("Mul", served, offered, name="throughput")
    parts = (served, throughput, _starved(graph, model, middle, width), times, margin)
    graph.node("Concat", *parts, _outside(graph, model), intervals, name="predictions", axis=1)


def _starved(graph: _Graph, model: Distilled, middle: str, width: str) -> str:
    """Probability of starvation, from the distance to its edge in half widths."""
    log_served = graph.columns(middle, 0, 1, "log_served")
    own_width = graph.columns(width, 0, 1, "served_width")
    edge = graph.constant("edge", [np.log(STARVED_BELOW)])
    distance = graph.node(
        "Div", graph.node("Sub", edge, log_served, name="to_edge"), own_width, name="distance"
    )
    slope = graph.constant("starved_slope", [model.doubt.starved_slope])
    bias = graph.constant("starved_bias", [model.doubt.starved_bias])
    logit = graph.node("Add", graph.node("Mul", distance, slope, name="steep"), bias, name="logit")
    return graph.node("Sigmoid", logit, name="starved")


def _outside(graph: _Graph, model: Distilled) -> str:
    """1 where a raw feature lies outside the range of training, else 0."""
    low = np.full(len(FEATURES), -1e30, dtype=np.float32)
    high = np.full(len(FEATURES), 1e30, dtype=np.float32)
    low[list(RAW)], high[list(RAW)] = model.low, model.high
    inside = graph.node(
        "Min",
        graph.node("Max", "features", graph.constant("lowest", low), name="not_below"),
        graph.constant("highest", high),
        name="inside",
    )
    moved = graph.node("Sub", "features", inside, name="moved")
    far = graph.node(
        "ReduceMax", graph.node("Abs", moved, name="distance_out"), name="far", axes=[1]
    )
    return graph.node("Sign", far, name="outside")
