from __future__ import annotations

import pytest

from lorapack.errors import Infeasible, InputError
from lorapack.fleet.adapter import Adapter
from lorapack.packer.online import Packer
from lorapack.profile.profile import Profile

PROFILE = Profile.load()


def filled(n=60, rate_rps=0.8, **limits):
    packer = Packer(PROFILE, **limits)
    for i in range(n):
        packer.add(Adapter(f"a{i:02d}", (8, 16)[i % 2], rate_rps))
    return packer


def test_every_adapter_is_where_add_said():
    packer = Packer(PROFILE)
    said = {f"a{i}": packer.add(Adapter(f"a{i}", 8, 1.0)) for i in range(40)}
    assert {name: packer.gpu_of(name) for name in said} == said
    placed = packer.placement()
    assert sorted(name for names in placed.values() for name in names) == sorted(said)


def test_gpus_filled_online_hold_in_the_twin():
    packer = filled()
    assert packer.n_gpus >= 2
    assert all(verdict.holds for verdict in packer.verify().values())


def test_ranks_keep_to_gpus_of_their_own():
    for names in filled().placement().values():
        assert len({int(name[1:]) % 2 for name in names}) == 1


def test_removed_adapters_make_room_again():
    packer = filled()
    before = packer.n_gpus
    for i in range(60):
        packer.remove(f"a{i:02d}")
    assert len(packer) == packer.n_gpus == 0
    for i in range(60):
        packer.add(Adapter(f"b{i:02d}", (8, 16)[i % 2], 0.8))
    assert packer.n_gpus == before


def test_what_cannot_be_is_refused():
    packer = filled(4)
    with pytest.raises(InputError, match="remove it first"):
        packer.add(Adapter("a00", 8, 0.1))
    with pytest.raises(InputError, match="add it first"):
        packer.remove("nobody")
    with pytest.raises(Infeasible, match="exceeds one GPU"):
        packer.add(Adapter("hot", 8, 500.0))
    assert len(packer) == 4
    with pytest.raises(Infeasible, match="1 GPUs are open"):
        filled(60, max_gpus=1)


def test_gpus_short_of_slots_do_not_hide_those_with_room():
    packer = Packer(PROFILE, max_loras=4)
    for i in range(400):
        packer.add(Adapter(f"a{i:03d}", 8, 0.02 + 0.01 * (i % 7)))
    open_ = packer._gpus[8]
    sizes = sorted(len(gpu.adapters) for gpu in open_)
    # All but the last are full by pressure on their slots, however little they are loaded.
    assert max(gpu.load for gpu in open_) < packer._limit
    assert sizes[1] >= 0.7 * sizes[-1]


def test_what_was_refused_is_tried_again_once_one_has_left():
    packer = Packer(PROFILE, max_gpus=1)
    for i in range(200):
        try:
            packer.add(Adapter(f"a{i:03d}", 8, 0.9))
        except Infeasible:
            break
    assert 1 < len(packer) < 200
    packer.remove("a000")
    assert packer.add(Adapter("late", 8, 0.9)) == "gpu-0"
    with pytest.raises(Infeasible, match="are open"):
        packer.add(Adapter("later", 8, 0.9))


def test_slots_are_what_was_asked_for_or_what_memory_allows():
    assert Packer(PROFILE, max_loras=32)._slots(64) == 32
    limit = Packer(PROFILE, max_loras=4096)._slots(64)
    assert PROFILE.memory_plan(limit, 64).starts
    assert not PROFILE.memory_plan(limit + 1, 64).starts


def test_more_cold_adapters_than_slots_are_taken_only_while_slots_hardly_ever_fill():
    packer, batch = Packer(PROFILE, max_loras=48), Packer(PROFILE, max_loras=48, slo="batch")
    for i in range(180):
        packer.add(Adapter(f"a{i:03d}", 64, 0.04))
        batch.add(Adapter(f"a{i:03d}", 64, 0.04))
    assert max(map(len, packer.placement().values())) > 48
    assert batch.n_gpus <= packer.n_gpus
    assert all(verdict.holds for verdict in packer.verify((0, 1)).values())
