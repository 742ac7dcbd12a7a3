"""Scrapes of the metrics hold up the API server: later first tokens, tokens in one piece."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorapack import Adapter, Fleet, Profile
from lorapack.errors import InputError
from lorapack.twin.result import Result
from lorapack.twin.run import simulate


def _run(profile: Profile, scrape_interval_s: float | None) -> Result:
    fleet = Fleet(Adapter(f"adapter-{i}", rank=8, rate_rps=0.2) for i in range(40))
    return simulate(
        profile, fleet, max_loras=40, duration_s=600, scrape_interval_s=scrape_interval_s
    )


@pytest.fixture(scope="module")
def slow_pages() -> Profile:
    profile = Profile.load()
    slow = replace(profile.front_end, series_us=300.0, series_adapter_us=0.0)
    return replace(profile, front_end=slow)


def test_nobody_scrapes_nothing_is_counted(slow_pages: Profile) -> None:
    result = _run(slow_pages, None)
    assert (result.lora_series, result.lora_series_adapters) == (0, 0)


def test_scrapes_delay_first_tokens_and_merge_the_rest(slow_pages: Profile) -> None:
    without, scraped = _run(slow_pages, None), _run(slow_pages, 2.0)
    assert scraped.lora_series > 1000
    assert scraped.lora_series_adapters > scraped.lora_series
    assert scraped.ttft_ms.mean > 1.5 * without.ttft_ms.mean
    assert scraped.itl_ms.mean > 1.1 * scraped.tpot_ms.mean
    assert without.itl_ms.mean < 1.02 * without.tpot_ms.mean


def test_a_page_that_costs_nothing_changes_nothing(slow_pages: Profile) -> None:
    free = replace(slow_pages.front_end, series_us=None, series_adapter_us=None)
    profile = replace(slow_pages, front_end=free)
    assert _run(profile, 2.0).ttft_ms == _run(profile, None).ttft_ms


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan")])
def test_an_interval_is_above_zero(slow_pages: Profile, interval_s: float) -> None:
    with pytest.raises(InputError, match="scrape_interval_s"):
        _run(slow_pages, interval_s)
