"""The front end's tables."""

from __future__ import annotations

from dataclasses import replace

from lorapack.profile.front_end import FrontEnd
from lorapack.profile.profile import Profile


def test_tables_are_picoseconds_and_millionths() -> None:
    front_end = replace(Profile.load().front_end, series_us=12.25, series_adapter_us=0.125)
    tables = front_end.tables()
    assert tables.request_ps == round(front_end.request_ms * 1e9)
    assert tables.first_token_fixed_ps == round(front_end.first_token_fixed_ms * 1e9)
    assert tables.first_token_step_ppm == round(front_end.first_token_step_fraction * 1e6)
    assert (tables.series_ps, tables.series_adapter_ps) == (12_250_000, 125_000)


def test_no_front_end_changes_nothing() -> None:
    tables = FrontEnd.none().tables()
    assert (tables.request_ps, tables.first_use_ps, tables.first_token_fixed_ps) == (0, 0, 0)
    assert (tables.series_ps, tables.series_adapter_ps) == (0, 0)
