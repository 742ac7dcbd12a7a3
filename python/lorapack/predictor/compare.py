"""Kinds of model, learnt from the same rows and judged on the same fleets: error against time.

What `lorapack train --compare` prints. Each kind learns what must be added to physics, in
logarithms, as the shipped network does; times are scikit-learn's own, for batches of 1,000 rows on
one core, since not every kind has a fast graph.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.multioutput import MultiOutputRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lorapack.predictor.estimators import LogFeatures, PhasedMLP
from lorapack.predictor.targets import HEADS, N_LOG_HEADS
from lorapack.predictor.train import Rows, pipeline, residuals, smape, with_physics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Told = Callable[[str], None]

BATCH = 1_000
"""Rows at a time, where time is taken."""

TIMED = 20
"""Batches; the fastest counts."""


@dataclass(frozen=True)
class Compared:
    """What one kind of model came to.

    Attributes:
        kind: Its name.
        smape: Error of each head that is learnt in logarithms, percent.
        row_us: Microseconds a row, in batches of :data:`BATCH`.
        size_kb: Of the pickled estimator.
        learnt_s: Seconds of learning.
    """

    kind: str
    smape: Mapping[str, float]
    row_us: float
    size_kb: float
    learnt_s: float


def kinds(seed: int) -> dict[str, Any]:
    """The kinds that are compared: their names and estimators."""
    boosting = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=300, learning_rate=0.06, random_state=seed
    )
    forest = RandomForestRegressor(200, min_samples_leaf=3, n_jobs=1, random_state=seed)
    return {
        "physics alone": None,
        "ridge": Ridge(alpha=1.0),
        "forest of 200": forest,
        "boosting, 300 trees of 31 leaves": MultiOutputRegressor(boosting),
        "MLP 32-32": PhasedMLP((32, 32), random_state=seed),
        "MLP 96-48, the one that is shipped": PhasedMLP((96, 48), random_state=seed),
        "MLP 96-48, all rows alike": PhasedMLP((96, 48), rough_epochs=(), random_state=seed),
        "MLP 128-128": PhasedMLP((128, 128), random_state=seed),
    }


def compare(
    learn: Rows, judged: Rows, seed: int = 0, told: Told = lambda _: None
) -> list[Compared]:
    """Learns each kind and judges it.

    Args:
        learn: Rows to learn from.
        judged: Rows of other fleets.
        seed: Of all that is drawn.
        told: Told what is being done.
    """
    found = []
    with threadpool_limits(1):
        for name, estimator in kinds(seed).items():
            told(f"comparing: {name}")
            found.append(_compared(name, estimator, learn, judged))
    return found


def _compared(name: str, estimator: Any, learn: Rows, judged: Rows) -> Compared:  # noqa: ANN401 - any estimator
    log = LogFeatures().fit(learn.features)
    begun = time.perf_counter()
    model = None
    if estimator is not None:
        model = pipeline(estimator).fit(learn.features, residuals(log, learn))
    learnt_s = time.perf_counter() - begun

    def added(features: NDArray[np.float32]) -> NDArray[np.float64]:
        if model is None:
            return np.zeros((len(features), len(HEADS)))
        predicted: NDArray[np.float64] = model.predict(features)
        return predicted

    middle, _ = with_physics(log, judged.features, added(judged.features))
    errors = {
        head.name: float(smape(np.exp(middle[:, i]), judged.labels[:, i]).mean())
        for i, head in enumerate(HEADS[:N_LOG_HEADS])
    }
    batch = np.resize(judged.features, (BATCH, judged.features.shape[1]))
    taken = []
    for _ in range(TIMED if model is not None else 0):
        begun = time.perf_counter()
        added(batch)
        taken.append(time.perf_counter() - begun)
    return Compared(
        kind=name,
        smape=errors,
        row_us=min(taken, default=0.0) / BATCH * 1e6,
        size_kb=len(pickle.dumps(model)) / 1e3 if model is not None else 0.0,
        learnt_s=learnt_s,
    )
