"""Asking a model: one ONNX graph; safe from any number of threads.

onnxruntime runs it for many rows, :mod:`lorapack.predictor.one_row` for one.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from lorapack.errors import InputError
from lorapack.predictor.features import FEATURES
from lorapack.predictor.one_row import network_of
from lorapack.predictor.targets import OUTPUTS, Prediction
from lorapack.profile.digest import digest_of
from lorapack.profile.profile import Profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorapack._native import Network

FORMAT = "2"
"""The graphs that this version reads (see :mod:`lorapack.predictor.export`)."""

_BUILTIN = resources.files("lorapack.predictor") / "models"


@dataclass(frozen=True)
class Predictor:
    """A model of one profile.

    Attributes:
        profile: What it was trained for.
        targets: Names of the outputs' columns, in their order.
        card: What it was learnt from and what it is worth.

    Example:
        >>> from lorapack import Adapter, Fleet, GpuState, Predictor
        >>> model = Predictor.load("llama-3.1-8b/h100-64gb/vllm-0.8.5")
        >>> state = GpuState(model, max_lora_rank=16, max_loras=8)
        >>> state.add(Adapter("summaries", rank=16, rate_rps=0.5))
        >>> state.predict().served_fraction > 0.9
        True
    """

    profile: Profile
    targets: tuple[str, ...]
    card: Mapping[str, Any]
    _session: onnxruntime.InferenceSession
    _network: Network | None

    @classmethod
    def load(cls, source: Profile | str | os.PathLike[str], *, stale: bool = False) -> Predictor:
        """Loads the model of a profile, or a model's file.

        Args:
            source: A profile (or the name of one that comes with lorapack), or the path of an
                ``.onnx`` file that ``lorapack train`` wrote.
            stale: Take a model whose profile has changed since it was trained.

        Raises:
            InputError: There is no such model, it is of another version, or the profile has changed
                since it was trained.

        Example:
            >>> model = Predictor.load("llama-3.1-8b/h100-64gb/vllm-0.8.5")
            >>> "served_fraction" in model.targets, "ttft_p99_ms" in model.targets
            (True, True)
        """
        if isinstance(source, Profile):
            return _of_profile(source, stale=stale)
        given = os.fspath(source)
        if given in Profile.names():
            return _of_profile(Profile.load(given), stale=stale)
        path = Path(given)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(given, None, None, f"cannot be read: {error.strerror}") from error
        return _of_bytes(data, given)

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs for features.

        Args:
            features: float32 of shape (rows, features), or one row of shape (features,).

        Returns:
            float32 of shape (rows, targets), or (targets,) for one row.
        """
        if self._network is not None and features.size == len(FEATURES):
            row = self._network.row(features)
            if row is not None:
                return row if features.ndim == 1 else row.reshape(1, -1)
        if features.ndim == 1:
            return self._run(features.reshape(1, -1)).reshape(-1)
        return self._run(features)

    def predict_many(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs for many rows.

        Args:
            features: Shape (rows, features), any float type.

        Returns:
            float32 of shape (rows, targets).

        Raises:
            InputError: The matrix has another number of columns.

        Example:
            >>> from lorapack import Adapter, GpuState
            >>> model = Predictor.load("llama-3.1-8b/h100-64gb/vllm-0.8.5")
            >>> state = GpuState(model, max_lora_rank=8)
            >>> state.add(Adapter("sql", rank=8, rate_rps=0.5))
            >>> rows = np.vstack([state.features(max_loras=slots) for slots in (1, 2, 4)])
            >>> model.predict_many(rows).shape == (3, len(model.targets))
            True
        """
        if features.ndim != 2 or features.shape[1] != len(FEATURES):
            mend = f"give a matrix of {len(FEATURES)} columns, as lorapack.predictor.features says"
            raise InputError("predict", "features", str(features.shape), mend)
        return self._run(np.ascontiguousarray(features, dtype=np.float32))

    def tell(self, features: NDArray[np.float32]) -> Prediction:
        """The prediction for one row, by name.

        Args:
            features: Shape (features,) or (1, features).
        """
        if self._network is not None:
            numbers = self._network.numbers(features)
            if numbers is not None:
                return Prediction._make(numbers)
        return Prediction._make(self._run(features.reshape(1, -1))[0].tolist())

    def _run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return _ran(self._session, features)


def builtin_models() -> tuple[str, ...]:
    """Names of the profiles whose models come with lorapack."""
    return tuple(name for name in Profile.names() if (_BUILTIN / _file_of(name)).is_file())


def _of_profile(profile: Profile, *, stale: bool) -> Predictor:
    file = _BUILTIN / _file_of(profile.name)
    if not file.is_file():
        raise InputError(
            "predictor", "profile", profile.name, _mend(profile, "no model comes with it")
        )
    model = _builtin(profile.name)
    if not stale and digest_of(profile) != digest_of(model.profile):
        why = "its constants have changed since its model was trained"
        raise InputError("predictor", "profile", profile.name, _mend(profile, why))
    return model


def _mend(profile: Profile, why: str) -> str:
    return (
        f"{why}: lorapack sweep training --profile {profile.name} -o rows; "
        "lorapack train rows -o model.onnx; then load model.onnx"
    )


@functools.lru_cache(maxsize=16)
def _builtin(name: str) -> Predictor:
    file = _BUILTIN / _file_of(name)
    return _of_bytes(file.read_bytes(), _file_of(name))


def _file_of(name: str) -> str:
    return name.replace("/", "--") + ".onnx"


def _of_bytes(data: bytes, file: str) -> Predictor:
    try:
        session = onnxruntime.InferenceSession(data, _options(), ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a kind of its own for each way to be broken
        raise InputError(file, None, None, f"is no ONNX graph: {error}") from error
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata.get("lorapack.format") != FORMAT:
        mend = "give a model that this version's `lorapack train` wrote"
        raise InputError(file, "lorapack.format", metadata.get("lorapack.format"), mend)
    names = [feature["name"] for feature in json.loads(metadata["lorapack.features"])]
    outputs = tuple(json.loads(metadata["lorapack.outputs"]))
    if names != [feature.name for feature in FEATURES] or outputs != OUTPUTS:
        raise InputError(file, "features", None, "another lorapack trained it: train it again")
    profile = Profile.from_toml(metadata["lorapack.profile_toml"], file=f"{file}: profile")
    network = network_of(data, functools.partial(_ran, session))
    return Predictor(profile, outputs, json.loads(metadata["lorapack.card"]), session, network)


def _ran(
    session: onnxruntime.InferenceSession, features: NDArray[np.float32]
) -> NDArray[np.float32]:
    outputs: list[Any] = session.run(None, {"features": features})
    predictions: NDArray[np.float32] = outputs[0]
    return predictions


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # One row is a few microseconds of work: threads of its own would only cost.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return options
