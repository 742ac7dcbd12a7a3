"""Prices of sets, by either way to HiGHS."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lorapack.packer.linear_program import dearest_prices


@pytest.fixture(params=["highspy", "scipy"])
def solver(request, monkeypatch) -> str:
    if request.param == "scipy":
        monkeypatch.setitem(sys.modules, "highspy", None)
    else:
        pytest.importorskip("highspy")
        monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    return request.param


def test_prices_are_the_dearest_at_which_no_set_is_worth_more_than_one(solver) -> None:
    worth = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    prices = dearest_prices(worth, np.array([1.0, 1.0, 1.0]))
    assert prices == pytest.approx([1 / 3, 2 / 3, 1 / 3])


def test_prices_lie_between_limits(solver) -> None:
    worth, counts = np.array([[1.0, 1.0]]), np.array([3.0, 1.0])
    limits = (np.array([0.0, 0.3]), np.array([0.6, 1.0]))
    assert dearest_prices(worth, counts, limits) == pytest.approx([0.6, 0.4])


def test_limits_that_no_prices_keep_are_said_to_be_such(solver) -> None:
    worth, counts = np.array([[1.0, 1.0]]), np.ones(2)
    assert dearest_prices(worth, counts, (np.full(2, 0.7), np.ones(2))) is None


@pytest.mark.parametrize("seed", range(5))
def test_both_ways_come_to_the_same(seed: int, monkeypatch) -> None:
    pytest.importorskip("highspy")
    draw = np.random.default_rng(seed)
    worth, counts = draw.integers(0, 4, (30, 12)).astype(float), draw.uniform(1, 50, 12)
    worth[0] = 1.0
    own = dearest_prices(worth, counts)
    monkeypatch.setitem(sys.modules, "highspy", None)
    other = dearest_prices(worth, counts)
    assert own is not None
    assert other is not None
    assert counts @ own == pytest.approx(counts @ other)
    assert (worth @ own).max() <= 1.0 + 1e-6
