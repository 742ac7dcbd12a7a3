from __future__ import annotations

import pytest
from quick_evaluator import QuickEvaluator

from lorapack.fleet.adapter import Adapter
from lorapack.packer.bound import request_prices_s, true_bound
from lorapack.packer.dual import Surface, dual_estimate
from lorapack.packer.evaluate import slot_rules
from lorapack.packer.guide import Guide
from lorapack.packer.pack import pack
from lorapack.packer.placement import whole
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
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


def test_dual_of_a_fleet_of_equals_is_its_number_over_what_one_gpu_holds():
    items = whole(Adapter(f"a{i:03d}", 8, 0.5) for i in range(200))
    guide = Guide(PROFILE, QuickEvaluator(), slot_rules(INTERACTIVE))
    full = items[: len(guide.take([], items, 0.9))]
    surface = Surface.of(guide, INTERACTIVE, [(full, 1.0)])
    assert 10 < len(full) < 100
    assert dual_estimate(items, surface) == pytest.approx(200 / len(full), rel=0.01)


def test_fleet_without_traffic_needs_no_gpu_by_any_bound():
    idle = [Adapter("idle", 8, 0.0)]
    guide = Guide(PROFILE, QuickEvaluator(), slot_rules(INTERACTIVE))
    assert bound(idle) == 0.0
    assert dual_estimate(whole(idle), Surface.of(guide, INTERACTIVE, [])) == 0.0
