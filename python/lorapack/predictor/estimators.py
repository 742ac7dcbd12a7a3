"""Parts of the trained pipelines, as scikit-learn estimators."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import block_diag
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SMALLEST_OFFSET = 1e-9
"""Of features that were never (or always) zero in training: their logarithm exists anyway."""


class LogFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """``log(x + offset)``; where a feature may be zero, a small share of what it usually is.

    Args:
        share: Offset over the median of a feature's positive values.

    Attributes:
        offset_: Offset of each feature, in its unit.
    """

    def __init__(self, share: float = 0.01) -> None:
        self.share = share

    def fit(self, X: ArrayLike, y: object = None) -> LogFeatures:  # noqa: ARG002, N803 - scikit-learn's
        """Learns the offsets.

        Args:
            X: Features, shape (rows, features), none negative.
            y: Not used.
        """
        features = np.asarray(X, dtype=np.float64)
        self.n_features_in_ = features.shape[1]
        offsets = np.array([self.share * _usual_beside_zero(column) for column in features.T])
        # Rounded to what the graph holds, so that both sides add the same number.
        self.offset_ = np.maximum(offsets, SMALLEST_OFFSET).astype(np.float32)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """The logarithms.

        Args:
            X: Features, shape (rows, features).
        """
        logarithms: NDArray[np.float64] = np.log(np.asarray(X, dtype=np.float64) + self.offset_)
        return logarithms


def _usual_beside_zero(column: NDArray[np.float64]) -> float:
    """Median of the positive values, if there are others, too; else 0."""
    positive = column[column > 0]
    return float(np.median(positive)) if 0 < len(positive) < len(column) else 0.0


class Committee(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The mean of a few small multilayer perceptrons, which is itself one network.

    Members differ by their seed alone. Each learns with Adam at a learning rate that falls in
    steps, so that it ends close to a minimum. A few small ones err less than one as large as all.

    Args:
        n_members: How many.
        hidden_layer_sizes: Units a layer, of a member.
        rates: Learning rate of each phase.
        epochs: Passes over the rows in each phase.
        batch_size: Rows a step.
        alpha: Weight of the L2 penalty.
        random_state: Seed of weights and of the rows' order.

    Attributes:
        members_: The fitted :class:`sklearn.neural_network.MLPRegressor`.
        layers_: Weights and biases of the network that the members are together.
    """

    def __init__(
        self,
        n_members: int = 3,
        hidden_layer_sizes: tuple[int, ...] = (64, 32),
        rates: tuple[float, ...] = (2e-3, 5e-4, 1e-4),
        epochs: tuple[int, ...] = (90, 60, 45),
        batch_size: int = 128,
        alpha: float = 0.5,
        random_state: int = 0,
    ) -> None:
        self.n_members = n_members
        self.hidden_layer_sizes = hidden_layer_sizes
        self.rates = rates
        self.epochs = epochs
        self.batch_size = batch_size
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Committee:  # noqa: N803 - scikit-learn's
        """Learns the weights.

        Args:
            X: Inputs, shape (rows, inputs).
            y: Targets, shape (rows, targets).
        """
        inputs = np.asarray(X, dtype=np.float64)
        # Layers are so small that threads would cost more than they bring.
        with threadpool_limits(1):
            self.members_ = [
                self._member(inputs, y, self.random_state + i) for i in range(self.n_members)
            ]
        self.layers_ = _joined(self.members_)
        self.n_features_in_ = inputs.shape[1]
        return self

    def _member(self, inputs: NDArray[np.float64], y: ArrayLike, seed: int) -> MLPRegressor:
        network = MLPRegressor(
            hidden_layer_sizes=self.hidden_layer_sizes,
            alpha=self.alpha,
            batch_size=min(self.batch_size, len(inputs)),
            random_state=seed,
            n_iter_no_change=10**9,
            warm_start=True,
        )
        with warnings.catch_warnings():
            # Each phase ends by its number of epochs, as wished.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for rate, epochs in zip(self.rates, self.epochs, strict=True):
                network.set_params(learning_rate_init=rate, max_iter=epochs)
                network.fit(inputs, y)
        return network

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """The targets: the members' mean.

        Args:
            X: Inputs, shape (rows, inputs).
        """
        return np.asarray(np.mean([member.predict(X) for member in self.members_], axis=0))

    def hidden(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """What the last hidden layers say, side by side.

        Args:
            X: Inputs, shape (rows, inputs).
        """
        values = np.asarray(X, dtype=np.float64)
        for weights, bias in self.layers_[:-1]:
            values = np.maximum(values @ weights + bias, 0.0)
        return values


def _joined(members: list[MLPRegressor]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The network whose output is the mean of its members': side by side, joined at both ends."""
    layers = []
    n_layers = len(members[0].coefs_)
    for i in range(n_layers):
        weights = [member.coefs_[i] for member in members]
        biases = [member.intercepts_[i] for member in members]
        if i == n_layers - 1:
            layers.append((np.concatenate(weights) / len(members), np.mean(biases, axis=0)))
        else:
            wide = np.concatenate(weights, axis=1) if i == 0 else block_diag(*weights)
            layers.append((wide, np.concatenate(biases)))
    return layers
