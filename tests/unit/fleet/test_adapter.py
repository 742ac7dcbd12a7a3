"""An adapter's limits are those of its columns."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapack.errors import InputError
from lorapack.fleet.adapter import COLUMN, COLUMNS, Adapter, assemble, is_clean_text

NAN, INF = math.nan, math.inf

BAD_VALUES = {
    "name": ["", " a", "a ", "a\nb", "a\x00", "\ud800", "a\u2028b", 3, None],
    "text": ["", " a", "a\tb\r", "a\x7f", 3.5, True],
    "choice": ["poisson", "", 3],
    "integer": [1.5, "8", True, None],
    "number": [NAN, INF, -INF, "1", True],
}


def bad_values():
    """Each column's kind's bad values, and one step over each of its limits."""
    for column in COLUMNS:
        for value in BAD_VALUES[column.kind]:
            if value is not None or column.required:
                yield column.name, value
        if math.isfinite(column.low):
            yield column.name, column.low - 1
        if math.isfinite(column.high):
            yield column.name, column.high + 1


@pytest.mark.parametrize(("name", "value"), list(bad_values()))
def test_a_bad_value_is_refused_with_its_columns_mend(name, value):
    good = {"adapter": "a", "rank": 8, "rate_rps": 1.0}
    with pytest.raises(InputError) as caught:
        Adapter(**{**good, name: value})
    assert caught.value.place == name
    assert caught.value.mend == COLUMN[name].mend


def test_columns_and_attributes_are_the_same_list():
    assert [column.name for column in COLUMNS] == [f.name for f in dataclasses.fields(Adapter)]
    for column, field in zip(COLUMNS, dataclasses.fields(Adapter), strict=True):
        if not column.required:
            assert column.default == field.default


def test_rank_zero_is_the_base_model():
    assert Adapter("base", 0, 1.0).is_base
    assert not Adapter("a", 1, 1.0).is_base


def test_lognormal_lengths_need_means_and_sigmas():
    with pytest.raises(InputError, match="lengths lognormal needs it"):
        Adapter("a", 8, 1.0, 100.0, 100.0, lengths="lognormal", prompt_sigma=1.0)
    with pytest.raises(InputError, match="give lengths lognormal"):
        Adapter("a", 8, 1.0, 100.0, 100.0, prompt_sigma=1.0)
    with pytest.raises(InputError, match="lengths constant needs it"):
        Adapter("a", 8, 1.0, 100.0, lengths="constant")


def test_adapters_from_columns_equal_adapters_one_by_one():
    one_by_one = [Adapter("a", 8, 1.0, cv=2.0), Adapter("b", 16, 0.5)]
    columns = {c.name: [getattr(a, c.name) for a in one_by_one] for c in COLUMNS}
    assert assemble(columns) == one_by_one
    required = {name: columns[name] for name in ("adapter", "rank", "rate_rps")}
    assert assemble(required)[1] == one_by_one[1]


@given(st.text())
def test_clean_text_survives_any_file(text):
    if is_clean_text(text):
        assert text == text.strip()
        assert text.encode().decode() == text
        assert text.splitlines() == [text]
