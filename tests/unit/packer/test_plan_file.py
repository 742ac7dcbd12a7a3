from __future__ import annotations

import json

import pytest

from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter
from lorapack.packer.pack import pack
from lorapack.packer.plan import ENGINE_KEYS, Plan
from lorapack.profile.profile import Profile

PROFILE = Profile.load()
FLEET = [
    Adapter("summaries", 16, 0.5, prompt_tokens=300.0),
    Adapter("translations", 8, 1.5, path="/adapters/translations"),
    Adapter("base", 0, 1.0),
]


@pytest.fixture(scope="module")
def plan():
    return pack(PROFILE, FLEET, n_seeds=2)


def test_interface_keys_are_there(plan):
    document = plan.to_dict()
    assert {"n_gpus", "lower_bound", "slo", "verified", "gpus", "exempt"} <= set(document)
    gpu = document["gpus"][0]
    assert {
        "profile",
        "base_model",
        "engine",
        "adapters",
        "memory",
        "predicted",
        "twin",
        "seeds",
        "margin",
    } <= set(gpu)
    assert tuple(gpu["engine"]) == ENGINE_KEYS
    assert {"adapter", "share", "rank", "rate_rps", "path"} <= set(gpu["adapters"][0])
    assert "wall_s" not in json.dumps(document)


def test_small_fleet_fits_one_gpu_and_is_verified_on_fresh_seeds(plan):
    assert plan.n_gpus == 1
    assert plan.verified
    assert plan.gpus[0].seeds == (1, 2)
    assert plan.gpus[0].engine["max_loras"] <= 2
    assert plan.lower_bound <= plan.n_gpus


def test_rates_are_as_stated_and_headroom_is_beside_them(plan):
    rates = {row.adapter: row.rate_rps for row in plan.gpus[0].adapters}
    assert rates == {"summaries": 0.5, "translations": 1.5, "base": 1.0}
    assert plan.rate_headroom == 0.1


def test_reads_back_and_writes_the_same_bytes(plan, tmp_path):
    plan.write(tmp_path / "plan.json")
    again = Plan.read(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json()
    assert (tmp_path / "plan.json").read_text() == plan.to_json()


def test_same_seed_same_bytes_on_one_thread_and_many(plan):
    assert pack(PROFILE, FLEET, n_seeds=2, jobs=1).to_json() == plan.to_json()
    assert pack(PROFILE, list(reversed(FLEET)), n_seeds=2, jobs=4).to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda d: d.pop("gpus"), "plan.gpus"),
        (lambda d: d.update(n_gpus="1"), "plan.n_gpus"),
        (lambda d: d.update(format=2), "format"),
        (lambda d: d["gpus"][0]["engine"].pop("max_loras"), "gpus\\[0\\].engine.max_loras"),
        (lambda d: d["gpus"][0]["adapters"][0].update(share=2.0), "adapters\\[0\\].share"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(plan, tmp_path, change, place):
    document = json.loads(plan.to_json())
    change(document)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=place):
        Plan.read(path)


def test_file_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("gpus: none")
    with pytest.raises(InputError, match=r"plan\.json"):
        Plan.read(tmp_path / "plan.json")
