"""Parts of the trained pipelines, as scikit-learn estimators."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
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


class PhasedMLP(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A multilayer perceptron that learns in phases, and from odd rows less.

    Each phase learns with Adam at a lower rate, so that it ends close to a minimum. A first, rough
    network says which rows it cannot explain (runs that hang on the draw, mostly); in the real one
    those weigh less, so that squares of errors are minimised that are not far from their absolutes.

    Args:
        hidden_layer_sizes: Units a layer.
        rates: Learning rate of each phase.
        epochs: Passes over the rows in each phase.
        rough_epochs: The same of the rough network; empty: there is none, and rows weigh alike.
        batch_size: Rows a step.
        alpha: Weight of the L2 penalty.
        random_state: Seed of weights and of the rows' order.

    Attributes:
        network_: The fitted :class:`sklearn.neural_network.MLPRegressor`.
        layers_: Its weights and biases, layer by layer.
    """

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (96, 48),
        rates: tuple[float, ...] = (4e-3, 1e-3, 1.5e-4),
        epochs: tuple[int, ...] = (90, 60, 45),
        rough_epochs: tuple[int, ...] = (40, 20, 10),
        batch_size: int = 256,
        alpha: float = 0.5,
        random_state: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.rates = rates
        self.epochs = epochs
        self.rough_epochs = rough_epochs
        self.batch_size = batch_size
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> PhasedMLP:  # noqa: N803 - scikit-learn's
        """Learns the weights.

        Args:
            X: Inputs, shape (rows, inputs).
            y: Targets, shape (rows, targets), each of like spread; the first matters most.
        """
        inputs, targets = np.asarray(X, dtype=np.float32), np.asarray(y, dtype=np.float32)
        weights = None
        # Layers are so small that threads would cost more than they bring.
        with threadpool_limits(1):
            if self.rough_epochs:
                rough = self._learnt(inputs, targets, self.rough_epochs, None)
                weights = _weights(np.abs(rough.predict(inputs) - targets))
            self.network_ = self._learnt(inputs, targets, self.epochs, weights)
        self.layers_ = [
            (weights.astype(np.float64), bias.astype(np.float64))
            for weights, bias in zip(self.network_.coefs_, self.network_.intercepts_, strict=True)
        ]
        self.n_features_in_ = inputs.shape[1]
        return self

    def _learnt(
        self,
        inputs: NDArray[np.float32],
        targets: NDArray[np.float32],
        epochs: tuple[int, ...],
        weights: NDArray[np.float32] | None,
    ) -> MLPRegressor:
        network = MLPRegressor(
            hidden_layer_sizes=self.hidden_layer_sizes,
            alpha=self.alpha,
            batch_size=min(self.batch_size, len(inputs)),
            random_state=self.random_state,
            n_iter_no_change=10**9,
            warm_start=True,
        )
        with warnings.catch_warnings():
            # Each phase ends by its number of epochs, as wished.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for rate, passes in zip(self.rates, epochs, strict=True):
                network.set_params(learning_rate_init=rate, max_iter=passes)
                network.fit(inputs, targets, sample_weight=weights)
        return network

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """The targets.

        Args:
            X: Inputs, shape (rows, inputs).
        """
        weights, bias = self.layers_[-1]
        return np.asarray(self.hidden(X) @ weights + bias)

    def hidden(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """What the last hidden layer says.

        Args:
            X: Inputs, shape (rows, inputs).
        """
        values = np.asarray(X, dtype=np.float64)
        for weights, bias in self.layers_[:-1]:
            values = np.maximum(values @ weights + bias, 0.0)
        return values


def _weights(off: NDArray[np.float32]) -> NDArray[np.float32]:
    """The less, the further a row is off, in medians of its targets; 1 in the mean."""
    usual = np.maximum(np.median(off, axis=0), np.float32(1e-6))
    far = off / usual
    weights = 1.0 / (1.0 + 0.5 * far[:, 0] + 0.5 * far.mean(axis=1))
    return np.asarray(weights / weights.mean(), dtype=np.float32)
