"""What a prediction is made from: the one definition that training, `predict` and `GpuState` read.

A row holds :data:`FEATURES` in their order, as float32, in their own units. They come from sums
over the adapters (updated in O(1)), the GPU's settings, and the steady state that physics solves
for: see :mod:`lorapack.twin.physics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lorapack.twin.physics import FEATURE_INDEX, FEATURES, features_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lorapack.twin.scenario import Scenario

__all__ = ["FEATURES", "FEATURE_INDEX", "FEATURE_NAMES", "N_RAW", "features_of", "matrix_of"]

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
"""Names in the order of a row."""

N_RAW: int = sum(feature.raw for feature in FEATURES)
"""Raw features, which are held against the range of training; they come first."""

assert all(feature.raw for feature in FEATURES[:N_RAW])


def matrix_of(scenarios: Iterable[Scenario]) -> NDArray[np.float32]:
    """The rows of many scenarios.

    Returns:
        float32 of shape (scenarios, features).
    """
    rows = [features_of(scenario) for scenario in scenarios]
    return np.concatenate(rows) if rows else np.empty((0, len(FEATURES)), dtype=np.float32)
