from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_evaluator import QuickEvaluator

from lorapack.fleet.adapter import Adapter
from lorapack.packer.bound import request_prices_s, true_bound
from lorapack.packer.dual import GRID, dual_bound, most_valuable, rounded_up_bound
from lorapack.packer.pack import pack
from lorapack.packer.placement import GpuPlacement, whole
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.surface import Full, sizes_on_surface
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

PROFILE = Profile.load()
INTERACTIVE = SERVICE_LEVELS["interactive"]


def bound(fleet, slo="interactive", **limits):
    problem = Problem.build(fleet, [kind_of(PROFILE)], SERVICE_LEVELS[slo], **limits)
    return true_bound(problem, QuickEvaluator())


def test_true_bound_is_proportional_to_traffic_and_to_headroom():
    fleet = [Adapter(f"a{i}", 8, 1.0) for i in range(50)]
    double = [Adapter(f"a{i}", 8, 2.0) for i in range(50)]
    assert bound(double) == pytest.approx(2 * bound(fleet))
    assert bound(fleet, rate_headroom=0.2) == pytest.approx(1.2 / 1.1 * bound(fleet))


def test_what_may_be_left_unserved_lowers_the_bound():
    fleet = [Adapter(f"a{i}", 8, 1.0) for i in range(50)]
    assert bound(fleet, "papers") < bound(fleet, "interactive")


def test_larger_rank_and_longer_requests_never_cost_less():
    adapters = [Adapter(f"r{rank}", rank, 1.0) for rank in (0, 8, 16, 32, 64, 128)]
    prices = request_prices_s(PROFILE, adapters, QuickEvaluator(), 0.98)
    assert (prices[:, 1:] >= prices[:, :-1] - 1e-12).all()
    short, long = (
        Adapter("a", 8, 1.0, prompt_tokens=p, output_tokens=o) for p, o in ((100, 50), (1000, 500))
    )
    prices = request_prices_s(PROFILE, [short, long], QuickEvaluator(), 0.98).max(axis=0)
    assert prices[1] > 5 * prices[0]


def test_no_bound_exceeds_the_count_of_a_verified_plan():
    plan = pack(PROFILE, [Adapter(f"a{i}", (8, 16)[i % 2], 1.1) for i in range(50)], n_seeds=1)
    assert plan.verified
    assert 0 < plan.bound["true"] <= plan.bound["estimate"] <= plan.n_gpus
    assert plan.lower_bound == plan.bound["estimate"]


def sizes_of(items, full, factor=1.0):
    kind = kind_of(PROFILE)
    gpus = [Full(GpuPlacement(kind, tuple(part), len(part)), factor) for part in full]
    return sizes_on_surface(items, [kind], gpus, QuickEvaluator(), INTERACTIVE)


def test_dual_of_a_fleet_of_equals_is_its_number_over_what_one_gpu_holds():
    items = whole(Adapter(f"a{i:03d}", 8, 0.5) for i in range(200))
    parts = [items[i : i + 40] for i in range(0, 200, 40)]
    sizes = sizes_of(items, parts)
    assert dual_bound(sizes, []) == pytest.approx(5)
    assert dual_bound(sizes_of(items, parts, factor=1.25), []) == pytest.approx(4)


def test_sizes_of_the_plans_own_gpus_sum_to_one_at_most():
    fleet = [Adapter(f"a{i:03d}", (8, 16, 64)[i % 3], 0.1 + i % 7 * 0.3) for i in range(90)]
    items = whole(fleet)
    parts = [items[:20], items[20:55], items[55:]]
    sizes = sizes_of(items, parts)
    own = {8: 0, 16: 1, 64: 2}
    for part in parts:
        row = own[max(item.load.rank for item in part)]
        assert sizes[row, [items.index(item) for item in part]].sum() <= 1 + 1e-9
    assert (np.isinf(sizes[0]) == [item.load.rank > 8 for item in items]).all()


def test_sizes_between_those_reckoned_grow_with_the_rate():
    items = whole(Adapter(f"a{i:03d}", 8, 0.01 + 0.01 * i) for i in range(100))
    sizes = sizes_of(items, [items])[0]
    assert (np.diff(sizes) < 0).all()  # in packing order, the busiest first


def brute_force(prices, weights):
    best = 0.0
    for own in weights:
        for chosen in itertools.product((0, 1), repeat=len(prices)):
            if np.dot(chosen, own) <= GRID:
                best = max(best, float(np.dot(chosen, prices)))
    return best


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_most_valuable_set_is_found_exactly(seed):
    draw = np.random.default_rng(seed)
    prices, weights = draw.random(9), draw.integers(0, 2 * GRID, (2, 9))
    members, value = most_valuable(prices, weights)
    assert value == pytest.approx(brute_force(prices, weights))
    assert value == pytest.approx(sum(prices[i] for i in members))


def fewest_bins(sizes):
    """Bins of 1 for a handful of sizes, by trying everything."""

    def fits(left, bins):
        if not left:
            return True
        tried = set()
        for i, room in enumerate(bins):
            if left[0] <= room + 1e-12 and room not in tried:
                tried.add(room)
                if fits(left[1:], [*bins[:i], room - left[0], *bins[i + 1 :]]):
                    return True
        return False

    ordered = sorted(sizes, reverse=True)
    return next(n for n in range(1, len(sizes) + 1) if fits(ordered, [1.0] * n))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.03, 1.0), min_size=1, max_size=8))
def test_no_bound_exceeds_the_optimum(sizes):
    best = fewest_bins(sizes)
    table = np.array([sizes])
    alone = [[i] for i in range(len(sizes))]
    assert rounded_up_bound(table[0]) <= best
    assert sum(sizes) - 1e-9 <= dual_bound(table, alone) <= best + 1e-6


def test_column_generation_sees_what_shares_alone_do_not():
    sizes = np.full((1, 9), 0.4)  # two to a GPU, whatever 9 x 0.4 says
    alone = [[i] for i in range(9)]
    assert dual_bound(sizes, alone) == pytest.approx(4.5, abs=0.01)


def test_items_over_half_a_gpu_have_one_each():
    assert rounded_up_bound(np.array([0.6] * 100)) == 100
    assert rounded_up_bound(np.array([0.6, 0.6, 0.45, 0.45, 0.3])) == 3


def test_fleet_without_traffic_needs_no_gpu_by_any_bound():
    assert bound([Adapter("idle", 8, 0.0)]) == 0.0
    plan = pack(PROFILE, [Adapter("idle", 8, 0.0)], n_seeds=1)
    assert plan.lower_bound == 0.0


def test_predicted_plans_and_pools_have_an_estimate_too():
    fleet = [Adapter(f"a{i}", (8, 16)[i % 2], 1.1) for i in range(50)]
    other = Profile.load("qwen-2.5-7b/h100-64gb/vllm-0.8.5")
    for plan in (
        pack(PROFILE, fleet, verify=False),
        pack([PROFILE, other], fleet, n_seeds=1),
        pack([PROFILE, other], fleet, verify=False),
    ):
        assert 0 < plan.bound["true"] < plan.bound["estimate"] <= plan.n_gpus
