"""Plans by prediction alone: the same laws as proven plans, and they say what they are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from drawn_fleets import fleets
from hypothesis import given, settings
from hypothesis import strategies as st

import lorapack as lp
from lorapack.errors import Infeasible, InputError
from lorapack.fleet.adapter import Adapter
from lorapack.packer.evaluate import slot_rules
from lorapack.packer.greedy import HoldsNowhere
from lorapack.packer.online import MOST_QUEUED
from lorapack.packer.placement import Item, apart, whole
from lorapack.packer.placing import place
from lorapack.packer.plan import Plan
from lorapack.packer.pool import kind_of
from lorapack.packer.predicted import (
    PredictedJudge,
    PredictedSlots,
    predicted_judges,
)
from lorapack.packer.problem import Problem
from lorapack.packer.quick_fill import QuickFill
from lorapack.packer.settings import Settings
from lorapack.packer.solve import solve, solve_from
from lorapack.packer.works import Works
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS
from lorapack.twin.trial import Trial

PROFILE = Profile.load()
INTERACTIVE = SERVICE_LEVELS["interactive"]


def predicted(fleet: list[Adapter], slo: str = "interactive", **options):
    problem = Problem.build(fleet, [kind_of(PROFILE)], SERVICE_LEVELS[slo], **options)
    chosen = Settings(verify=False)
    judges = predicted_judges(problem, chosen)
    return place(problem, judges, chosen), judges.level


def by_prediction(judge: PredictedJudge) -> PredictedSlots:
    return PredictedSlots(judge, PROFILE, slot_rules(INTERACTIVE))


@settings(max_examples=30, deadline=None)
@given(fleets(most=40), st.sampled_from(["interactive", "batch", "papers"]))
def test_laws_of_placements_hold(fleet: list[Adapter], slo: str) -> None:
    gpus, judge = predicted(fleet, slo)
    shares: dict[str, float] = defaultdict(float)
    for gpu in gpus:
        groups = [group for item in gpu.items for group in apart(item)]
        assert len(groups) == len(set(groups))
        n = sum(not load.is_base for load in gpu.loads)
        assert (gpu.max_loras > 0) == (n > 0)
        assert gpu.max_loras <= n
        assert PROFILE.memory_plan(gpu.max_loras, gpu.max_lora_rank if n else 0).starts
        for item in gpu.items:
            shares[item.name] += item.share
    assert set(shares) == {adapter.adapter for adapter in fleet}
    assert all(abs(share - 1) < 1e-9 for share in shares.values())
    trials = [gpu.trial() for gpu in gpus if not gpu.exempt]
    assert all(verdict.refusal is None for verdict in judge.judge(trials))


@settings(max_examples=15, deadline=None)
@given(fleets(most=40), st.randoms(use_true_random=False))
def test_same_fleet_in_any_order_gives_the_same_plan(fleet: list[Adapter], random) -> None:
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert predicted(fleet)[0] == predicted(shuffled)[0]


def test_every_gpu_is_predicted_to_hold_with_the_seed_margin() -> None:
    fleet = [Adapter(f"a{i:03d}", (8, 16, 32, 64)[i % 4], 0.05 + i % 13 * 0.02) for i in range(300)]
    gpus, judge = predicted(fleet)
    margin = 1.0 + Settings().seed_margin
    assert len(gpus) > 1
    assert all(verdict.holds for verdict in judge.judge([gpu.trial(margin) for gpu in gpus]))


def test_a_gpu_is_not_closed_while_the_next_few_in_line_would_hold() -> None:
    judge = PredictedJudge(INTERACTIVE)
    items = whole(Adapter(f"a{i:03d}", 16, 0.1) for i in range(500))
    fill = QuickFill(kind_of(PROFILE), by_prediction(judge), margin=0.0, works=Works())
    gpus = fill.fill(items, 1.0)
    assert gpus is not None
    assert len(gpus) > 1
    # Of KV capacity a search knows no more than a per cent.
    few = len(gpus[0].items) // 50
    more = gpus[0].with_items([*gpus[0].items, *gpus[1].items[:few]])
    tried = [
        replace(more, max_loras=r.slots(len(more.items), 9999)).trial()
        for r in slot_rules(INTERACTIVE)
    ]
    assert not any(verdict.holds for verdict in judge.judge(tried))


def test_slack_is_shared_out_on_few_gpus() -> None:
    gpus, _ = predicted([Adapter(f"a{i:03d}", 16, 0.1) for i in range(300)])
    sizes = [len(gpu.items) for gpu in gpus]
    fill = QuickFill(
        kind_of(PROFILE),
        by_prediction(PredictedJudge(INTERACTIVE)),
        margin=0.03,
        works=Works(),
    )
    full = fill.fill(whole(Adapter(f"a{i:03d}", 16, 0.11) for i in range(300)), 1.03)
    assert full is not None
    assert len(full) == len(gpus)
    assert max(sizes) <= max(len(gpu.items) for gpu in full)


def test_plan_says_that_it_is_predicted_and_reads_back(tmp_path) -> None:
    plan = lp.pack(PROFILE, [Adapter(f"a{i}", 16, 0.2) for i in range(20)], verify=False)
    assert not plan.verified
    assert plan.notes["evidence"] == "predicted"
    gpu = plan.gpus[0]
    assert (gpu.twin, gpu.seeds, gpu.failing_probability) == ({}, (), None)
    assert gpu.predicted["ttft_p99_ms_low"] <= gpu.predicted["ttft_p99_ms_high"]
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json").to_json() == plan.to_json()


def test_what_lies_outside_training_is_flagged() -> None:
    odd = [Adapter("long", 8, 0.001, prompt_tokens=4000.0, output_tokens=2.0)]
    plan = lp.pack(PROFILE, odd, verify=False, slo="papers")
    flagged = plan.notes["out_of_range"]
    assert flagged == [gpu.gpu for gpu in plan.gpus if gpu.predicted["out_of_range"]]


def test_profile_without_a_model_names_the_two_commands() -> None:
    mine = replace(PROFILE, name="mine")
    with pytest.raises(InputError, match=r"lorapack sweep.*lorapack train"):
        lp.pack(mine, [Adapter("a", 8, 0.1)], verify=False)


def test_spare_gpus_are_predicted_to_carry_the_rest() -> None:
    fleet = [Adapter(f"a{i:02d}", 16, 0.5) for i in range(60)]
    plain = lp.pack(PROFILE, fleet, verify=False)
    spared = lp.pack(PROFILE, fleet, verify=False, spare_gpus=1)
    assert spared.n_gpus > plain.n_gpus
    assert not spared.simulated
    assert spared.notes["spare"]["losses_that_starve"] == 0


def test_plan_is_carried_over_by_prediction_alone() -> None:
    fleet = [Adapter(f"a{i:02d}", 16, 0.5) for i in range(60)]
    problem = Problem.build(fleet, [kind_of(PROFILE)], INTERACTIVE)
    chosen = Settings(verify=False)
    old = solve(problem, chosen)
    same = solve_from(problem, chosen, old)
    assert same.notes["replan"]["moves"] == 0
    assert [gpu.engine for gpu in same.gpus] == [gpu.engine for gpu in old.gpus]
    busier = [replace(a, rate_rps=2.5 * a.rate_rps) for a in fleet]
    moved = solve_from(Problem.build(busier, [kind_of(PROFILE)], INTERACTIVE), chosen, old)
    assert moved.notes["replan"]["moves"] > 0
    assert not moved.simulated
    assert moved.notes["evidence"] == "predicted"


def test_too_few_gpus_is_infeasible() -> None:
    fleet = [Adapter(f"a{i}", 16, 1.0) for i in range(60)]
    with pytest.raises(Infeasible, match="1 GPU will not suffice"):
        lp.pack(PROFILE, fleet, verify=False, gpus=1)


def test_pins_are_kept() -> None:
    fleet = [Adapter(f"a{i}", 16, 0.5, pin="left" if i < 3 else None) for i in range(9)]
    gpus, _ = predicted(fleet)
    left = next(gpu for gpu in gpus if gpu.label == "left")
    assert {"a0", "a1", "a2"} <= {item.name for item in left.items}
    assert all(isinstance(item, Item) for item in left.items)


class Doubtful(PredictedSlots):
    """Finds, asked with care, that only so many hold."""

    most = 50

    def slots(self, sums, rank):
        return super().slots(sums, rank) if sums.n_adapters <= self.most else None


def test_fewer_are_taken_where_those_that_seemed_to_hold_do_not() -> None:
    judge = PredictedJudge(INTERACTIVE)
    items = whole(Adapter(f"a{i:03d}", 16, 0.1) for i in range(300))
    doubtful = Doubtful(judge, PROFILE, slot_rules(INTERACTIVE))
    gpus = QuickFill(kind_of(PROFILE), doubtful, margin=0.0, works=Works()).fill(items, 1.0)
    assert gpus is not None
    assert sum(len(gpu.items) for gpu in gpus) == 300
    assert all(45 < len(gpu.items) <= 50 for gpu in gpus[:-1])


def test_nothing_that_holds_with_care_is_named() -> None:
    doubtful = Doubtful(PredictedJudge(INTERACTIVE), PROFILE, slot_rules(INTERACTIVE))
    doubtful.most = 0
    items = whole(Adapter(f"a{i:03d}", 16, 0.1) for i in range(5))
    with pytest.raises(HoldsNowhere, match="a000"):
        QuickFill(kind_of(PROFILE), doubtful, margin=0.0, works=Works()).fill(items, 1.0)


def test_slots_that_all_fill_now_and_then_do_not_do() -> None:
    """A model knows what is usual: such a GPU serves well on most seeds, and not on others."""
    cold = tuple(Adapter(f"a{i:03d}", 64, 0.0437) for i in range(115))
    judge, trial = PredictedJudge(INTERACTIVE), Trial(PROFILE, cold, 60, 64)
    calm = replace(trial, adapters=cold[:90], rate_factor=0.7)
    assert not judge.judge([trial])[0].holds
    crowded, quiet = (judge.queued_share(told.question) for told in judge._told([trial, calm]))
    assert quiet < MOST_QUEUED / 10 < MOST_QUEUED < crowded
    assert PredictedJudge(SERVICE_LEVELS["batch"]).judge([trial])[0].holds


def test_cold_adapters_beside_a_hot_one_get_slots_enough() -> None:
    fleet = [Adapter("hot", 16, 4.0), *(Adapter(f"a{i:03d}", 16, 0.016) for i in range(350))]
    gpus, judge = predicted(fleet)
    short = [gpu for gpu in gpus if gpu.max_loras < len(gpu.items)]
    assert short
    for told in judge._told([gpu.trial(1.03) for gpu in short]):
        assert judge.queued_share(told.question) <= MOST_QUEUED


@pytest.mark.parametrize("rate_rps", [1e-5, 2e-4, 1e-3])
@pytest.mark.parametrize(("n", "slots"), [(2, 2), (2, 1), (4, 4), (30, 30)])
def test_adapters_next_to_idle_hold(rate_rps: float, n: int, slots: int) -> None:
    """Models have seen none such, and take the end of the window for a lack."""
    idle = tuple(Adapter(f"z{i}", 64, rate_rps) for i in range(n))
    (verdict,) = PredictedJudge(INTERACTIVE).judge([Trial(PROFILE, idle, slots, 64)])
    assert verdict.holds
