"""A predictor held against runs of a real engine: what it says of a scenario that was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorapack.predictor.features import features_of
from lorapack.twin.scenario import STARVED_BELOW

if TYPE_CHECKING:
    from lorapack.predictor.predictor import Predictor
    from lorapack.twin.scenario import Scenario


def predict_run(model: Predictor, scenario: Scenario) -> dict[str, float | bool]:
    """What the model says of a run, under the names that a simulated run has.

    Args:
        model: The model of the scenario's profile.
        scenario: The run: fleet, engine, window, cap on requests in flight.

    Returns:
        ``served_fraction``, ``throughput_tps`` (of the mean rates), ``starved`` (below 0.9, the
        papers' rule), ``ttft_mean_ms``, ``ttft_p99_ms``, ``itl_mean_ms``, ``itl_p99_ms``,
        ``out_of_range``.

    Raises:
        Infeasible: The engine would not start.
    """
    told = model.tell(features_of(scenario))
    return {
        "served_fraction": told.served_fraction,
        "throughput_tps": told.throughput_tps,
        "starved": told.served_fraction < STARVED_BELOW,
        "ttft_mean_ms": told.ttft_mean_ms,
        "ttft_p99_ms": told.ttft_p99_ms,
        "itl_mean_ms": told.itl_mean_ms,
        "itl_p99_ms": told.itl_p99_ms,
        "out_of_range": told.out_of_range > 0,
    }
