"""Objects are read back as YAML and held against the real schemas, offline."""

from __future__ import annotations

import re

import kubernetes_validate
import pytest
import yaml

from lorapack.deploy import DeploySettings, assemble
from lorapack.errors import InputError

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_NAME = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def objects(gpus, *, keep=lambda name: name.endswith(".yaml"), **settings):
    deployment = assemble(gpus, DeploySettings(format="kubernetes", **settings))
    texts = [text for name, text in deployment.files.items() if keep(name)]
    return [one for text in texts for one in yaml.safe_load_all(text)]


def labels_in(value):
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("labels", "matchLabels") or (
                key == "selector" and "matchLabels" not in item
            ):
                yield from item.items()
            yield from labels_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from labels_in(item)


def check(found):
    assert found, "nothing was checked"
    for one in found:
        assert DNS_LABEL.fullmatch(one["metadata"]["name"])
        for label, value in labels_in(one):
            assert LABEL_NAME.fullmatch(label), label
            assert LABEL_VALUE.fullmatch(value), value
        if one["apiVersion"] in ("v1", "apps/v1"):
            kubernetes_validate.validate(one, "1.30", strict=True)


def test_core_objects_are_valid_with_hostile_names(gpus, hostile):
    rows = [{"adapter": name, "path": f"/adapters/{name}"} for name in hostile]
    found = objects(gpus(rows, ["b"]), adapter_root="/adapters")
    check(found)
    assert [one["kind"] for one in found] == ["ConfigMap", "Deployment", "Service"] * 2


def test_the_container_runs_the_same_script_as_the_vllm_format(gpus):
    plan = gpus(["a", "b"])
    config_map = objects(plan, adapter_root="/adapters")[0]
    script = assemble(plan, DeploySettings(adapter_root="/adapters")).files["gpu-0.sh"]
    flags = script[script.index("exec vllm") :]
    assert config_map["data"]["serve.sh"].endswith(flags)


def test_a_changed_script_restarts_the_pod(gpus):
    def checksum(**engine):
        found = objects(gpus(["a"], **engine))[1]
        return found["spec"]["template"]["metadata"]["annotations"]["checksum/serve.sh"]

    assert checksum(max_loras=8) == checksum(max_loras=8) != checksum(max_loras=9)


def test_each_service_selects_its_own_gpu_only(gpus):
    found = objects(gpus(["a"], ["b"]))
    pods = [o["spec"]["template"]["metadata"]["labels"] for o in found if o["kind"] == "Deployment"]
    for number, one in enumerate(o for o in found if o["kind"] == "Service"):
        wanted = one["spec"]["selector"].items()
        assert [wanted <= pod.items() for pod in pods] == [number == 0, number == 1]


def test_adapter_folders_are_mounted_where_the_script_looks(gpus):
    def mounts(*rows, **settings):
        container = objects(gpus(list(rows)), **settings)[1]["spec"]["template"]["spec"]
        found = {m["name"]: m["mountPath"] for m in container["containers"][0]["volumeMounts"]}
        return found.get("adapters")

    assert mounts("a") == "/adapters"
    assert mounts("a", adapter_root="/data/loras") == "/data/loras"
    assert mounts({"adapter": "a", "path": "/x/y/a"}, {"adapter": "b", "path": "/x/b"}) == "/x"
    assert mounts({"adapter": "a", "path": "org/hub-name"}) is None


@pytest.mark.parametrize("path", ["/a/../b", "/top", "/a/./b"])
def test_a_folder_that_cannot_be_mounted_is_refused(gpus, path):
    with pytest.raises(InputError):
        objects(gpus([{"adapter": "a", "path": path}]))


def test_more_adapters_than_a_config_map_holds_are_refused(gpus):
    with pytest.raises(InputError, match="ConfigMap"):
        objects(gpus([f"{'n' * 200}{number}" for number in range(3000)]))


