"""Every method on a small fleet with the quick evaluator: places, shares, slots."""

from __future__ import annotations

from collections import defaultdict

import pytest
from quick_evaluator import QuickEvaluator

from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter
from lorapack.packer.greedy_paper import zigzag
from lorapack.packer.methods import BASELINES, METHODS, check_method
from lorapack.packer.placement import whole
from lorapack.packer.placing import judges_of, place
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.settings import Settings
from lorapack.packer.verify import Judges, verify
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

PROFILE = Profile.load()
INTERACTIVE, BATCH = SERVICE_LEVELS["interactive"], SERVICE_LEVELS["batch"]
FLEET = [Adapter(f"a{i:02d}", (8, 16, 32)[i % 3], 0.3 + (i * 7 % 20) / 8) for i in range(30)]


def placed(method, fleet=FLEET, slots="own", n_gpus=None):
    problem = Problem.build(fleet, [kind_of(PROFILE)], INTERACTIVE, n_gpus=n_gpus)
    evaluator = QuickEvaluator()
    judges = Judges(evaluator, evaluator, INTERACTIVE, BATCH)
    return place(problem, judges, Settings(method=method, slots=slots)), judges


@pytest.mark.parametrize("slots", ["own", "ours"])
@pytest.mark.parametrize("method", METHODS)
def test_every_adapter_is_placed_once_or_its_shares_sum_to_one(method, slots):
    gpus, _ = placed(method, slots=slots)
    shares = defaultdict(float)
    for gpu in gpus:
        names = [item.name for item in gpu.items]
        assert len(names) == len(set(names))
        assert 1 <= gpu.max_loras <= len(names)
        for item in gpu.items:
            shares[item.name] += item.share
    assert set(shares) == {adapter.adapter for adapter in FLEET}
    assert all(abs(share - 1) < 1e-9 for share in shares.values())


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_places_whatever_the_order(method):
    assert placed(method)[0] == placed(method, fleet=FLEET[::-1])[0]


@pytest.mark.parametrize("method", [n for n, b in BASELINES.items() if b.n_gpus is None])
def test_baseline_told_a_number_uses_no_more(method):
    gpus, _ = placed(method, n_gpus=7)
    assert len(gpus) <= 7


def test_no_method_needs_fewer_gpus_than_greedy_here():
    def count(method):
        gpus, judges = placed(method, slots="ours")
        return len(gpus) if verify(gpus, judges).verified else 10**6

    greedy = count("greedy")
    assert all(count(method) >= greedy for method in METHODS)


def test_aibrix_puts_ten_on_a_pod_and_production_stack_everything_everywhere():
    aibrix, _ = placed("aibrix-binpack")
    assert [len(gpu.items) for gpu in aibrix] == [10, 10, 10]
    stack, _ = placed("production-stack", n_gpus=3)
    assert [len(gpu.items) for gpu in stack] == [30, 30, 30]


def test_zigzag_takes_the_busiest_and_the_idlest_in_turn_within_a_rank():
    fleet = [Adapter(f"a{i}", 8, float(i)) for i in (1, 2, 3, 4)] + [Adapter("b", 16, 9.0)]
    assert [item.name for item in zigzag(whole(fleet))] == ["b", "a4", "a1", "a3", "a2"]


def test_unknown_method_names_the_nearest():
    with pytest.raises(InputError, match="greedy-paper"):
        check_method("greedypaper")


def test_levels_that_let_requests_queue_are_searched_on_longer_windows():
    def horizon_of(slo):
        problem = Problem.build([Adapter("a", 8, 1.0)], [kind_of(PROFILE)], SERVICE_LEVELS[slo])
        steer, _ = judges_of(problem, Settings())
        return steer.level.horizon

    assert horizon_of("papers").duration_s > horizon_of("batch").duration_s
    assert horizon_of("batch") == horizon_of("interactive")
