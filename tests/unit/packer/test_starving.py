"""Plans for levels at which requests may queue: filled past their end, evened out, emptied."""

from __future__ import annotations

import pytest

from lorapack.errors import Infeasible
from lorapack.fleet.adapter import Adapter
from lorapack.packer.pack import pack
from lorapack.profile.profile import Profile

PROFILE = Profile.load()
FLEET = [Adapter(f"a{i:03d}", (8, 16, 32)[i % 3], 0.6 / (1 + i / 40)) for i in range(240)]


@pytest.fixture(scope="module")
def plan():
    return pack(PROFILE, FLEET, slo="papers")


def test_plan_is_verified_and_holds_every_adapter_once(plan) -> None:
    assert plan.verified
    assert sorted(a.adapter for gpu in plan.gpus for a in gpu.adapters) == sorted(
        a.adapter for a in FLEET
    )
    assert plan.bound["true"] <= plan.n_gpus


def test_as_many_gpus_as_were_found_to_do_are_enough(plan) -> None:
    again = pack(PROFILE, FLEET, slo="papers", gpus=plan.n_gpus)
    assert again.n_gpus == plan.n_gpus
    with pytest.raises(Infeasible, match=r"will not suffice"):
        pack(PROFILE, FLEET, slo="papers", gpus=plan.n_gpus - 1)


def test_starving_some_saves_gpus(plan) -> None:
    assert plan.n_gpus < pack(PROFILE, FLEET, slo="interactive").n_gpus
