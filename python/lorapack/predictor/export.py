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
from lorapack.predictor.features import FEATURE_INDEX, FEATURES, N_RAW
from lorapack.predictor.targets import BASES, HEADS, MILLISECONDS, N_LOG_HEADS, OUTPUTS
from lorapack.profile.digest import digest_of

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

FORMAT = 2
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

    def gemm(self, source: str, weights: ArrayLike, bias: ArrayLike, name: str) -> str:
        constants = self.constant(f"{name}_weights", weights), self.constant(f"{name}_bias", bias)
        return self.node("Gemm", source, *constants, name=name)

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:  # noqa: ANN401 - onnx's
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name


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
    _outputs(graph, _heads(graph, model, logs, hidden), _outside(graph, model, logs))
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
        layer = graph.gemm(layer, weights, bias, f"layer_{i}")
        layer = graph.node("Relu", layer, name=f"relu_{i}")
    return logs, layer


_MIDDLE = slice(0, N_LOG_HEADS)
_WIDTH = slice(N_LOG_HEADS, 2 * N_LOG_HEADS)
_LOGIT, _MARGIN, _OFFERED, _N_KNOWN = range(2 * N_LOG_HEADS, 2 * N_LOG_HEADS + 4)
"""Columns of all that the network and physics know, in logarithms where that makes sense."""


def _heads(graph: _Graph, model: Distilled, logs: str, hidden: str) -> str:
    """Outputs before their last step, in the order of the outputs.

    First what the last layer and physics know: heads, half widths (in logarithms), logit, margin,
    offered tokens. With the widths' exponentials and the excess over 0 beside them, all else is one
    more matrix: so the graph has few nodes, each of which costs a fraction of a microsecond.
    """
    targets, doubt = model.network.transformer_, model.doubt
    weights, bias = model.mlp.layers_[-1]
    weights, bias = weights * targets.scale_, bias * targets.scale_ + targets.mean_
    last, shift = np.zeros((len(weights), _N_KNOWN)), np.zeros(_N_KNOWN)
    last[:, _MIDDLE], shift[_MIDDLE] = weights[:, :N_LOG_HEADS], bias[:N_LOG_HEADS]
    shift[1:N_LOG_HEADS] += MILLISECONDS
    last[:, _WIDTH], shift[_WIDTH] = doubt.width_weights, doubt.width_bias
    last[:, _LOGIT], shift[_LOGIT] = doubt.starved_weights, doubt.starved_bias
    last[:, _MARGIN], shift[_MARGIN] = weights[:, N_LOG_HEADS], bias[N_LOG_HEADS]
    base = np.zeros((len(FEATURES), _N_KNOWN))
    for head, feature in enumerate(BASES):
        base[feature, head] = 1.0
    base[FEATURE_INDEX["offered_tps"], _OFFERED] = 1.0
    learnt = graph.gemm(hidden, last, shift, "learnt")
    known = graph.node("Gemm", logs, graph.constant("physics", base), learnt, name="known")
    # What is far out of range must not become an infinity that spoils its neighbours.
    ends = graph.constant("least", -50.0), graph.constant("most", 50.0)
    known = graph.node("Clip", known, *ends, name="bounded")
    raised, above = graph.node("Exp", known, name="raised"), graph.node("Relu", known, name="above")
    every = graph.node("Concat", known, raised, above, name="every", axis=1)
    out = np.zeros((3 * _N_KNOWN, len(OUTPUTS)))
    widths = range(_N_KNOWN + _WIDTH.start, _N_KNOWN + _WIDTH.stop)
    for head in range(N_LOG_HEADS):
        own = OUTPUTS.index(HEADS[head].name)
        low, high = (OUTPUTS.index(f"{HEADS[head].name}_{end}") for end in ("low", "high"))
        out[head, [own, low, high]] = 1.0
        out[widths[head], low], out[widths[head], high] = -1.0, 1.0
    throughput, logit = OUTPUTS.index("throughput_tps"), OUTPUTS.index("starved_probability")
    out[0, throughput] = out[_OFFERED, throughput] = out[_LOGIT, logit] = 1.0
    out[_MARGIN, OUTPUTS.index("slo_margin")] = 1.0
    out[0, logit] = doubt.starved_slope
    # Nobody serves more than is offered: the served fraction ends at 1 wherever it is used.
    excess = 2 * _N_KNOWN
    for column in ("served_fraction", "served_fraction_low", "served_fraction_high"):
        out[excess, OUTPUTS.index(column)] = -1.0
    out[excess, throughput], out[excess, logit] = -1.0, -doubt.starved_slope
    cap = np.full(len(OUTPUTS), 60.0)
    cap[OUTPUTS.index("served_fraction_high")], cap[OUTPUTS.index("slo_margin")] = 0.0, 1.0
    drawn = graph.node("MatMul", every, graph.constant("draw", out), name="drawn")
    return graph.node("Min", drawn, graph.constant("cap", cap), name="capped")


def _outputs(graph: _Graph, before: str, outside: str) -> None:
    """The last step: exponentials, the logistic of starvation, the margin as it is."""
    n_logs = OUTPUTS.index("starved_probability")
    sizes = graph.constant("sizes", [n_logs, 1, 1, 1], np.int64)
    parts = ["logs_of_figures", "logit", "margin", "nothing"]
    graph.nodes.append(helper.make_node("Split", [before, sizes], parts, "parts", axis=1))
    figures = graph.node("Exp", parts[0], name="figures")
    starved = graph.node("Sigmoid", parts[1], name="starved")
    graph.node("Concat", figures, starved, parts[2], outside, name="predictions", axis=1)


def _outside(graph: _Graph, model: Distilled, logs: str) -> str:
    """1 where a raw feature lies outside the range of training, else 0."""
    part = (("first", [0]), ("end", [N_RAW]), ("columns", [1]))
    raw = graph.node("Slice", logs, *(graph.constant(*p, np.int64) for p in part), name="raw")
    below = graph.node("Sub", graph.constant("low", model.low), raw, name="below")
    above = graph.node("Sub", raw, graph.constant("high", model.high), name="above_high")
    beyond = graph.node("Max", below, above, name="beyond")
    far = graph.node("ReduceMax", beyond, name="far", axes=[1])
    return graph.node("Sign", graph.node("Relu", far, name="far_out"), name="outside")
