"""Parts of the trained pipelines, as scikit-learn estimators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin
from sklearn.neural_network import MLPRegressor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SMALLEST_OFFSET = 1e-9
"""Where a feature is always zero, so that its logarithm exists."""


class LogFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """``log(x + offset)``, the offset a small share of what the feature usually is.

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
        medians = np.array([_median_of_positive(column) for column in features.T])
        # Rounded to what the graph holds, so that both sides add the same number.
        self.offset_ = np.maximum(self.share * medians, SMALLEST_OFFSET).astype(np.float32)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """The logarithms.

        Args:
            X: Features, shape (rows, features).
        """
        return np.log(np.asarray(X, dtype=np.float64) + self.offset_)


def _median_of_positive(column: NDArray[np.float64]) -> float:
    positive = column[column > 0]
    return float(np.median(positive)) if len(positive) else 0.0


class AnnealedMLP(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A multilayer perceptron whose learning rate falls in steps: Adam ends close to a minimum.

    Args:
        hidden_layer_sizes: Units a layer.
        rates: Learning rate of each phase.
        epochs: Passes over the rows in each phase.
        batch_size: Rows a step.
        alpha: Weight of the L2 penalty.
        random_state: Seed of the weights and of the rows' order.

    Attributes:
        network_: The fitted :class:`sklearn.neural_network.MLPRegressor`.
    """

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (128, 64),
        rates: tuple[float, ...] = (2e-3, 5e-4, 1e-4),
        epochs: tuple[int, ...] = (120, 80, 60),
        batch_size: int = 256,
        alpha: float = 1e-4,
        random_state: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.rates = rates
        self.epochs = epochs
        self.batch_size = batch_size
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> AnnealedMLP:  # noqa: N803 - scikit-learn's
        """Learns the weights.

        Args:
            X: Inputs, shape (rows, inputs).
            y: Targets, shape (rows, targets).
        """
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        network = MLPRegressor(
            hidden_layer_sizes=self.hidden_layer_sizes,
            alpha=self.alpha,
            batch_size=min(self.batch_size, len(np.asarray(X))),
            random_state=self.random_state,
            n_iter_no_change=10**9,
            warm_start=True,
        )
        with warnings.catch_warnings():
            # Each phase ends by its number of epochs, as wished.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for rate, epochs in zip(self.rates, self.epochs, strict=True):
                network.set_params(learning_rate_init=rate, max_iter=epochs)
                network.fit(X, y)
        self.network_ = network
        self.n_features_in_ = network.n_features_in_
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """The targets.

        Args:
            X: Inputs, shape (rows, inputs).
        """
        return np.asarray(self.network_.predict(X))

    def hidden(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's
        """What the last hidden layer says.

        Args:
            X: Inputs, shape (rows, inputs).
        """
        values = np.asarray(X, dtype=np.float64)
        layers = zip(self.network_.coefs_[:-1], self.network_.intercepts_[:-1], strict=True)
        for weights, bias in layers:
            values = np.maximum(values @ weights + bias, 0.0)
        return values
