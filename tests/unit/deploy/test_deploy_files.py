"""Files: whole or not at all, the same bytes again, nothing replaced unasked, no leftovers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapack.deploy import DeploySettings, assemble, plan_reader, read_plan
from lorapack.deploy.names import is_dns_label, slug, slugs
from lorapack.errors import InputError


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "vllm"},
        {"format": "kubernetes"},
        {"format": "kubernetes", "flavor": "kserve"},
        {"format": "kubernetes", "flavor": "aibrix"},
        {"format": "ray-serve"},
    ],
)
def test_same_plan_same_bytes(gpus, settings):
    plan = gpus(["a", "b"], ["c"])
    chosen = DeploySettings(routers=("litellm", "envoy"), **settings)
    first, again = assemble(plan, chosen), assemble(plan, chosen)
    assert list(first.files.items()) == list(again.files.items())
    assert first.files


def test_nothing_is_replaced_without_force(gpus, tmp_path):
    deployment = assemble(gpus(["a"]), DeploySettings())
    deployment.write(tmp_path / "out")
    (tmp_path / "out" / "gpu-0.sh").write_text("mine")
    with pytest.raises(InputError, match="--force"):
        deployment.write(tmp_path / "out")
    assert (tmp_path / "out" / "gpu-0.sh").read_text() == "mine"
    deployment.write(tmp_path / "out", force=True)
    assert (tmp_path / "out" / "gpu-0.sh").read_text() == deployment.files["gpu-0.sh"]


def test_gpus_that_the_plan_no_longer_has_are_removed(gpus, tmp_path):
    assemble(gpus(["a"], ["b"]), DeploySettings(routers=("litellm",))).write(tmp_path)
    (tmp_path / "notes.yaml").write_text("mine")
    assemble(gpus(["a", "b"]), DeploySettings()).write(tmp_path, force=True)
    assert {p.name for p in tmp_path.iterdir()} == {"gpu-0.sh", "routing.csv", "notes.yaml"}


def test_scripts_can_be_run(gpus, tmp_path):
    (script, table) = assemble(gpus(["a"]), DeploySettings()).write(tmp_path)
    assert script.stat().st_mode & 0o111
    assert not table.stat().st_mode & 0o111


def test_a_file_in_the_folders_place_is_an_error(gpus, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="folder"):
        assemble(gpus(["a"]), DeploySettings()).write(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "plan"),
        ("{}", "plan.gpus"),
        ('{"gpus": []}', "gpus"),
        ('{"gpus": [1]}', r"gpus\[0\]"),
        ('{"gpus": [{}]}', r"gpus\[0\].adapters"),
        ('{"gpus": NaN}', "JSON"),
    ],
)
def test_what_is_no_plan_is_refused_by_place(tmp_path, text, place):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=place) as caught:
        read_plan(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapter", 7),
        ("rank", "16"),
        ("rank", -1),
        ("rank", True),
        ("share", 0),
        ("share", 1.5),
        ("share", "all"),
        ("rate_rps", -1),
        ("path", 3),
        ("path", "/a\nb"),
    ],
)
def test_a_bad_adapter_is_refused_by_place(plan_of, tmp_path, key, value):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_of([{"adapter": "a", key: value}])))
    with pytest.raises(InputError, match=rf"gpus\[0\].adapters\[0\].{key}"):
        read_plan(path)


def test_an_adapter_twice_on_one_gpu_is_refused(gpus):
    with pytest.raises(InputError, match="once"):
        gpus(["a", "a"])


@pytest.mark.parametrize(("verified", "warned"), [(True, False), (False, True), (None, False)])
def test_a_plan_that_broke_its_level_is_warned_of(plan_of, tmp_path, verified, warned):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan_of(["a"]), "verified": verified}))
    warnings = assemble(read_plan(path), DeploySettings(adapter_root="/a")).warnings
    assert any("not verified" in text for text in warnings) == warned


def test_a_plan_by_prediction_alone_is_not_said_to_break_its_level(plan_of):
    plan = plan_of(["a"])
    gpus = [{**gpu, "seeds": []} for gpu in plan["gpus"]]
    document = {**plan, "gpus": gpus, "verified": False}
    warnings = assemble(plan_reader.plan_of(document), DeploySettings()).warnings
    assert warnings[0] == "the plan is not verified: no simulation held it"


def test_flavors_belong_to_kubernetes(gpus):
    with pytest.raises(InputError, match="kubernetes"):
        assemble(gpus(["a"]), DeploySettings(flavor="aibrix"))


def test_an_unknown_base_model_is_warned_of(gpus):
    (warning,) = assemble(
        gpus(["a"]), DeploySettings(base_model="my-model", adapter_root="/a")
    ).warnings
    assert "--base-model" in warning


@given(st.lists(st.text(min_size=1, max_size=80), max_size=30), st.sampled_from([56, 63]))
def test_slugs_are_labels_and_never_collide(names, length):
    found = slugs(names, length)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(found)
    assert all(is_dns_label(one) and len(one) <= length for one in found.values())


def test_a_name_that_is_anothers_slug_keeps_itself_and_the_other_moves_on():
    taken = slug("A b")
    found = slugs(["A b", taken])
    assert found[taken] == taken
    assert found["A b"] != taken
    assert slugs([taken, "A b"]) == found
