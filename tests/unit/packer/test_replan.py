"""Plans carried over, with the real twin on a small fleet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorapack.errors import Infeasible, InputError
from lorapack.fleet.adapter import Adapter
from lorapack.packer.pack import pack
from lorapack.packer.pool import kind_of, read_pool
from lorapack.packer.problem import Problem
from lorapack.packer.settings import Settings
from lorapack.packer.solve import solve_from
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

PROFILE = Profile.load()
FLEET = [Adapter(f"a{i:02d}", 8, 0.9) for i in range(40)]
QUICK = Settings(n_seeds=1)


@pytest.fixture(scope="module")
def old():
    return pack(PROFILE, FLEET, n_seeds=1)


def problem_of(fleet):
    return Problem.build(fleet, [kind_of(PROFILE)], SERVICE_LEVELS["interactive"])


def places(plan):
    return {row.adapter: gpu.gpu for gpu in plan.gpus for row in gpu.adapters}


def test_same_rates_move_nothing(old):
    plan = solve_from(problem_of(FLEET), QUICK, old)
    assert places(plan) == places(old)
    assert [gpu.engine for gpu in plan.gpus] == [gpu.engine for gpu in old.gpus]
    assert plan.notes["replan"]["moves"] == 0


def test_hotter_gpu_gives_up_as_few_as_do(old):
    hot = old.gpus[0].adapters
    names = {row.adapter for row in hot}
    fleet = [replace(a, rate_rps=a.rate_rps * (1.7 if a.adapter in names else 1)) for a in FLEET]
    plan = solve_from(problem_of(fleet), QUICK, old)
    before, after = places(old), places(plan)
    moved = [name for name in before if before[name] != after[name]]
    assert plan.verified
    assert 0 < len(moved) == plan.notes["replan"]["moves"] < len(names)
    with pytest.raises(Infeasible, match="moves are needed"):
        solve_from(problem_of(fleet), QUICK, old, max_moves=0)


def test_quiet_fleet_closes_a_gpu_when_moves_allow(old):
    quiet = [replace(a, rate_rps=a.rate_rps / 40) for a in FLEET]
    plan = solve_from(problem_of(quiet), QUICK, old)
    assert plan.n_gpus < old.n_gpus
    kept = solve_from(problem_of(quiet), QUICK, old, max_moves=1)
    assert kept.n_gpus == old.n_gpus
    assert kept.notes["replan"]["n_gpus_with_any_moves"] < kept.n_gpus


def test_adapter_that_left_is_gone_and_a_new_one_is_placed(old):
    fleet = [*FLEET[1:], Adapter("newcomer", 8, 0.1)]
    plan = solve_from(problem_of(fleet), QUICK, old)
    assert set(places(plan)) == {adapter.adapter for adapter in fleet}


def test_profile_that_the_pool_lacks_is_named(old):
    other = replace(PROFILE, name="other")
    problem = Problem.build(FLEET, [kind_of(other)], SERVICE_LEVELS["interactive"])
    with pytest.raises(InputError, match="llama"):
        solve_from(problem, QUICK, old)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu = 1", "top level"),
        ("[[gpu]]\ncount = 1", "profile"),
        ('[[gpu]]\nprofile = "llama-3.1-8b/h100-64gb/vllm-0.8.5"\nprize = 1', "prize"),
        ('[[gpu]]\nprofile = "llama-3.1-8b/h100-64gb/vllm-0.8.5"\ncount = 0', "count"),
        ("[[gpu]", "TOML"),
    ],
)
def test_pool_file_with_a_fault_names_it(tmp_path, text, says):
    path = tmp_path / "pool.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_pool(path)
