"""MAPE, SMAPE and F1 on figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from lorapack.fidelity.scores import errors, mape, median_error, share_off_by, smape, verdicts


def test_mape_is_relative_to_what_was_measured() -> None:
    assert mape([110.0, 95.0], [100.0, 100.0]) == pytest.approx(7.5)
    assert mape([200.0], [100.0]) == pytest.approx(100.0)


def test_smape_is_half_the_common_form() -> None:
    assert smape([300.0], [100.0]) == pytest.approx(50.0)
    assert smape([100.0], [100.0]) == 0.0


def test_unknown_and_zero_pairs_are_left_out() -> None:
    assert mape([110.0, 5.0, math.nan, 3.0], [100.0, 0.0, 10.0, math.nan]) == pytest.approx(10.0)
    assert errors([1.0, 2.0], [0.0, 2.0]).n == 1


def test_nothing_to_compare_is_not_a_perfect_score() -> None:
    assert math.isnan(mape([], []))
    assert math.isnan(smape([1.0], [0.0]))


def test_median_error_keeps_its_sign() -> None:
    assert median_error([90.0, 95.0, 300.0], [100.0, 100.0, 100.0]) == pytest.approx(-5.0)


def test_share_off_by_counts_what_lies_beyond() -> None:
    assert share_off_by([106.0, 94.0, 104.0, 100.0], [100.0] * 4, 0.05) == 0.5


def test_verdicts_by_hand() -> None:
    scored = verdicts([True, True, False, False], [True, False, False, False])
    assert scored.precision == 0.5
    assert scored.recall == 1.0
    # F1 of the positives 2/3, of the negatives 4/5.
    assert scored.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_a_class_that_neither_side_names_is_right() -> None:
    assert verdicts([False, False], [False, False]).macro_f1 == 1.0
