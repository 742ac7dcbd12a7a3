"""What adapters ask for, all of them at once: the same as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_fleets import fleets
from hypothesis import given, settings

from lorapack._native import WorkList
from lorapack.fleet.adapter import Adapter
from lorapack.packer.works import Works, WorkTable
from lorapack.profile.profile import Profile
from lorapack.twin.physics import WorkSums, work_of

PROFILE = Profile.load()


@settings(max_examples=50, deadline=None)
@given(fleets(most=40))
def test_a_table_says_what_each_adapter_says_alone(fleet: list[Adapter]) -> None:
    rank = max(8, *(adapter.rank for adapter in fleet))
    factors = np.linspace(0.5, 1.5, len(fleet))
    works = WorkTable(fleet).works(PROFILE, rank, factors)
    together, apart = WorkSums(), WorkSums()
    together.add_of(works, range(len(fleet)))
    for adapter, factor in zip(fleet, factors.tolist(), strict=True):
        apart.add(work_of(adapter, PROFILE, rank).at_rate(factor))
    assert len(works) == len(fleet)
    assert together == apart
    assert together.rate_rps == pytest.approx(
        sum(a.rate_rps * f for a, f in zip(fleet, factors.tolist(), strict=True)), abs=1e-9
    )
    together.remove_of(works, range(len(fleet)))
    assert together == WorkSums()
    assert Works().sums(fleet, PROFILE, rank).n_adapters == sum(a.rank > 0 for a in fleet)


def test_an_adapter_above_the_rank_of_the_slots_hinders_nobody() -> None:
    works = WorkTable([Adapter("large", 64, 0.1), Adapter("small", 8, 0.1)]).works(PROFILE, 8, 1.0)
    sums, alone = WorkSums(), WorkSums()
    sums.add_of(works, [1])
    alone.add(work_of(Adapter("small", 8, 0.1), PROFILE, 8))
    assert sums == alone


def test_there_is_nothing_beyond_the_end_of_a_list() -> None:
    works = WorkTable([Adapter("one", 8, 0.1)]).works(PROFILE, 8, 1.0)
    with pytest.raises(IndexError, match="no such place"):
        works[1]
    with pytest.raises(IndexError, match="no such place"):
        WorkSums().add_of(works, [0, 1])
    with pytest.raises(IndexError, match="no such kind"):
        WorkList([works[0]], np.array([1]), np.array([0.5]))
    with pytest.raises(ValueError, match="each its kind and its rate"):
        WorkList([works[0]], np.array([0, 0]), np.array([0.5]))
