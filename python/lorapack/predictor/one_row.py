"""One row without a graph runtime: the ONNX file's constants, in a native network.

onnxruntime takes about half a microsecond to start a node, and the graph has two dozen: for one row
that is most of the time. The constants are read from the file itself (a page of protobuf's wire
format, since onnx is needed only to train), and the native network is taken only if it says what
onnxruntime says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from lorapack._native import Network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
    Constants = dict[str, NDArray[np.float32]]

N_TRIALS = 64
"""Rows on which the network is held against onnxruntime when a model is loaded."""

TOLERANCE = 1e-4
"""Relative difference up to which both say the same: what the export promises. A tenth of it is
allowed in absolute terms, for the margin and the probability may be 0."""

_GRAPH, _CONSTANT = 7, 5
_DIMENSION, _TYPE, _NAME, _RAW = 1, 2, 8, 9
_FLOAT = 1
"""Numbers of onnx.proto's fields, and of its type float32."""


def network_of(data: bytes, run: Run) -> Network | None:
    """The network of a graph, or ``None`` if the graph is not of the form that it knows.

    Args:
        data: The ONNX file.
        run: onnxruntime's answer for some rows.
    """
    constants = constants_of(data)
    try:
        network = _network(constants)
    except (KeyError, ValueError):
        return None
    return network if _agrees(network, constants, run) else None


def constants_of(data: bytes) -> Constants:
    """Every float32 constant of an ONNX file, by name."""
    found = {}
    for graph in _fields(memoryview(data), _GRAPH):
        for tensor in _fields(graph, _CONSTANT):
            if next(_numbers(tensor, _TYPE), None) == _FLOAT:
                name = bytes(next(_fields(tensor, _NAME))).decode()
                values = np.frombuffer(next(_fields(tensor, _RAW), b""), np.dtype("<f4"))
                # A copy, for the file does not align them.
                found[name] = values.reshape(tuple(_numbers(tensor, _DIMENSION))).astype(np.float32)
    return found


def _network(constants: Constants) -> Network:
    hidden = sum(name.startswith("layer_") for name in constants) // 2
    layers = [*(f"layer_{i}" for i in range(hidden)), "learnt"]
    return Network(
        offset=constants["offset"],
        mean=constants["mean"],
        scale=constants["scale"],
        layers=[(constants[f"{name}_weights"], constants[f"{name}_bias"]) for name in layers],
        physics=constants["physics"],
        least=float(constants["least"]),
        most=float(constants["most"]),
        draw=constants["draw"],
        cap=constants["cap"],
        low=constants["low"],
        high=constants["high"],
    )


def _agrees(network: Network, constants: Constants, run: Run) -> bool:
    """Whether both say the same of rows from the middle of training to well beyond its edges."""
    offset, mean, scale = (constants[name] for name in ("offset", "mean", "scale"))
    spread = np.linspace(0.0, 2.0, N_TRIALS)[:, None]
    logs = mean + scale * spread * np.random.default_rng(0).normal(size=(N_TRIALS, len(mean)))
    rows = (np.exp(logs) - offset).astype(np.float32)
    rows = rows[(rows + offset > 0).all(axis=1)]
    said = np.array([network.numbers(row) for row in rows], np.float32)
    return len(rows) > 0 and np.allclose(said, run(rows), rtol=TOLERANCE, atol=0.1 * TOLERANCE)


def _fields(message: memoryview, number: int) -> Iterator[memoryview]:
    """The values of a message's field of bytes."""
    for field, value in _every(message):
        if field == number and not isinstance(value, int):
            yield value


def _numbers(message: memoryview, number: int) -> Iterator[int]:
    """The values of a message's field of whole numbers, packed or one by one."""
    for field, value in _every(message):
        if field != number:
            continue
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            yield one


def _every(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Every field of a protobuf message: its number and its value."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}[kind]
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
