"""Too hot, too clumped, failing on fresh seeds: with evaluators one can work out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from quick_evaluator import QuickEvaluator

from lorapack.errors import Infeasible
from lorapack.fleet.adapter import Adapter
from lorapack.packer.placement import GpuPlacement, Item
from lorapack.packer.placing import Placer, place
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.settings import Settings
from lorapack.packer.split import split
from lorapack.packer.verify import Judges, failing_probability, fragile, repair, verify
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS, Violation
from lorapack.twin.trial import Verdict

PROFILE = Profile.load()
INTERACTIVE, BATCH = SERVICE_LEVELS["interactive"], SERVICE_LEVELS["batch"]


@dataclass
class Clumps(QuickEvaluator):
    """Breaks the wait where clumped traffic is over a hundredth of all."""

    latency: bool = True

    def _judge(self, trial):
        verdict = super()._judge(trial)
        clumped = sum(a.rate_rps for a in trial.adapters if a.cv > 3)
        if self.latency and clumped > 0.01 * sum(a.rate_rps for a in trial.adapters):
            return replace(
                verdict,
                violations=(*verdict.violations, Violation("ttft_p99_ms", 2000.0, 9000.0)),
            )
        return verdict


@dataclass
class Stricter(QuickEvaluator):
    """As the quick one, on seeds that ask for a tenth more."""

    def judge(self, trials):
        harder = [replace(trial, rate_factor=1.1 * trial.rate_factor) for trial in trials]
        return super().judge(harder)


def problem_of(fleet, **limits):
    return Problem.build(fleet, [kind_of(PROFILE)], INTERACTIVE, **limits)


def judges_of(level, batch=None):
    return Judges(level, batch or QuickEvaluator(), INTERACTIVE, BATCH)


CALM = [Adapter(f"a{i}", 8, 1.0) for i in range(20)]


def test_clumped_client_joins_where_it_is_a_drop_in_the_sea():
    gpus = place(
        problem_of([*CALM, Adapter("drop", 8, 0.05, cv=10.0)]), judges_of(Clumps()), Settings()
    )
    assert not any(gpu.exempt for gpu in gpus)


def test_the_thorough_judge_has_the_last_word_on_who_is_clumped():
    problem = problem_of([*CALM, Adapter("few", 8, 0.05, cv=10.0)])
    assert [item.name for item in split(problem, Clumps()).clumped] == ["few"]
    assert not split(problem, Clumps(), thorough=QuickEvaluator()).clumped
    # Unless placement found that the one who steers will not have it.
    known = frozenset({"few"})
    assert split(problem, Clumps(), known=known, thorough=QuickEvaluator()).clumped


def test_clumped_client_that_breaks_every_gpu_is_exempt_and_apart():
    gpus = place(
        problem_of([*CALM, Adapter("flood", 8, 2.0, cv=10.0)]), judges_of(Clumps()), Settings()
    )
    (exempt,) = [gpu for gpu in gpus if gpu.exempt]
    assert [item.name for item in exempt.items] == ["flood"]


def test_hot_adapter_is_split_into_the_fewest_shares_that_hold():
    items = split(problem_of([Adapter("hot", 64, 50.0)]), QuickEvaluator())
    # 55 requests/s with headroom at load .1 each are 5.5 GPUs; steps of a share each find 6.
    assert len(items.items) == 6
    assert sum(item.share for item in items.items) == pytest.approx(1.0)


def test_replicas_of_a_bursty_adapter_are_calmer_than_it():
    items = split(problem_of([Adapter("hot", 64, 50.0, cv=3.0)]), QuickEvaluator())
    assert all(1.0 < item.load.cv < 3.0 for item in items.items)


def test_rank_that_starts_on_no_gpu_is_infeasible():
    class NoSlots(QuickEvaluator):
        def slot_limit(self, profile, max_lora_rank):
            return 0 if max_lora_rank > 64 else 10

    with pytest.raises(Infeasible, match="rank 128"):
        split(problem_of([Adapter("a", 128, 1.0)]), NoSlots())


def test_level_that_nothing_keeps_is_infeasible_and_says_what_comes_nearest():
    class Hopeless(QuickEvaluator):
        def _judge(self, trial):
            broken = (Violation("ttft_p99_ms", 1.0, 90.0),)
            return Verdict(trial, broken, served_fraction=1.0, ttft_p99_ms=90.0)

    with pytest.raises(Infeasible, match="ttft_p99_ms 90"):
        split(problem_of(CALM), Hopeless())


def test_plan_that_fails_on_fresh_seeds_is_repaired_until_it_holds():
    fleet = [Adapter(f"a{i}", 8, 0.9) for i in range(34)]
    problem = problem_of(fleet)
    steer, judges = judges_of(QuickEvaluator()), judges_of(Stricter())
    gpus = place(problem, steer, Settings(seed_margin=0.02))
    assert not verify(gpus, judges).verified
    proof = repair(gpus, judges, steer, Placer(problem, steer, judges))
    assert proof.verified
    assert proof.repaired > 0
    placed = sorted(item.name for gpu in proof.gpus for item in gpu.items)
    assert placed == sorted(adapter.adapter for adapter in fleet)


def test_too_few_gpus_is_infeasible():
    with pytest.raises(Infeasible, match="not suffice"):
        place(problem_of(CALM * 1, n_gpus=1), judges_of(QuickEvaluator()), Settings())


class _Run:
    def __init__(self, ttft):
        self.served_fraction, self.ttft_with_unserved_p99_ms = 0.999, ttft


@pytest.mark.parametrize(
    ("waits", "low", "high"),
    [((200, 210, 205), 0.0, 0.01), ((1000, 1900, 1500), 0.05, 0.5), ((1999, 2100, 2050), 0.5, 1.0)],
)
def test_probability_of_failing_grows_towards_the_limit(waits, low, high):
    runs = tuple(_Run(wait) for wait in waits)
    verdict = Verdict(None, results=runs)
    assert low <= failing_probability(verdict, INTERACTIVE) <= high


@pytest.mark.parametrize(("slo", "asked"), [("interactive", 1.05), ("papers", 1.02)])
def test_queues_for_slots_ask_for_a_margin_only_where_nobody_may_queue(slo, asked):
    level = SERVICE_LEVELS[slo]
    evaluator = QuickEvaluator()
    judges = Judges(evaluator, evaluator, level, BATCH)
    items = tuple(Item(Adapter(f"a{i:02d}", 8, 0.9)) for i in range(20))
    fragile([GpuPlacement(kind_of(PROFILE), items, 15)], judges, judges)
    assert evaluator.asked[-1].rate_factor == pytest.approx(asked)
