"""Moves between GPUs until the verifying judges are content, with judges one can work out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from quick_evaluator import QuickEvaluator, load_of

from lorapack.fleet.adapter import Adapter
from lorapack.packer.evaluate import slot_rules
from lorapack.packer.even_out import EvenOut
from lorapack.packer.fullness import LoadSlots
from lorapack.packer.guide import Guide
from lorapack.packer.margins import must_hold
from lorapack.packer.placement import GpuPlacement, Item, apart, whole
from lorapack.packer.pool import kind_of
from lorapack.packer.relieve import relieve, vacate
from lorapack.packer.rooms import Room
from lorapack.packer.verify import Judges, short_of_slots
from lorapack.packer.works import Works
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

PROFILE = Profile.load()
KIND = kind_of(PROFILE)
INTERACTIVE, BATCH = SERVICE_LEVELS["interactive"], SERVICE_LEVELS["batch"]
WORKS = Works()


def judges(dearer: float = 1.0) -> Judges:
    evaluator = QuickEvaluator(dearer=dearer)
    return Judges(evaluator, evaluator, INTERACTIVE, BATCH)


def gpu(name: str, rank: int, n: int, rate_rps: float = 0.5, slots: int | None = None):
    items = whole(Adapter(f"{name}{i:03d}", rank, rate_rps) for i in range(n))
    return GpuPlacement(KIND, tuple(items), n if slots is None else slots)


def names(gpus: list[GpuPlacement]) -> list[str]:
    return sorted(item.name for own in gpus for item in own.items)


def test_items_leave_what_fails_for_where_there_is_room() -> None:
    gpus = [gpu("a", 8, 38), gpu("b", 8, 20), gpu("c", 8, 30)]
    steer, proof = judges(), judges()
    assert load_of(gpus[0].trial()) > 1
    found = EvenOut(steer, proof).even(gpus)
    assert found.holds
    assert names(found.gpus) == names(gpus)
    assert all(must_hold(own, INTERACTIVE) * load_of(own.trial()) <= 1 + 1e-9 for own in found.gpus)
    assert found.gpus[2] == gpus[2], "what holds and has no room is left alone"
    assert 2.0 < found.need < 3.0


def test_what_two_gpus_hold_is_not_spread_over_one() -> None:
    gpus = [gpu("a", 8, 38), gpu("b", 8, 36)]
    found = EvenOut(judges(), judges()).even(gpus)
    assert not found.holds
    assert found.need > 2.0
    assert names(found.gpus) == names(gpus)


def test_verifying_judges_have_the_last_word() -> None:
    gpus = [gpu("a", 8, 33), gpu("b", 8, 33), gpu("c", 8, 20)]
    assert EvenOut(judges(), judges()).even(gpus).gpus == gpus
    proof = judges(dearer=1.1)
    found = EvenOut(judges(), proof).even(gpus)
    assert found.holds
    trials = [own.trial(must_hold(own, INTERACTIVE)) for own in found.gpus]
    assert all(v.holds for v in proof.level.judge(trials))


def test_gpu_that_lacks_slots_is_given_some_before_it_is_relieved() -> None:
    gpus = [gpu("a", 8, 40, 0.1, slots=18), gpu("b", 8, 20)]
    found = EvenOut(judges(), judges()).even(gpus)
    assert found.holds
    assert found.gpus[0].items == gpus[0].items
    assert 20 <= found.gpus[0].max_loras < 40
    assert short_of_slots(found.gpus[0])


def rooms_of(gpus: list[GpuPlacement], fulls: list[float]) -> list[Room]:
    """GPUs that physics, scaled, says are so full."""
    slots = LoadSlots(Guide(PROFILE, QuickEvaluator(), slot_rules(INTERACTIVE)), 0.93)
    rooms = [Room(own, slots, WORKS, must=1.0) for own in gpus]
    for room, full in zip(rooms, fulls, strict=True):
        room.breaks_at(1.0 / full)
    return rooms


def test_room_is_scaled_to_what_it_was_told() -> None:
    (room,) = rooms_of([gpu("a", 8, 30)], [0.8])
    assert abs(room.size - 0.8) < 0.01
    item = room.items[0]
    assert room.freed(item) > 0
    before = room.full
    room.drop(item)
    assert room.full < before
    room.put(item)
    assert abs(room.full - before) < 0.05


def test_where_only_low_ranks_have_room_items_are_handed_on() -> None:
    high, low = gpu("h", 64, 30), gpu("l", 8, 20)
    mixed = replace(gpu("m", 64, 1), items=(*gpu("m", 64, 6).items, *gpu("n", 8, 20).items))
    mixed = replace(mixed, max_loras=26)
    rooms = rooms_of([high, mixed, low], [1.1, 0.995, 0.7])
    relieve(rooms, [0], 0.98)
    gpus = [room.moved() for room in rooms]
    assert all(room.full <= 1.0 for room in rooms)
    assert len(gpus[0].items) < 30
    assert {item.load.rank for item in gpus[2].items} == {8}
    assert names(gpus) == names([high, mixed, low])


def test_hot_items_are_swapped_in_where_there_is_time_but_no_slot() -> None:
    hot, cold = gpu("h", 64, 10, 1.0), gpu("l", 64, 64, 0.25)
    rooms = rooms_of([hot, cold], [1.05, 0.9])
    assert rooms[1].slots == 4096 // 64, "the evaluator starts with no slot more"
    relieve(rooms, [0], 0.98)
    gpus = [room.moved() for room in rooms]
    assert all(room.full <= 1.0 for room in rooms)
    assert any(item.name.startswith("h") for item in gpus[1].items)
    assert len(gpus[1].items) == 64
    assert names(gpus) == names([hot, cold])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([8, 16, 64]),
            st.integers(1, 30),
            st.one_of(st.floats(0.5, 1.3), st.floats(0.97, 1.01)),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_moves_end_lose_nothing_and_keep_ranks_and_groups(
    drawn: list[tuple[int, int, float]],
) -> None:
    gpus = [
        GpuPlacement(
            KIND,
            tuple(
                whole(
                    Adapter(f"{g}-{i:02d}", rank, 0.4, keep_apart="x" if i == 0 else None)
                    for i in range(n)
                )
            ),
            n,
        )
        for g, (rank, n, _) in enumerate(drawn)
    ]
    rooms = rooms_of(gpus, [full for _, _, full in drawn])
    before = [room.full for room in rooms]
    relieve(rooms, range(len(gpus)), 0.98)
    after = [room.moved() for room in rooms]
    assert names(after) == names(gpus)
    for own, room, full in zip(after, rooms, before, strict=True):
        assert own.items
        assert own.max_lora_rank <= room.rank
        groups = [group for item in own.items for group in apart(Item(item.load))]
        assert len(groups) == len(set(groups))
        assert 0 < own.max_loras <= len(own.items)
        assert room.full <= max(full, 1.0) + 0.02


def test_item_goes_by_a_gpu_of_its_rank_that_hands_on_to_one_of_lower() -> None:
    high = gpu("h", 64, 30)
    between = replace(gpu("m", 64, 40), items=(*gpu("m", 64, 6).items, *gpu("n", 32, 34).items))
    lower = replace(gpu("p", 32, 40), items=(*gpu("p", 32, 6).items, *gpu("q", 8, 34).items))
    rooms = rooms_of([high, between, lower, gpu("l", 8, 90, 0.1)], [1.06, 0.998, 0.998, 0.6])
    relieve(rooms, [0], 0.98)
    after = [room.moved() for room in rooms]
    assert all(room.full <= 1.0 for room in rooms)
    assert [own.max_lora_rank for own in after] == [64, 64, 32, 8]
    assert any(item.name.startswith("h") for item in after[1].items)
    assert any(item.name.startswith("n") for item in after[2].items)
    assert any(item.name.startswith("q") for item in after[3].items)


def test_few_hot_slots_are_made_for_a_higher_rank_where_nothing_else_has_room() -> None:
    rooms = rooms_of([gpu("h", 64, 40, 0.3), gpu("l", 8, 6, 2.0)], [1.04, 0.6])
    relieve(rooms, [0], 0.98)
    after = [room.moved() for room in rooms]
    assert all(room.full <= 1.0 for room in rooms)
    assert after[1].max_lora_rank == 64


def test_moves_that_are_taken_back_leave_everything_as_it_was() -> None:
    gpus = [gpu("a", 8, 20), gpu("b", 8, 30), gpu("c", 8, 30)]
    rooms = rooms_of(gpus, [0.5, 0.95, 0.95])
    before = [(room.full, room.slots, room.rank) for room in rooms]
    assert not vacate(rooms, 0, 0.98)
    for room, own, (full, slots, rank) in zip(rooms, gpus, before, strict=True):
        assert names([room.moved()]) == names([own])
        assert (room.slots, room.rank) == (slots, rank)
        assert abs(room.full - full) < 1e-9


def test_gpu_is_vacated_where_others_have_room() -> None:
    gpus = [gpu("a", 8, 6), gpu("b", 8, 30), gpu("c", 64, 20)]
    rooms = rooms_of(gpus, [0.2, 0.85, 0.85])
    assert vacate(rooms, 0, 0.98)
    assert not rooms[0].items
    assert all(room.full <= 1.0 for room in rooms)
    assert names([room.moved() for room in rooms[1:]]) == names(gpus)


def test_gpu_that_moves_left_empty_is_none() -> None:
    gpus = [gpu("a", 8, 2, 0.2), gpu("b", 8, 20)]
    even_out = EvenOut(judges(), judges())
    rooms = even_out._rooms(gpus)
    for item in list(rooms[0].items):
        rooms[0].drop(item)
        rooms[1].put(item)
    (room,) = even_out._judged(rooms)
    assert names([room.gpu]) == names(gpus)


def test_one_gpu_fewer_where_the_twin_agrees() -> None:
    gpus = [gpu("a", 8, 10), gpu("b", 8, 24), gpu("c", 8, 24)]
    found = EvenOut(judges(), judges()).even_one_fewer(gpus)
    assert found is not None
    assert found.holds
    assert len(found.gpus) == 2
    assert names(found.gpus) == names(gpus)
    assert EvenOut(judges(), judges()).even_one_fewer([gpu("d", 8, 30), gpu("e", 8, 30)]) is None
