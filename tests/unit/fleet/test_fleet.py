"""A fleet names each adapter once, scales, picks and shows itself as a frame."""

import pytest

from lorapack.errors import InputError
from lorapack.fleet.adapter import COLUMNS, Adapter
from lorapack.fleet.fleet import Fleet

FLEET = Fleet([Adapter("a", 8, 0.5), Adapter("b", 32, 1.5, 100.0), Adapter("base", 0, 1.0)])


def test_a_name_that_stands_twice_is_refused():
    with pytest.raises(InputError) as caught:
        Fleet([Adapter("a", 8, 0.5), Adapter("b", 8, 0.5), Adapter("a", 16, 1.0)])
    assert caught.value.value == "a"


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match="did you mean base"):
        FLEET["bose"]


def test_scaled_multiplies_rates_and_says_so():
    twice = FLEET.scaled(2)
    assert [a.rate_rps for a in twice] == [1.0, 3.0, 2.0]
    assert twice.provenance == {"rates_scaled_by": "2.0"}
    assert twice["b"].prompt_tokens == 100.0
    for factor in (-1, float("nan"), float("inf"), 1e9):
        with pytest.raises(InputError):
            FLEET.scaled(factor)


def test_subset_keeps_the_order_named():
    assert [a.adapter for a in FLEET.subset(["base", "a"])] == ["base", "a"]
    with pytest.raises(InputError):
        FLEET.subset(["a", "a"])


def test_totals():
    assert FLEET.rate_rps == 3.0
    assert FLEET.largest_rank == 32
    assert "a" in FLEET
    assert "z" not in FLEET
    assert len(Fleet([])) == 0
    assert Fleet([]).largest_rank == 0


def test_frame_has_a_column_each():
    frame = FLEET.frame()
    assert frame.columns == [column.name for column in COLUMNS]
    assert frame["prompt_tokens"].to_list() == [None, 100.0, None]
    assert frame["rank"].to_list() == [8, 32, 0]


def test_provenance_is_single_lines():
    with pytest.raises(InputError):
        Fleet([], {"rule": "two\nlines"})
    with pytest.raises(InputError):
        Fleet([], {"a:b": "colon in the key"})


def test_fleets_with_the_same_adapters_are_equal():
    assert Fleet([Adapter("a", 8, 0.5)], {"seed": "1"}) == Fleet([Adapter("a", 8, 0.5)])
