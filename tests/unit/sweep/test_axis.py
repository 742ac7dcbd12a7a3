"""One key that varies."""

import math

import pytest

from lorapack.errors import InputError
from lorapack.sweep.axis import Choice, Range, is_range, range_of


def read(table):
    return range_of(table, file="sweep.toml", place="engine.max_loras")


def test_a_log_range_walks_in_equal_factors_and_keeps_whole_numbers():
    assert read({"from": 1, "to": 64, "scale": "log", "n": 4}).grid() == (1, 4, 16, 64)
    assert read({"from": 0.5, "to": 2.0, "scale": "log"}).at(0.5) == pytest.approx(1.0)


def test_whole_numbers_that_coincide_are_taken_once():
    assert read({"from": 1, "to": 3, "n": 9}).grid() == (1, 2, 3)


def test_a_focus_takes_its_share_of_the_samples():
    looked_at = read({"from": 0.1, "to": 10.0, "focus": [0.9, 1.1], "focus_share": 0.5})
    shares = [(i + 0.5) / 1000 for i in range(1000)]
    inside = sum(0.9 <= looked_at.at(share) <= 1.1 for share in shares)
    assert 500 <= inside <= 520
    assert min(map(looked_at.at, shares)) < 0.2
    assert max(map(looked_at.at, shares)) > 9.9


def test_ends_belong_to_the_range():
    axis = Range(8, 384, "log")
    assert (axis.at(0.0), axis.at(math.nextafter(1.0, 0.0))) == (8, 384)


def test_a_choice_gives_each_value_its_share():
    axis = Choice(("a", "b", "c"))
    assert [axis.at(share) for share in (0.0, 0.34, 0.99)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ({"from": 1, "to": 2, "step": 1}, "engine.max_loras.step"),
        ({"from": 1}, "engine.max_loras.to"),
        ({"from": "a", "to": 2}, "engine.max_loras.from"),
        ({"from": 2, "to": 1}, "engine.max_loras.to"),
        ({"from": 0, "to": 1, "scale": "log"}, "engine.max_loras.from"),
        ({"from": 1, "to": 2, "scale": "cubic"}, "engine.max_loras.scale"),
        ({"from": 1, "to": 2, "n": 0}, "engine.max_loras.n"),
        ({"from": 1, "to": 2, "focus": [1, 3]}, "engine.max_loras.focus"),
        ({"from": 1, "to": 2, "focus": [1, 2], "focus_share": 1.5}, "engine.max_loras.focus_share"),
        ({"from": float("nan"), "to": 2}, "engine.max_loras.from"),
    ],
)
def test_a_bad_range_is_refused_at_its_place(table, place):
    with pytest.raises(InputError) as error:
        read(table)
    assert error.value.place == place
    assert error.value.file == "sweep.toml"


def test_a_section_is_no_range():
    assert is_range({"from": 1, "to": 2})
    assert not is_range({"kind": "poisson"})
