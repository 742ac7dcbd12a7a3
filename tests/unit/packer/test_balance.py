"""Spreading by physics that an evaluator sets right, with one whose answers can be worked out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from quick_evaluator import QuickEvaluator, load_of

from lorapack.fleet.adapter import Adapter
from lorapack.packer.balance import Balance
from lorapack.packer.evaluate import slot_rules
from lorapack.packer.fullness import LoadSlots, full_at
from lorapack.packer.greedy import HoldsNowhere
from lorapack.packer.guide import Guide
from lorapack.packer.margins import (
    LADDER,
    TOP,
    breaks_at,
    filled,
    hold_at,
    most_traffic,
    next_rung,
)
from lorapack.packer.methods import is_balanced
from lorapack.packer.placement import GpuPlacement, dealt, item_order, whole
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.quick_fill import QuickFill
from lorapack.packer.verify import Judges
from lorapack.packer.works import Works
from lorapack.profile.profile import Profile
from lorapack.twin.physics import FEATURE_INDEX, Physics
from lorapack.twin.service_level import SERVICE_LEVELS
from lorapack.twin.trial import QUARTER, TwinJudge

PROFILE = Profile.load()
KIND = kind_of(PROFILE)
INTERACTIVE, BATCH = SERVICE_LEVELS["interactive"], SERVICE_LEVELS["batch"]


def judges():
    evaluator = QuickEvaluator()
    return Judges(evaluator, evaluator, INTERACTIVE, BATCH)


def gpu_of(load: float) -> GpuPlacement:
    """A GPU that the evaluator takes to be so full: ten base-model loads, no slots."""
    items = whole(Adapter(f"a{i}", 0, 2.0 * load) for i in range(10))
    return GpuPlacement(KIND, tuple(items), 0)


@pytest.mark.parametrize("load", [0.4, 0.55, 0.8, 0.9, 0.97, 1.0, 1.1, 1.9])
def test_rungs_lie_where_the_evaluator_breaks(load: float) -> None:
    asked = judges()
    gpu = gpu_of(load)
    (rung,) = most_traffic([gpu], asked)
    holding = [i for i, factor in enumerate(LADDER) if load * factor <= 1 + 1e-9]
    assert rung == max(holding, default=-1)
    if rung == TOP:
        assert breaks_at(gpu, asked) is next_rung(rung) is None
    elif rung >= 0:
        assert LADDER[rung] < (breaks_at(gpu, asked) or 0) < next_rung(rung)


def test_what_is_known_of_a_gpu_is_not_asked_again() -> None:
    asked = judges()
    gpus = [gpu_of(0.5), gpu_of(0.9)]
    first = most_traffic(gpus, asked)
    n_asked = len(asked.level.asked)
    assert most_traffic(gpus, asked, guess=1.5) == first
    assert len(asked.level.asked) == n_asked
    assert filled(gpus, asked) == pytest.approx(0.5 + 0.9, abs=0.02)


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_physics_that_is_far_off_is_set_right(wrong: float) -> None:
    # Alike: 0.9 req/s of rank 8 are 0.05 of a GPU each, 20 to a GPU less slots and margin.
    items = whole(Adapter(f"a{i:02d}", 8, 0.9) for i in range(70))
    steer = judges()
    steer.lessons.believed.update({item.key: wrong for item in items})
    gpus = Balance(KIND, steer).fewest(items)
    loads = [load_of(gpu.trial()) for gpu in gpus]
    assert len(gpus) == 4
    assert max(loads) <= 1
    assert max(loads) - min(loads) < 0.15


def test_more_gpus_than_the_fewest_are_used_when_asked_for() -> None:
    items = whole(Adapter(f"a{i:02d}", 8, 0.9) for i in range(70))
    balance = Balance(KIND, judges())
    assert len(balance.fewest(items, more=2)) == 6
    assert len(balance.fewest(items)) == 4


def test_what_was_seen_to_hold_is_not_asked_again() -> None:
    asked = judges()
    gpus = [gpu_of(0.9), gpu_of(0.99)]
    assert hold_at(gpus, asked, [1.05, 1.05]) == [True, False]
    n_asked = len(asked.level.asked)
    assert hold_at(gpus, asked, [1.03, 1.06]) == [True, False]
    assert len(asked.level.asked) == n_asked
    assert hold_at(gpus, asked, [1.05, 1.01]) == [True, True]
    assert most_traffic(gpus, asked) == [LADDER.index(1.11), LADDER.index(1.01)]


@pytest.mark.parametrize("breaks", [0.5, 1.0, 2.2])
@pytest.mark.parametrize("steep", [1.0, 8.0])
def test_full_is_found_however_steeply_a_gpu_fills(breaks: float, steep: float) -> None:
    assert full_at(lambda more: (more / breaks) ** steep) == pytest.approx(breaks, rel=2e-3)


def test_the_window_of_the_proof_has_the_last_word_on_the_number() -> None:
    items = whole(Adapter(f"a{i:02d}", 8, 0.9) for i in range(70))
    quick, hour = QuickEvaluator(), QuickEvaluator(dearer=1.3)
    thorough = Judges(hour, hour, INTERACTIVE, BATCH)
    steer = replace(thorough, level=quick, thorough=thorough, rungs={})
    assert len(Balance(KIND, judges()).fewest(items)) == 4
    gpus = Balance(KIND, steer).fewest(items)
    assert len(gpus) == 5
    assert all(verdict.holds for verdict in hour.judge([gpu.trial() for gpu in gpus]))


def test_base_traffic_is_no_item_alone() -> None:
    items = whole([Adapter("a", 8, 1.0), *(Adapter(f"b{i}", 0, 2.0) for i in range(20))])
    gpus = Balance(KIND, judges()).fewest(items)
    assert all(load_of(gpu.trial()) <= 1 for gpu in gpus)
    assert len(gpus) == 3


@pytest.mark.parametrize("hands", [1, 2, 3, 7])
def test_items_are_dealt_hot_and_cold_into_every_hand(hands: int) -> None:
    items = whole(Adapter(f"a{i:02d}", 8, 2.0 - 0.1 * i) for i in range(20))
    order = dealt(items, hands)
    assert sorted(order, key=item_order) == items
    assert order[0] == items[0]
    rates = [item.load.rate_rps for item in order]
    falls = [later < earlier for earlier, later in pairwise(rates)]
    assert falls.count(False) == hands - 1


def test_hot_and_cold_share_gpus_where_cold_ones_alone_lack_slots() -> None:
    hot = [Adapter(f"h{i:03d}", 64, 1.0) for i in range(40)]
    cold = [Adapter(f"c{i:03d}", 64, 0.04) for i in range(400)]
    twin = TwinJudge(INTERACTIVE, QUARTER)
    in_order, dealt_out = (Judges(twin, twin, INTERACTIVE, BATCH) for _ in range(2))
    in_order.lessons.hands[PROFILE.name, 64] = 1
    more = Balance(KIND, in_order).fewest(whole([*hot, *cold]))
    fewer = Balance(KIND, dealt_out).fewest(whole([*hot, *cold]))
    assert dealt_out.lessons.hands[PROFILE.name, 64] > 1
    assert len(fewer) < len(more)


def test_item_that_does_not_hold_alone_is_named() -> None:
    items = whole([Adapter("hot", 0, 30.0), *(Adapter(f"a{i}", 0, 0.1) for i in range(5))])
    with pytest.raises(HoldsNowhere) as found:
        Balance(KIND, judges()).fewest(items)
    assert found.value.item.name == "hot"


class Room:
    """Says that any set holds whose adapters are few enough for their rates."""

    def __init__(self) -> None:
        self.questions = 0

    def slots(self, sums, rank):
        return sums.n_adapters if self.holds(sums, rank) else None

    def holds(self, sums, rank):
        self.questions += 1
        return self.rate_of(sums) <= 10.0 + 1e-9

    def expected(self, sums, rank):
        return self.rate_of(sums) / 10.0

    def learn(self, sums, rank):
        pass

    def rate_of(self, sums):
        row = Physics.of(PROFILE, max_lora_rank=8).features(
            sums, max_loras=8, kv_cache_tokens=10**6
        )[0]
        return float(row[FEATURE_INDEX["rate_rps"]])


def test_large_item_that_does_not_fit_is_passed_over_for_smaller_ones() -> None:
    rates = [6.0, 5.0, 3.0, 0.9, 0.8]
    items = whole(Adapter(f"a{i}", 8, rate) for i, rate in enumerate(rates))
    gpus = QuickFill(KIND, Room(), margin=0.0, works=Works()).fill(items, 1.0)
    assert gpus is not None
    assert [[item.load.rate_rps for item in gpu.items] for gpu in gpus] == [
        [6.0, 3.0, 0.9],
        [5.0, 0.8],
    ]


@pytest.mark.parametrize(
    ("fleet", "slo", "balanced"),
    [
        ([Adapter("a", 8, 1.0)], "interactive", True),
        ([Adapter("a", 8, 1.0)], "batch", True),
        ([Adapter("a", 8, 1.0)], "papers", False),
        ([Adapter("a", 8, 1.0, cv=4.0), Adapter("b", 8, 1.0)], "interactive", False),
        ([Adapter("a", 8, 1.0, pin="left")], "interactive", False),
    ],
)
def test_physics_spreads_what_it_knows(fleet, slo, balanced) -> None:
    problem = Problem.build(fleet, [KIND], SERVICE_LEVELS[slo])
    assert is_balanced(problem, [KIND], whole(problem.fleet)) == balanced
    few = replace(KIND, count=1)
    assert not is_balanced(problem, [few], whole(problem.fleet))


def test_correction_that_was_overdone_is_halved_on_the_way_back() -> None:
    balance = Balance(KIND, judges())
    key = ("a", 1.0)
    for correction in (1.25, 1 / 1.25):
        balance._correct(key, correction)
    # Back and forth by the same: an answer twice as strong as expected, so half of it.
    assert balance.steer.lessons.believed[key] == pytest.approx(1.25**0.5)


@pytest.mark.parametrize("more", [0, 2])
def test_slack_of_the_last_gpu_is_shared_out(more: int) -> None:
    items = whole(Adapter(f"a{i:03d}", (8, 16)[i % 2], 0.4) for i in range(200))
    slots = LoadSlots(Guide(PROFILE, QuickEvaluator(), slot_rules(INTERACTIVE)), 0.93)
    filling = QuickFill(KIND, slots, margin=0.03, works=Works())
    full = filling.fill(items, 1.03)
    assert full is not None
    gpus = filling.place(items, more=more)
    assert len(gpus) == len(full) + more

    def fullness(gpu: GpuPlacement) -> float:
        sums = filling.works.sums(gpu.loads, PROFILE, gpu.max_lora_rank)
        return slots.expected(sums, gpu.max_lora_rank)

    assert sorted(item.name for gpu in gpus for item in gpu.items) == [
        item.name for item in sorted(items, key=lambda item: item.name)
    ]
    assert max(map(fullness, gpus)) < max(map(fullness, full)) - 0.02
