"""The joint shape of lengths: exact means, stated quartiles, cuts, and the KV it holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lorapack.profile.lengths import Lengths, Marginal, solve
from lorapack.profile.profile import Profile

START = Lengths(
    correlation=0.0,
    total_max_tokens=2048.0,
    prompt=Marginal(222.0, 4.0, 23.0, 100.0, 423.0, 250.0, 1024.0),
    output=Marginal(195.0, 1.0, 27.0, 100.0, 359.0, 100.0, 2044.0),
)
"""What the measurements' README states; medians and correlation are to be found."""


@pytest.fixture(scope="module")
def solved() -> Lengths:
    return solve(START, 356.0)


def columns(lengths: Lengths) -> tuple[np.ndarray, np.ndarray]:
    prompt, output = lengths.pairs()
    return prompt.astype(float), output.astype(float)


def test_the_sample_has_the_means_and_quartiles(solved: Lengths) -> None:
    prompt, output = columns(solved)
    assert prompt.mean() == pytest.approx(222, rel=1e-4)
    assert output.mean() == pytest.approx(195, rel=1e-4)
    assert np.quantile(prompt, [0.25, 0.75]) == pytest.approx([23, 423], rel=0.01)
    assert np.quantile(output, [0.25, 0.75]) == pytest.approx([27, 359], rel=0.01)


def test_the_sample_respects_the_cuts(solved: Lengths) -> None:
    prompt, output = columns(solved)
    assert prompt.min() >= 4
    assert prompt.max() <= 1024 * 1.001
    assert (prompt + output).max() <= 2048 * 1.001


def test_the_solver_meets_the_kv_held_a_request(solved: Lengths) -> None:
    assert solved.kv_tokens_per_request() == pytest.approx(356, abs=0.1)
    assert -0.35 < np.corrcoef(*columns(solved))[0, 1] < -0.15


def test_independent_lengths_hold_more(solved: Lengths) -> None:
    assert replace(solved, correlation=0.0).kv_tokens_per_request() > 390


def test_the_tail_is_exponential_above_the_upper_quartile(solved: Lengths) -> None:
    _, output = columns(solved)
    beyond = output[output > 359] - 359
    assert beyond.mean() == pytest.approx(100, rel=0.03)
    assert beyond.std() == pytest.approx(100, rel=0.05)


def test_the_sample_is_always_the_same_and_read_only(solved: Lengths) -> None:
    first, second = solved.pairs(), replace(solved).pairs()
    assert first[0].tobytes() == second[0].tobytes()
    assert first[0].dtype == np.float32
    assert not first[0].flags.writeable


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match="sign"):
        solve(replace(START, prompt=replace(START.prompt, mean_tokens=900.0)), 356.0)


@pytest.mark.parametrize("name", Profile.names())
def test_shipped_profiles_hold_their_own_means(name: str) -> None:
    lengths = Profile.load(name).lengths
    prompt, output = columns(lengths)
    assert prompt.mean() == pytest.approx(lengths.prompt.mean_tokens, rel=1e-4)
    assert output.mean() == pytest.approx(lengths.output.mean_tokens, rel=1e-4)
