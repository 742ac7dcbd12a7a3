"""Where exempt clients go: evenly, and those who break any level alone keep nobody from it."""

from __future__ import annotations

from dataclasses import replace

from quick_evaluator import QuickEvaluator, load_of

from lorapack.fleet.adapter import Adapter
from lorapack.packer.greedy import Greedy
from lorapack.packer.placement import Item, alone_holding, whole
from lorapack.packer.pool import kind_of
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS, Violation
from lorapack.twin.trial import Trial, Verdict

KIND = kind_of(Profile.load())
LATE = "late"


class LateClumps(QuickEvaluator):
    """Breaks wherever a client is whose last clump always comes too late."""

    def _judge(self, trial: Trial) -> Verdict:
        verdict = super()._judge(trial)
        if any(load.adapter.startswith(LATE) for load in trial.adapters):
            return replace(verdict, violations=(Violation("adapter_min_served", 0.9, 0.5),))
        return verdict


def clients(n: int, n_late: int) -> list[Item]:
    steady = [Adapter(f"c{i:02d}", 8, 0.9) for i in range(n)]
    return whole([*steady, *(Adapter(f"{LATE}{i}", 8, 0.1) for i in range(n_late))])


def greedy() -> Greedy:
    return Greedy((KIND,), LateClumps(), SERVICE_LEVELS["batch"], exempt=True)


def test_those_who_hold_alone_are_told_from_those_who_do_not() -> None:
    items = clients(3, 2)
    assert alone_holding(items, KIND, LateClumps()) == [i for i in items if i.name[0] == "c"]


def test_clients_who_hold_nowhere_join_the_gpus_that_the_others_need() -> None:
    without = greedy().over(clients(40, 0))
    gpus = greedy().over(clients(40, 3))
    assert len(gpus) == len(without) > 1
    assert sorted(i.name for g in gpus for i in g.items) == sorted(i.name for i in clients(40, 3))
    assert all(gpu.exempt and load_of(gpu.trial()) <= 1 for gpu in gpus)
    assert all(gpu.max_loras <= len(gpu.items) for gpu in gpus)


def test_where_nobody_holds_alone_all_have_a_place() -> None:
    (gpu,) = greedy().over(clients(0, 3))
    assert len(gpu.items) == 3