def test_services_leak_no_variable_into_the_engine(gpus):
    pod = objects(gpus(["a"]))[1]["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False


def test_the_image_is_the_measured_engine(gpus):
    container = objects(gpus(["a"]))[1]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "vllm/vllm-openai:v0.8.5"


@pytest.mark.parametrize("name", ["Bad", "-a", "a" * 60, "a_b", "", "9a", "a\nb"])
def test_a_release_name_that_kubernetes_refuses_is_refused(gpus, name):
    with pytest.raises(InputError):
        assemble(gpus(["a"]), DeploySettings(format="kubernetes", name=name))


def test_kserve_object_says_slots_by_its_own_words(gpus):
    (one,) = objects(gpus(["sql"]), flavor="kserve", adapter_root="s3://bucket/loras")
    check([one])
    assert one["apiVersion"] == "serving.kserve.io/v1alpha2"
    assert one["spec"]["model"] == {
        "uri": "hf://meta-llama/Llama-3.1-8B-Instruct",
        "name": "meta-llama/Llama-3.1-8B-Instruct",
        "lora": {
            "adapters": [{"name": "sql", "uri": "s3://bucket/loras/sql"}],
            "maxRank": 16,
            "maxAdapters": 8,
            "maxCpuAdapters": 20,
        },
    }
    (variable,) = one["spec"]["template"]["containers"][0]["env"]
    assert "--max-num-batched-tokens 2048" in variable["value"]
    assert "lora" not in variable["value"]


def test_kserve_refuses_names_and_places_it_cannot_take(gpus, hostile):
    plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
    for name in hostile:
        row = {"adapter": name, "path": "s3://bucket/x"}
        if plain.fullmatch(name):
            check(objects(gpus([row]), flavor="kserve"))
        else:
            with pytest.raises(InputError, match="KServe"):
                objects(gpus([row]), flavor="kserve")
    for path in ("/local/a", "gs://bucket/a", "pvc://claim/../a", "../a"):
        with pytest.raises(InputError, match="adapter-root"):
            objects(gpus([{"adapter": "a", "path": path}]), flavor="kserve")


def test_kserve_names_the_variable_where_no_folder_is_known(gpus):
    (one,) = objects(gpus(["a"]), flavor="kserve")
    assert one["spec"]["model"]["lora"]["adapters"][0]["uri"] == "${LORA_ROOT}/a"


def test_aibrix_adapters_are_slugged_with_the_true_name_beside(gpus, hostile):
    rows = [{"adapter": name, "path": "s3://bucket/x"} for name in hostile]
    found = objects(gpus(rows), flavor="aibrix")
    check(found)
    adapters = [one for one in found if one["kind"] == "ModelAdapter"]
    names = [one["metadata"]["annotations"]["lorapack.dev/adapter"] for one in adapters]
    assert names == hostile
    assert len({one["metadata"]["name"] for one in adapters}) == len(hostile)
    assert "yes" in {one["metadata"]["name"] for one in adapters}


def test_aibrix_arguments_are_not_expanded_by_kubernetes(gpus):
    row = {"adapter": "$(HOME) $x", "rank": 0}
    found = objects(gpus([row, "a"]), flavor="aibrix", adapter_root="s3://b/l")
    arguments = found[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "$$(HOME) $$x" in arguments
    assert arguments[-2:] == ["--max-cpu-loras", "20"]


def test_aibrix_binds_a_split_adapter_to_exactly_its_gpus(gpus):
    half = {"adapter": "Hot", "share": 0.5}
    found = objects(gpus([half, "a"], [half, "b"], ["c"]), flavor="aibrix", adapter_root="s3://b/l")
    check(found)
    pods = [o["spec"]["template"]["metadata"]["labels"] for o in found if o["kind"] == "Deployment"]
    placed = {
        one["metadata"]["annotations"]["lorapack.dev/adapter"]: [
            one["spec"]["podSelector"]["matchLabels"].items() <= pod.items() for pod in pods
        ]
        for one in found
        if one["kind"] == "ModelAdapter"
    }
    assert placed == {
        "Hot": [True, True, False],
        "a": [True, False, False],
        "b": [False, True, False],
        "c": [False, False, True],
    }


def test_the_schemas_can_fail(gpus):
    broken = objects(gpus(["a"]))[1]
    broken["spec"]["replicas"] = "one"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.30", strict=True)
