"""Which adapter is where, in four forms that must agree."""

from __future__ import annotations

import csv
import io

import pytest
import yaml

from lorapack.deploy import DeploySettings, assemble
from lorapack.errors import InputError


def tables(gpus, *routers, **settings):
    deployment = assemble(gpus, DeploySettings(routers=routers, adapter_root="/a", **settings))
    rows = list(csv.DictReader(io.StringIO(deployment.files["routing.csv"])))
    return rows, {
        router: list(yaml.safe_load_all(deployment.files[f"routing.{router}.yaml"]))
        for router in routers
    }


def paths(names):
    return [{"adapter": name, "path": "/adapters/x"} for name in names]


def test_the_csv_is_always_written_and_keeps_every_name(gpus, hostile):
    rows, _ = tables(gpus(paths(hostile)))
    assert [row["adapter"] for row in rows] == hostile
    assert rows[0] == {
        "adapter": "it's",
        "gpu": "0",
        "url": "http://127.0.0.1:8000",
        "weight": "1",
        "model": "it's",
    }


def test_weights_of_a_split_adapter_are_its_shares(gpus):
    split = [{"adapter": "hot", "share": 0.3}], [{"adapter": "hot", "share": 0.6}, "b"]
    rows, _ = tables(gpus(*split))
    assert [(r["adapter"], r["gpu"], r["weight"]) for r in rows] == [
        ("hot", "0", "0.333333"),
        ("hot", "1", "0.666667"),
        ("b", "1", "1"),
    ]


def test_litellm_draws_by_weight(gpus):
    split = [{"adapter": "hot", "share": 0.25}], [{"adapter": "hot", "share": 0.75}]
    _, found = tables(gpus(*split), "litellm")
    entries = found["litellm"][0]["model_list"]
    assert [entry["model_name"] for entry in entries] == ["hot", "hot"]
    assert entries[1]["litellm_params"] == {
        "model": "hosted_vllm/hot",
        "api_base": "http://127.0.0.1:8001/v1",
        "api_key": "os.environ/VLLM_API_KEY",
        "weight": 0.75,
    }


@pytest.mark.parametrize("name", ["*", "gpt-*", "os.environ/SECRET"])
def test_names_with_a_meaning_to_litellm_are_refused(gpus, name):
    with pytest.raises(InputError, match="LiteLLM"):
        tables(gpus(paths([name])), "litellm")


def test_production_stack_lists_every_backend(gpus, hostile):
    _rows, found = tables(gpus(paths(hostile), ["it's"]), "production-stack")
    models = found["production-stack"][0]["static_models"]
    assert list(models) == hostile
    assert models["it's"] == {
        "static_backends": ["http://127.0.0.1:8000", "http://127.0.0.1:8001"],
        "static_model_type": "chat",
    }


def test_production_stack_warns_of_weights_it_cannot_keep(gpus):
    split = [{"adapter": "hot", "share": 0.25}], [{"adapter": "hot", "share": 0.75}]
    settings = DeploySettings(routers=("production-stack",), adapter_root="/a")
    assert any("weights" in text for text in assemble(gpus(*split), settings).warnings)


def test_production_stack_cannot_rewrite_rays_names(gpus):
    settings = DeploySettings(
        format="ray-serve", routers=("production-stack",), adapter_root="s3://b/l"
    )
    with pytest.raises(InputError, match="rewrite"):
        assemble(gpus(["a"]), settings)


def test_envoy_keeps_its_limits_and_loses_no_adapter(gpus):
    many = [[f"gpu{gpu}-{number:04d}" for number in range(300)] for gpu in range(7)]
    _, found = tables(gpus(*many), "envoy")
    routes = [one for one in found["envoy"] if one["kind"] == "AIGatewayRoute"]
    assert [len(route["spec"]["rules"]) for route in routes] == [15, 6]
    seen = {}
    for route in routes:
        for rule in route["spec"]["rules"]:
            assert len(rule["matches"]) <= 128
            assert len(rule["backendRefs"]) == 1
            for match in rule["matches"]:
                (header,) = match["headers"]
                assert (header["type"], header["name"]) == ("Exact", "x-ai-eg-model")
                seen[header["value"]] = rule["backendRefs"][0]["name"]
    assert seen == {name: f"lorapack-gpu-{gpu}" for gpu, names in enumerate(many) for name in names}
    backends = {one["metadata"]["name"] for one in found["envoy"] if one["kind"] == "Backend"}
    assert backends == set(seen.values())


def test_envoy_rewrites_the_name_where_the_server_wants_another(gpus):
    settings = DeploySettings(format="ray-serve", routers=("envoy",), adapter_root="s3://b/l")
    text = assemble(gpus(["a"]), settings).files["routing.envoy.yaml"]
    (rule,) = next(yaml.safe_load_all(text))["spec"]["rules"]
    assert rule["backendRefs"][0]["modelNameOverride"] == "lorapack-gpu-0:a"


def test_urls_follow_the_template(gpus):
    rows, found = tables(
        gpus(["a"], ["b"]), "envoy", url="http://node{gpu}.example:{port}/v1", port=9000
    )
    assert [row["url"] for row in rows] == [
        "http://node0.example:9000",
        "http://node1.example:9001",
    ]
    endpoints = [o["spec"]["endpoints"][0] for o in found["envoy"] if o["kind"] == "Backend"]
    assert endpoints[1] == {"fqdn": {"hostname": "node1.example", "port": 9001}}


@pytest.mark.parametrize("url", ["ftp://x", "http://a b", "http://x/$(id)", "x", "http://x\n"])
def test_a_url_that_is_none_is_refused(gpus, url):
    with pytest.raises(InputError, match="url"):
        tables(gpus(["a"]), url=url)
