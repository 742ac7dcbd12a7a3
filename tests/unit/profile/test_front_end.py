"""The front end's two branches and its tables."""

from __future__ import annotations

import numpy as np
import pytest

from lorapack.profile.front_end import FrontEnd
from lorapack.profile.profile import Profile


def test_merged_rises_below_the_knee_and_falls_beyond() -> None:
    front_end = Profile.load().front_end
    knee = int(np.ceil(front_end.merged_knee_requests))
    merged = front_end.tables(2048).merged_ppm.astype(float) * 1e-6
    assert merged[0] == 0
    assert np.all(np.diff(merged[:knee]) >= 0)
    beyond = (knee - front_end.merged_knee_requests) / front_end.merged_decay_requests
    assert merged[knee] == pytest.approx(front_end.merged_tail_fraction * np.exp(-beyond), abs=1e-6)
    assert np.all(np.diff(merged[knee:]) <= 0)
    rise = front_end.merged_fraction * (1 - np.exp(-18 / front_end.merged_rise_requests))
    assert merged[18] == pytest.approx(rise, abs=1e-6)


def test_tables_are_picoseconds_and_millionths() -> None:
    front_end = Profile.load().front_end
    tables = front_end.tables(256)
    assert tables.request_ps == round(front_end.request_ms * 1e9)
    assert tables.first_token_fixed_ps == round(front_end.first_token_fixed_ms * 1e9)
    assert tables.first_token_step_ppm == round(front_end.first_token_step_fraction * 1e6)
    assert tables.merged_ppm.shape == (257,)
    assert tables.merged_ppm.dtype == np.uint32


def test_no_front_end_changes_nothing() -> None:
    tables = FrontEnd.none().tables(64)
    assert (tables.request_ps, tables.first_use_ps, tables.first_token_fixed_ps) == (0, 0, 0)
    assert not tables.merged_ppm.any()
