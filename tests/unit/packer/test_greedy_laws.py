"""Laws of placements, on fleets drawn by Hypothesis, judged by an evaluator one can work out."""

from __future__ import annotations

from collections import defaultdict

from drawn_fleets import RANKS, RATES, fleets
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_evaluator import QuickEvaluator, load_of

from lorapack.fleet.adapter import Adapter
from lorapack.packer.bound import true_bound
from lorapack.packer.placement import GpuPlacement, apart
from lorapack.packer.placing import Placer, place
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.settings import Settings
from lorapack.packer.verify import Judges, repair
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

PROFILE = Profile.load()
INTERACTIVE, BATCH = SERVICE_LEVELS["interactive"], SERVICE_LEVELS["batch"]


def placed(fleet: list[Adapter], headroom: float = 0.1) -> list[GpuPlacement]:
    problem = Problem.build(fleet, [kind_of(PROFILE)], INTERACTIVE, rate_headroom=headroom)
    evaluator = QuickEvaluator()
    judges = Judges(evaluator, evaluator, INTERACTIVE, BATCH)
    gpus = place(problem, judges, Settings())
    assert not any(gpu.exempt for gpu in gpus)
    proof = repair(gpus, judges, judges, Placer(problem, judges, judges))
    assert proof.verified
    return list(proof.gpus)


@settings(max_examples=12, deadline=None)
@given(fleets())
def test_every_adapter_is_placed_and_its_shares_sum_to_one(fleet: list[Adapter]) -> None:
    shares: dict[str, float] = defaultdict(float)
    for gpu in placed(fleet):
        names = [item.name for item in gpu.items]
        assert len(names) == len(set(names))
        for item in gpu.items:
            shares[item.name] += item.share
    assert set(shares) == {adapter.adapter for adapter in fleet}
    assert all(abs(share - 1) < 1e-9 for share in shares.values())


@settings(max_examples=12, deadline=None)
@given(fleets())
def test_slots_fit_memory_and_adapters_and_no_gpu_is_overloaded(fleet: list[Adapter]) -> None:
    evaluator = QuickEvaluator()
    for gpu in placed(fleet):
        n = sum(not load.is_base for load in gpu.loads)
        assert gpu.max_loras <= n
        assert (gpu.max_loras > 0) == (n > 0)
        assert gpu.max_loras <= evaluator.slot_limit(PROFILE, gpu.max_lora_rank)
        assert load_of(gpu.trial()) <= 1


@settings(max_examples=10, deadline=None)
@given(fleets())
def test_members_of_a_group_are_kept_apart(fleet: list[Adapter]) -> None:
    for gpu in placed(fleet):
        groups = [group for item in gpu.items for group in apart(item)]
        assert len(groups) == len(set(groups))


@settings(max_examples=10, deadline=None)
@given(fleets(), st.randoms(use_true_random=False))
def test_order_of_the_input_changes_nothing(fleet: list[Adapter], random) -> None:
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert placed(fleet) == placed(shuffled)


@settings(max_examples=10, deadline=None)
@given(fleets(), RANKS, RATES)
def test_true_bound_never_falls_when_an_adapter_is_added(
    fleet: list[Adapter], rank: int, rate: float
) -> None:
    def bound(adapters: list[Adapter]) -> float:
        problem = Problem.build(adapters, [kind_of(PROFILE)], INTERACTIVE)
        return true_bound(problem, QuickEvaluator())

    assert bound([*fleet, Adapter("more", rank, rate)]) >= bound(fleet) * (1 - 1e-12)


def test_hot_adapter_is_split_into_equal_shares_on_different_gpus() -> None:
    gpus = placed([Adapter("hot", 64, 25.0), Adapter("cold", 64, 0.1)])
    holding = [gpu for gpu in gpus if any(item.name == "hot" for item in gpu.items)]
    shares = [item.share for gpu in gpus for item in gpu.items if item.name == "hot"]
    assert len(holding) == len(shares) > 1
    assert len(set(shares)) == 1


def test_slack_of_the_last_gpu_is_shared_out() -> None:
    gpus = placed([Adapter(f"a{i:03d}", 8, 0.5) for i in range(50)])
    loads = [load_of(gpu.trial()) for gpu in gpus]
    assert len(gpus) == 2
    assert abs(loads[0] - loads[1]) < 0.1


def test_pinned_adapters_share_the_gpu_they_name() -> None:
    fleet = [Adapter(f"a{i}", 8, 3.0, pin="left" if i % 3 == 0 else None) for i in range(9)]
    gpus = placed(fleet)
    for gpu in gpus:
        pins = {item.load.pin for item in gpu.items} - {None}
        assert pins <= {gpu.label}
    assert sum(gpu.label == "left" for gpu in gpus) == 1
