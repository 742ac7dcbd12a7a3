from __future__ import annotations

from dataclasses import replace

import pytest

from lorapack.fleet.adapter import Adapter
from lorapack.packer.diff import PHASES, diff
from lorapack.packer.pack import pack
from lorapack.profile.profile import Profile

PROFILE = Profile.load()
FLEET = [Adapter(f"a{i}", 8, 4.0) for i in range(12)]


@pytest.fixture(scope="module")
def old():
    return pack(PROFILE, FLEET, n_seeds=1)


def test_plan_differs_from_itself_by_nothing(old):
    found = diff(old, old)
    assert found.steps == ()
    assert found.moves == 0


def test_names_do_not_matter_where_the_adapters_are_the_same(old):
    assert old.n_gpus == 2
    swapped = replace(
        old, gpus=tuple(replace(g, gpu=f"gpu-{1 - i}") for i, g in enumerate(old.gpus))
    )
    assert diff(old, swapped).steps == ()


def test_load_comes_before_drain_before_unload(old):
    first, second = old.gpus
    moved = first.adapters[0]
    new = replace(
        old,
        gpus=(
            replace(first, adapters=first.adapters[1:]),
            replace(second, adapters=(*second.adapters, moved)),
        ),
    )
    found = diff(old, new)
    steps = [(step.phase, step.gpu, step.adapter) for step in found.steps]
    assert steps == [
        ("load", "gpu-1", moved.adapter),
        ("route", "gpu-1", moved.adapter),
        ("drain", "gpu-0", moved.adapter),
        ("unload", "gpu-0", moved.adapter),
    ]
    assert found.moves == 1


def test_new_gpu_starts_first_and_one_no_longer_needed_stops_last(old):
    one = replace(old, gpus=old.gpus[:1], n_gpus=1)
    grown = [step.phase for step in diff(one, old).steps]
    shrunk = [step.phase for step in diff(old, one).steps]
    assert grown[0] == "start"
    assert shrunk[-1] == "stop"
    for phases in (grown, shrunk):
        assert phases == sorted(phases, key=PHASES.index)


def test_changed_engine_is_a_restart_that_names_the_setting(old):
    first = old.gpus[0]
    engine = {**first.engine, "max_loras": first.engine["max_loras"] + 1}
    new = replace(old, gpus=(replace(first, engine=engine), *old.gpus[1:]))
    (step,) = diff(old, new).steps
    assert step.phase == "restart"
    assert "max_loras" in step.note


def test_added_and_removed_adapters_are_no_moves(old):
    first = old.gpus[0]
    other = replace(first.adapters[0], adapter="newcomer")
    new = replace(old, gpus=(replace(first, adapters=(other, *first.adapters[1:])), *old.gpus[1:]))
    found = diff(old, new)
    assert found.moves == 0
    assert found.added == ("newcomer",)
    assert found.removed == (first.adapters[0].adapter,)
