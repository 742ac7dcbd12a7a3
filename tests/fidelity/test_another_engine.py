"""The toy engine on a CPU: a profile of some recordings held to others, end to end.

Its three kernels (grouped LoRA, vLLM's own for CPUs, no LoRA) are engines of their own: each is
fitted and judged by its own recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lorapack.fidelity.calibrate.recorded_replay import ReplayErrors, errors, replay
from lorapack.fidelity.calibrate.recorded_run import Recording, read_recordings
from lorapack.fidelity.calibrate.recordings import profile_of_recordings

GROUPED = ("grouped_ml2", "grouped_ml8")
STOCK = ("stock_ml2_short", "stock_ml4_short", "stock_ml8_short")
NO_LORA = ("base_nolora1",)

Replayed = Callable[[tuple[str, ...], str], ReplayErrors]


@pytest.fixture(scope="module")
def recordings(measured_data: Path) -> Mapping[str, Recording]:
    return {r.name: r for r in read_recordings(measured_data / "vllm-cpu")}


@pytest.fixture(scope="module")
def replayed(recordings: Mapping[str, Recording]) -> Replayed:
    """Errors of a recording replayed with the profile of others, all said to be of one kernel."""

    def with_profile_of(fitted: tuple[str, ...], judged: str) -> ReplayErrors:
        chosen = [recordings[name] for name in fitted]
        as_one = [replace(r, settings={**r.settings, "grouped": True}) for r in chosen]
        profile, _ = profile_of_recordings(as_one, command="", source="vllm-cpu")
        return errors(profile, recordings[judged])

    return with_profile_of


@pytest.mark.parametrize("judged", GROUPED)
def test_the_engine_that_was_fitted_is_replayed(replayed: Replayed, judged: str) -> None:
    found = replayed(GROUPED, judged)
    assert abs(found.makespan) < 1
    assert abs(found.mean_ttft) < 3


def test_requests_get_their_first_tokens_in_the_recorded_order(
    recordings: Mapping[str, Recording],
) -> None:
    two_slots = recordings["grouped_ml2"]
    profile, _ = profile_of_recordings(list(recordings.values()), command="", source="vllm-cpu")
    result = replay(profile, two_slots, records=True)
    assert result.requests is not None
    measured = two_slots.requests.sort("arrival")["first"].to_numpy()
    simulated = result.requests.sort("arrival_s")["first_token_s"].to_numpy()
    moved = np.abs(place(simulated) - place(measured))
    assert moved.max() <= 5
    assert np.count_nonzero(moved) <= 0.05 * moved.size


def place(first_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each request's place in the order of first tokens; of one step, in the order of arrival."""
    return np.argsort(np.argsort(first_s, kind="stable"), kind="stable")


def test_light_load_is_replayed(replayed: Replayed) -> None:
    found = replayed(NO_LORA, *NO_LORA)
    assert abs(found.makespan) < 0.2
    assert abs(found.mean_ttft) < 3


@pytest.mark.parametrize(
    ("left_out", "kernel", "mean_ttft"),
    [
        ("grouped_ml2", GROUPED, 12),
        # Two slots never have a third adapter in a step: its price is told by 39 steps of one.
        ("grouped_ml8", GROUPED, 20),
        ("stock_ml2_short", STOCK, 12),
        # The same batches took 3 % less time than in its kernel's other recordings.
        ("stock_ml4_short", STOCK, 16),
        ("stock_ml8_short", STOCK, 12),
    ],
)
def test_other_slots_are_foretold(
    replayed: Replayed, left_out: str, kernel: tuple[str, ...], mean_ttft: float
) -> None:
    found = replayed(tuple(name for name in kernel if name != left_out), left_out)
    assert abs(found.makespan) < 3
    assert abs(found.mean_ttft) < mean_ttft
