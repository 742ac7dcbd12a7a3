"""One LLMConfig a GPU; adapters from cloud storage only."""

from __future__ import annotations

import csv
import io

import pytest
import yaml

from lorapack.deploy import DeploySettings, assemble
from lorapack.errors import InputError


def deployed(gpus, **settings):
    return assemble(gpus, DeploySettings(format="ray-serve", **settings))


def configs(gpus, **settings):
    config = yaml.safe_load(deployed(gpus, **settings).files["ray-serve.yaml"])
    (application,) = config["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    return application["args"]["llm_configs"]


def test_each_gpu_is_a_model_of_its_own(gpus):
    first, second = configs(gpus(["a"], ["b"]), adapter_root="s3://bucket/loras")
    assert first == {
        "model_loading_config": {
            "model_id": "lorapack-gpu-0",
            "model_source": "meta-llama/Llama-3.1-8B-Instruct",
        },
        "engine_kwargs": {
            "max_model_len": 131072,
            "max_num_seqs": 2048,
            "max_num_batched_tokens": 2048,
            "gpu_memory_utilization": 0.9,
            "block_size": 16,
            "enable_prefix_caching": False,
            "enable_lora": True,
            "max_loras": 8,
            "max_lora_rank": 16,
            "max_cpu_loras": 20,
        },
        "deployment_config": {"num_replicas": 1},
        "accelerator_type": "H100",
        "lora_config": {
            "dynamic_lora_loading_path": "s3://bucket/loras",
            "max_num_adapters_per_replica": 20,
        },
    }
    assert second["model_loading_config"]["model_id"] == "lorapack-gpu-1"


def test_callers_are_told_the_models_name(gpus):
    text = deployed(gpus(["a", {"adapter": "chat", "rank": 0}])).files["routing.csv"]
    rows = csv.DictReader(io.StringIO(text))
    assert {row["adapter"]: row["model"] for row in rows} == {
        "a": "lorapack-gpu-0:a",
        "chat": "lorapack-gpu-0",
    }


@pytest.mark.parametrize("path", ["/local/a", "a", "hf://org/a", "file:///x/a"])
def test_local_folders_are_refused_with_the_reason(gpus, path):
    with pytest.raises(InputError, match="only, never from a local folder"):
        configs(gpus([{"adapter": "a", "path": path}]))


def test_a_remote_root_replaces_local_folders(gpus):
    (config,) = configs(gpus([{"adapter": "a", "path": "/x/a"}]), adapter_root="gs://bucket/l/")
    assert config["lora_config"]["dynamic_lora_loading_path"] == "gs://bucket/l"


def test_a_local_root_is_refused(gpus):
    with pytest.raises(InputError, match="Ray Serve"):
        configs(gpus(["a"]), adapter_root="/adapters")


def test_without_a_root_the_variable_is_named(gpus):
    deployment = deployed(gpus(["a"]))
    assert "dynamic_lora_loading_path: ${LORA_ROOT}" in deployment.files["ray-serve.yaml"]
    assert "LORA_ROOT" in deployment.warnings[0]


def test_an_adapter_outside_its_subfolder_is_refused(gpus):
    with pytest.raises(InputError, match="subfolder"):
        configs(gpus([{"adapter": "a", "path": "s3://bucket/other"}]))


def test_two_roots_are_refused(gpus):
    rows = [{"adapter": name, "path": f"s3://bucket-{name}/{name}"} for name in "ab"]
    with pytest.raises(InputError, match="one folder"):
        configs(gpus(rows))


def test_hostile_names_stay_what_they_are(gpus, hostile):
    names = [n for n in hostile if len(n) < 255 and not set(n) & set("\\?#%")]
    rows = csv.DictReader(
        io.StringIO(deployed(gpus(names), adapter_root="s3://b/l").files["routing.csv"])
    )
    assert [row["model"] for row in rows] == [f"lorapack-gpu-0:{name}" for name in names]
