"""The dual bound of fleets too large to price exactly: knots, searched sets, the bound itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_evaluator import QuickEvaluator

from lorapack.fleet.adapter import Adapter
from lorapack.packer.dual import searched_bound
from lorapack.packer.estimate import places_of
from lorapack.packer.fullness import largest_count
from lorapack.packer.knots import MOST_KNOTS, Knots
from lorapack.packer.pack import pack
from lorapack.packer.placement import GpuPlacement, whole
from lorapack.packer.pool import kind_of
from lorapack.packer.pricing import PricingSearch, search_on_plan
from lorapack.packer.surface import Full
from lorapack.packer.works import Works
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

PROFILE = Profile.load()
KIND = kind_of(PROFILE)
INTERACTIVE = SERVICE_LEVELS["interactive"]


def plan_of(fleet: list[Adapter], n_gpus: int, factor: float | None = 1.0) -> list[Full]:
    """Every so many-th adapter to each GPU, a slot each."""
    items = whole(fleet)
    parts = [tuple(items[i::n_gpus]) for i in range(n_gpus)]
    return [Full(GpuPlacement(KIND, part, len(part)), factor) for part in parts]


def search_of(full: list[Full]) -> PricingSearch:
    return search_on_plan(full, [KIND], QuickEvaluator(), INTERACTIVE, Works())


def mixed(n: int = 400) -> list[Adapter]:
    return [Adapter(f"a{i:03d}", (8, 16, 64)[i % 3], 0.02 + i % 11 * 0.03) for i in range(n)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-3, 0.5), min_size=1, max_size=60),
    st.integers(0, 80),
    st.sampled_from([0.0, 0.02, 0.3]),
)
def test_largest_count_is_that_of_a_walk(steps: list[float], guess: int, within: float) -> None:
    sums = np.cumsum(steps)
    held, exact = largest_count(lambda n: float(sums[n - 1]), guess, len(steps), within)
    true = int((sums <= 1.0).sum())
    assert held <= true <= held + max(1.0, within * held)
    assert held <= exact <= held + max(1.0, within * held) + 1e-9


def test_nothing_that_fits_is_a_count_of_none() -> None:
    assert largest_count(lambda n: 2.0 * n, 5, 10) == (0, 0.5)
    assert largest_count(lambda _: math.inf, 5, 10) == (0, 0.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_prices_of_sets_are_those_of_their_items(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    ranks, sizes = draw.choice([8, 16], n), draw.lognormal(0.0, 2.0, n)
    knots = Knots.of(ranks, sizes)
    assert all(len(own) <= MOST_KNOTS for own in knots.places)
    at_knots = draw.random(knots.n)
    prices = knots.prices(at_knots)
    members = np.flatnonzero(draw.random(n) < 0.5)
    assert knots.weights(members) @ at_knots == pytest.approx(prices[members].sum())
    assert knots.weights(slice(None)).sum() == pytest.approx(n)
    for place, price in zip(np.concatenate(knots.places), at_knots, strict=True):
        assert prices[place] == pytest.approx(price)


def test_prices_between_knots_are_straight_in_the_size() -> None:
    ranks, sizes = np.full(100, 8), np.geomspace(0.001, 1.0, 100)
    knots = Knots.of(ranks, sizes)
    line = 0.2 + 3.0 * sizes
    assert knots.prices(line[knots.places[0]]) == pytest.approx(line)


def test_sets_found_fit_and_are_worth_what_they_say() -> None:
    search = search_of(plan_of(mixed(), 6))
    prices = search.knots.prices(search.shares)
    found = search.most_valuable(prices)
    assert len(found) > 0
    gpus = {gpu.rank: gpu for gpu in search.classes}
    for members, worth in found:
        assert len(set(members)) == len(members)
        assert worth == pytest.approx(prices[members].sum())
        rank = max(int(search.ranks[place]) for place in members)
        sums = gpus[rank].sums(members)
        assert gpus[rank].slots.least_full(sums, rank)[0] <= 1.0 + 1e-9


def test_search_finds_what_is_worth_more_than_its_size() -> None:
    search = search_of(plan_of(mixed(), 6))
    prices = search.knots.prices(search.shares)
    favoured = np.flatnonzero(search.ranks == 8)[:10]
    prices[favoured] *= 3.0
    best = max(search.most_valuable(prices), key=lambda pair: pair[1])
    assert set(favoured) <= set(best[0])
    assert best[1] > 1.0


@pytest.mark.parametrize("improve", [False, True])
def test_equals_need_their_number_over_what_one_gpu_holds(improve: bool) -> None:
    fleet = [Adapter(f"a{i:03d}", 8, 0.5) for i in range(300)]
    full = plan_of(fleet, 6)
    bound = searched_bound(search_of(full), places_of(full), improve=improve)
    assert bound == pytest.approx(6.0, rel=0.01)
    # A quarter more room is a fifth fewer, were it not for the slots of those who move in.
    full = plan_of(fleet, 6, factor=1.25)
    roomier = searched_bound(search_of(full), places_of(full), improve=improve)
    assert 4.8 < roomier < 5.3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.sampled_from([1.0, 1.1, None]))
def test_no_bound_exceeds_the_plan_it_is_taken_on(seed: int, n: int, factor: float | None) -> None:
    draw = np.random.default_rng(seed)
    fleet = [
        Adapter(f"a{i:03d}", int(draw.choice([0, 8, 16, 64])), float(draw.lognormal(-2.0, 1.4)))
        for i in range(120)
    ]
    full = plan_of(fleet, n, factor)
    plain, improved = (
        searched_bound(search_of(full), places_of(full), improve=improve)
        for improve in (False, True)
    )
    assert 0.0 < plain <= improved + 1e-9
    assert improved <= n + 1e-6


def test_large_fleets_are_bounded_within_a_gpu_or_so() -> None:
    plan = pack(PROFILE, mixed(600), n_seeds=1)
    assert plan.verified
    assert plan.n_gpus - 1 <= math.ceil(plan.bound["estimate"]) <= plan.n_gpus


def test_many_kinds_of_requests_are_bounded_too() -> None:
    fleet = [
        Adapter(f"a{i:03d}", 8, 0.1, prompt_tokens=100.0 + i, output_tokens=50.0 + i % 7)
        for i in range(200)
    ]
    full = plan_of(fleet, 3)
    bound = searched_bound(search_of(full), places_of(full))
    assert 2.5 < bound <= 3.0 + 1e-6


def test_gpu_without_traffic_says_nothing_of_others() -> None:
    idle = [Adapter(f"z{i}", 64, 1e-5) for i in range(2)]
    busy = Full(GpuPlacement(KIND, tuple(whole(mixed(120))), 120), 1.0)
    lone = Full(GpuPlacement(KIND, tuple(whole(idle)), 2), 1.05)
    items = slice(0, 120)
    alone = search_of([busy])
    beside = search_of([busy, lone])
    assert beside.knots.prices(beside.shares)[items] == pytest.approx(
        alone.knots.prices(alone.shares)[items], rel=0.2
    )
