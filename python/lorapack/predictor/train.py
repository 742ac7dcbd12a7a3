"""Learning a predictor from a sweep: physics first, then what it leaves out.

A network (scikit-learn) sees the logarithms of the features and learns, for each quantity, what
must be added to the logarithm that physics puts in its place. Where a sweep runs a fleet on several
seeds, what it learns of it is the mean. On fleets kept aside, a second step
learns how far off that is (:class:`Doubt`): intervals of 90 % by split conformal prediction, and a
calibrated probability of starvation. A third part of the fleets is seen by nobody: the card's
errors. Fleets are split whole, never by row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lorapack.errors import InputError, MissingPackageError
from lorapack.predictor.features import FEATURE_INDEX, FEATURES, N_RAW, matrix_of
from lorapack.predictor.targets import (
    BASES,
    HEADS,
    MILLISECONDS,
    N_LOG_HEADS,
    OUTPUTS,
    labelled,
    labels_of,
)
from lorapack.sweep.store import read_sweep_definition, scan_sweep
from lorapack.twin.scenario import STARVED_BELOW, Scenario

try:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import f1_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    from lorapack.predictor.estimators import LogFeatures, PhasedMLP
except ImportError:
    raise MissingPackageError("training", "scikit-learn", "train") from None

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorapack.profile.profile import Profile

Floats = "NDArray[np.float64]"

COVERED = 0.9
"""Share of the runs that an interval is to hold."""

SERVED_UNIT = 1 / 30
"""Of the logarithm of the served fraction, in the regression of starvation: near 3 % are one."""

EDGE = 1e-4
"""Added to the range of training on either side, in logarithms."""

LEAST_ROWS = 200
"""A sweep with fewer usable rows teaches nothing."""


@dataclass(frozen=True)
class Rows:
    """What is learnt from.

    Attributes:
        features: float32, shape (rows, features).
        labels: What the twin said, shape (rows, heads), in the heads' units; the mean over the
            draws of a fleet.
        fleet: Which fleet each row is of.
        kind: How each row's rates were drawn, for the card.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.float64]
    fleet: NDArray[np.int64]
    kind: NDArray[np.str_]

    def __len__(self) -> int:
        """Rows."""
        return len(self.features)

    def part(self, mask: NDArray[np.bool_]) -> Rows:
        """Those rows that ``mask`` takes."""
        return Rows(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Doubt:
    """How far off a network is, learnt on fleets that it has not seen.

    Attributes:
        width_weights: Logarithm of the intervals' half widths from the last hidden layer; shape
            (hidden, log heads).
        width_bias: The rest of it; conformal, so that intervals hold :data:`COVERED`.
        starved_weights: Logit of starvation from the last hidden layer; shape (hidden,).
        starved_slope: By the logarithm of the served fraction.
        starved_bias: The rest of it.
    """

    width_weights: NDArray[np.float64]
    width_bias: NDArray[np.float64]
    starved_weights: NDArray[np.float64]
    starved_slope: float
    starved_bias: float


@dataclass(frozen=True)
class Distilled:
    """A trained predictor, before it is an ONNX graph; predicts the same, slower.

    Attributes:
        network: Features -> what is added to physics: the fitted scikit-learn pipeline.
        doubt: How far off it is.
        low: Smallest logarithm of each raw feature in training.
        high: Largest.
    """

    network: TransformedTargetRegressor
    doubt: Doubt
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def log_features(self) -> LogFeatures:
        """The pipeline's first step."""
        log: LogFeatures = self.network.regressor_["log"]
        return log

    @property
    def scaler(self) -> StandardScaler:
        """Its second."""
        return self.network.regressor_["scale"]

    @property
    def mlp(self) -> PhasedMLP:
        """Its third."""
        mlp: PhasedMLP = self.network.regressor_["mlp"]
        return mlp

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The outputs.

        Args:
            features: Shape (rows, features).

        Returns:
            Shape (rows, outputs), columns as in :data:`~lorapack.predictor.targets.OUTPUTS`.
        """
        logs = self.log_features.transform(features)
        hidden = self.mlp.hidden(self.scaler.transform(logs))
        middle, margin = _heads(self, features)
        doubt = self.doubt
        width = np.exp(hidden @ doubt.width_weights + doubt.width_bias)
        logit = hidden @ doubt.starved_weights + doubt.starved_slope * middle[:, 0]
        raw = logs[:, :N_RAW]
        outside = (raw < self.low).any(axis=1) | (raw > self.high).any(axis=1)
        served = np.exp(middle[:, 0])
        columns = [
            served,
            served * features[:, FEATURE_INDEX["offered_tps"]],
            *np.exp(middle[:, 1:]).T,
            *np.exp(middle - width).T,
            *np.exp(np.minimum(middle + width, _CAP)).T,
            1.0 / (1.0 + np.exp(-logit - doubt.starved_bias)),
            np.minimum(margin, 1.0),
            outside.astype(np.float64),
        ]
        return np.stack(columns, axis=1)


_CAP = np.array([0.0, *([np.inf] * (N_LOG_HEADS - 1))])
"""Nobody serves more than is offered."""


_NO_DOUBT = Doubt(np.empty((0, 0)), np.empty(0), np.empty(0), 0.0, 0.0)
"""Until it is learnt."""


def _heads(
    model: Distilled, features: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of the heads that have one, and the margin."""
    return with_physics(model.log_features, features, model.network.predict(features))


def with_physics(
    log: LogFeatures, features: NDArray[np.float32], added: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a model adds to physics, added: logarithms of the heads that have one, and the margin.

    Args:
        log: The model's logarithms.
        features: Shape (rows, features).
        added: Shape (rows, heads).
    """
    heads = added + _physics(log, features)
    return np.minimum(heads[:, :N_LOG_HEADS], _CAP), heads[:, N_LOG_HEADS]


def residuals(log: LogFeatures, rows: Rows) -> NDArray[np.float64]:
    """What is learnt: labels, in logarithms where they have one, less what physics says."""
    return _logs(rows.labels) - _physics(log, rows.features)


def _physics(log: LogFeatures, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """What physics says of each head, in logarithms; 0 for the head that has no base."""
    logs: NDArray[np.float64] = log.transform(features)
    base = np.zeros((len(features), len(HEADS)))
    base[:, :N_LOG_HEADS] = logs[:, list(BASES)]
    base[:, 1:N_LOG_HEADS] += MILLISECONDS
    return base


def _logs(labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Labels as the network learns them."""
    logs = np.log(np.maximum(labels[:, :N_LOG_HEADS], 1e-6))
    return np.concatenate([logs, labels[:, N_LOG_HEADS:]], axis=1)


def rows_of_sweep(folder: str | os.PathLike[str]) -> tuple[Rows, Profile]:
    """Reads a sweep, and makes the features of its scenarios anew.

    Args:
        folder: What ``lorapack sweep -o`` was given; it must be of one profile.

    Returns:
        The rows, and the profile they are of.

    Raises:
        InputError: The sweep has several profiles, too few usable rows, or was made by a lorapack
            that draws other fleets.
    """
    definition = read_sweep_definition(folder)
    profiles = definition.profiles()
    if len(profiles) != 1:
        found = ", ".join(profile.name for profile in profiles)
        raise InputError(folder, "profile", found, "sweep one profile at a time: a model is of one")
    frame = labelled(scan_sweep(folder).collect())
    seeds = definition.design.seeds or 1
    points, first, of_row = np.unique(
        frame["scenario"].to_numpy() // seeds, return_index=True, return_inverse=True
    )
    if len(points) < LEAST_ROWS:
        mend = f"give a sweep with at least {LEAST_ROWS} fleets that completed requests"
        raise InputError(folder, "rows", len(points), mend)
    scenarios = [definition.scenario(int(point) * seeds) for point in points]
    usable = [scenario for scenario in scenarios if isinstance(scenario, Scenario)]
    rates, swept = (
        np.array([scenario.fleet.rate_rps for scenario in usable]),
        frame["rate_rps"].to_numpy()[first],
    )
    if len(rates) != len(swept) or not np.allclose(rates, swept, rtol=1e-9):
        raise InputError(folder, "rows", None, "another lorapack drew these fleets: run it again")
    kinds = frame["fleet.rates"] if "fleet.rates" in frame.columns else pl.Series(["all"])
    rows = Rows(
        features=matrix_of(usable),
        labels=_means(labels_of(frame), of_row),
        fleet=points,
        kind=np.resize(kinds.cast(pl.String).to_numpy().astype(str), len(frame))[first],
    )
    return rows, profiles[0]


def _means(labels: NDArray[np.float64], of_row: NDArray[np.int64]) -> NDArray[np.float64]:
    """Labels averaged over the rows of each fleet: its draws."""
    sums = np.zeros((of_row.max() + 1, labels.shape[1]))
    np.add.at(sums, of_row, labels)
    return sums / np.bincount(of_row)[:, None]


def split(rows: Rows, seed: int) -> tuple[Rows, Rows, Rows]:
    """Splits fleets at random: 80 % to learn from, 10 % to learn doubt from, 10 % for the card."""
    fleets = np.unique(rows.fleet)
    share = np.random.Generator(np.random.PCG64(seed)).random(len(fleets))
    of_row = share[np.searchsorted(fleets, rows.fleet)]
    learn, doubt = of_row < 0.8, (of_row >= 0.8) & (of_row < 0.9)
    return rows.part(learn), rows.part(doubt), rows.part(of_row >= 0.9)


def pipeline(mlp: Any, share: float = 0.01) -> TransformedTargetRegressor:  # noqa: ANN401 - any estimator
    """Logarithms, scaling, an estimator; its targets scaled, too."""
    steps = [("log", LogFeatures(share)), ("scale", StandardScaler()), ("mlp", mlp)]
    return TransformedTargetRegressor(Pipeline(steps), transformer=StandardScaler())


def distil(learn: Rows, doubt: Rows, seed: int = 0, mlp: PhasedMLP | None = None) -> Distilled:
    """Trains a predictor.

    Args:
        learn: Rows that the network learns from.
        doubt: Rows of other fleets, from which it learns how far off it is.
        seed: Of weights and of the order of rows.
        mlp: The network; the one that won the comparison if not given.
    """
    network = pipeline(mlp or PhasedMLP(random_state=seed))
    log = LogFeatures().fit(learn.features)
    network.fit(learn.features, residuals(log, learn))
    raw = log.transform(np.concatenate([learn.features, doubt.features]))[:, :N_RAW]
    # A little beyond what was seen: float32 in a graph must not flag the edge itself.
    model = Distilled(network, _NO_DOUBT, raw.min(axis=0) - EDGE, raw.max(axis=0) + EDGE)
    return replace(model, doubt=_doubt(model, doubt, seed))


def _doubt(model: Distilled, rows: Rows, seed: int) -> Doubt:
    """Learns half widths on one half of the fleets, and makes them hold on the other."""
    inputs = model.scaler.transform(model.log_features.transform(rows.features))
    hidden = model.mlp.hidden(inputs)
    middle, _ = _heads(model, rows.features)
    off = np.abs(_logs(rows.labels)[:, :N_LOG_HEADS] - middle)
    fleets = np.unique(rows.fleet)
    first = np.random.Generator(np.random.PCG64([seed, 1])).random(len(fleets)) < 0.5
    shape = first[np.searchsorted(fleets, rows.fleet)]
    ridge = Ridge(alpha=100.0).fit(hidden[shape], np.log(off[shape] + 1e-3))
    score = off[~shape] / np.exp(ridge.predict(hidden[~shape]))
    level = min(1.0, np.ceil((len(score) + 1) * COVERED) / len(score))
    bias = ridge.intercept_ + np.log(np.quantile(score, level, axis=0, method="higher"))
    return Doubt(ridge.coef_.T, bias, *_starvation(hidden, middle[:, 0], rows))


def _starvation(
    hidden: NDArray[np.float64], log_served: NDArray[np.float64], rows: Rows
) -> tuple[NDArray[np.float64], float, float]:
    """A logistic regression on what the network knows; weights, slope and bias."""
    starved = rows.labels[:, 0] < STARVED_BELOW
    if starved.all() or not starved.any():
        return np.zeros(hidden.shape[1]), -1.0 / SERVED_UNIT, float(np.log(STARVED_BELOW))
    scaler = StandardScaler().fit(hidden)
    inputs = np.column_stack([log_served / SERVED_UNIT, scaler.transform(hidden)])
    logistic = LogisticRegression(C=0.03, max_iter=1000).fit(inputs, starved)
    slope, *weights = logistic.coef_[0]
    own = np.array(weights) / scaler.scale_
    bias = float(logistic.intercept_[0] - own @ scaler.mean_)
    return own, float(slope / SERVED_UNIT), bias


def errors(outputs: NDArray[np.float64], rows: Rows) -> dict[str, dict[str, float]]:
    """How far outputs are from what the twin said, target by target.

    Args:
        outputs: Shape (rows, outputs).
        rows: With the labels.

    Returns:
        Target -> figure -> value; ``smape`` in percent, ``coverage`` of the 90 % intervals 0..1.
    """
    column = {name: outputs[:, i] for i, name in enumerate(OUTPUTS)}
    found: dict[str, dict[str, float]] = {}
    for i, head in enumerate(HEADS[:N_LOG_HEADS]):
        label = rows.labels[:, i]
        inside = (column[f"{head.name}_low"] <= label) & (label <= column[f"{head.name}_high"])
        found[head.name] = {
            "smape": float(smape(column[head.name], label).mean()),
            "median_smape": float(np.median(smape(column[head.name], label))),
            "coverage": float(inside.mean()),
        }
    served = rows.labels[:, 0]
    found["throughput_tps"] = {
        "smape": float(smape(column["served_fraction"], served).mean())  # offered cancels
    }
    starved, probability = served < STARVED_BELOW, column["starved_probability"]
    found["starved_probability"] = {
        "macro_f1": float(f1_score(starved, probability >= 0.5, average="macro")),
        "brier": float(np.mean((probability - starved) ** 2)),
    }
    margin = rows.labels[:, len(HEADS) - 1]
    found["slo_margin"] = {
        "mean_error": float(np.mean(np.abs(column["slo_margin"] - margin))),
        "sign_right": float(np.mean((column["slo_margin"] >= 0) == (margin >= 0))),
    }
    found["out_of_range"] = {"flagged": float(np.mean(column["out_of_range"] > 0))}
    return found


def smape(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row's part of SMAPE, percent.

    Args:
        a: What one side says.
        b: What the other says.
    """
    return np.asarray(np.abs(a - b) / np.maximum(np.abs(a) + np.abs(b), 1e-300) * 100.0)


def train(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    judge: Callable[[Rows, Rows], None] | None = None,
) -> Mapping[str, Mapping[str, float]]:
    """Distils a predictor from a sweep and writes it, with a card beside it.

    Args:
        folder: A sweep of one profile (``lorapack sweep training -o ...``).
        output: The ONNX file; the card goes beside it as ``.md`` and ``.json``.
        seed: Of everything drawn.
        force: Replace files that exist.
        progress: Told what is being done.
        judge: Given the rows that were learnt from and those kept aside.

    Returns:
        Target -> its errors on fleets that nothing was learnt from.

    Raises:
        InputError: The sweep cannot be learnt from, or the file cannot be written.
    """
    from lorapack.atomic_file import refuse_to_overwrite
    from lorapack.predictor.card import Card, write_card
    from lorapack.predictor.export import write_model

    told = progress or (lambda _: None)
    refuse_to_overwrite(output, force=force)
    told("reading the sweep")
    rows, profile = rows_of_sweep(folder)
    learn, doubt, kept_aside = split(rows, seed)
    told(f"learning from {len(learn):,} rows")
    model = distil(learn, doubt, seed)
    outputs = model.predict(kept_aside.features)
    seen = np.concatenate([learn.features, doubt.features])
    by_kind = {
        str(kind): errors(
            outputs[kept_aside.kind == kind], kept_aside.part(kept_aside.kind == kind)
        )
        for kind in np.unique(kept_aside.kind)
    }
    card = Card(
        profile=profile.name,
        n_rows={"learn": len(learn), "doubt": len(doubt), "kept_aside": len(kept_aside)},
        targets=errors(outputs, kept_aside),
        by_kind=by_kind,
        ranges={
            feature.name: (float(column.min()), float(column.max()))
            for feature, column in zip(FEATURES[:N_RAW], seen.T[:N_RAW], strict=True)
        },
        seed=seed,
        definition=read_sweep_definition(folder).identity,
    )
    told("writing the model")
    digest = write_model(model, profile, card, output, force=force)
    write_card(card, output, digest, force=force)
    if judge is not None:
        judge(learn, kept_aside)
    return card.targets
