"""KServe's flavour: one LLMInferenceService a GPU.

The controller downloads the adapters, mounts them below /mnt/lora and writes vLLM's LoRA flags
from `spec.model.lora`; the other settings go to the container through VLLM_ADDITIONAL_ARGS, which
its entry point splits with the shell's rules.
"""

from __future__ import annotations

import re
import shlex

from lorapack.deploy.kubernetes import Object, metadata
from lorapack.deploy.launch import Launch, ServedAdapter, flag_arguments
from lorapack.errors import InputError

_LORA_FLAGS = {"enable_lora", "max_loras", "max_lora_rank", "max_cpu_loras"}
_URI_SCHEMES = ("hf", "s3", "pvc")


def kserve_objects(launch: Launch, release: str, image: str) -> list[Object]:
    """The object of one GPU.

    Args:
        launch: The server.
        release: Name common to the plan's objects.
        image: The container image.

    Returns:
        One serving.kserve.io/v1alpha2 LLMInferenceService.

    Raises:
        InputError: An adapter's name or place is one that KServe does not take, or the fleet
            calls the base model by names of its own.
    """
    if launch.base_names and {name for name, _ in launch.base_names} != {launch.base_model}:
        raise InputError(
            "plan",
            "adapter",
            launch.base_names[0][0],
            f"KServe serves the base model under one name: call it {launch.base_model}",
        )
    model: Object = {"uri": _base_uri(launch.base_model), "name": launch.base_model}
    if launch.adapters:
        model["lora"] = {
            "adapters": [
                {"name": _name(adapter), "uri": _uri(adapter)} for adapter in launch.adapters
            ],
            "maxRank": launch.flag("max_lora_rank"),
            "maxAdapters": launch.flag("max_loras"),
            "maxCpuAdapters": launch.flag("max_cpu_loras"),
        }
    flags = [flag for flag in launch.flags if flag[0] not in _LORA_FLAGS]
    words = [word for argument in flag_arguments(flags) for word in argument]
    container: Object = {
        "name": "main",
        "image": image,
        "env": [{"name": "VLLM_ADDITIONAL_ARGS", "value": shlex.join(words)}],
        "resources": {"limits": {"nvidia.com/gpu": str(launch.n_devices)}},
    }
    return [
        {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": metadata(launch, release),
            "spec": {
                "model": model,
                "replicas": 1,
                "router": {"route": {}, "gateway": {}},
                "template": {"containers": [container]},
            },
        }
    ]


def _name(adapter: ServedAdapter) -> str:
    """Its controller writes `name=/mnt/lora/name` into a shell line: only plain names are safe."""
    name = adapter.adapter
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            "plan", "adapter", name, "KServe takes names of letters, digits, . _ - only: rename it"
        )
    return name


def _base_uri(base_model: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:-]*", base_model) or ".." in base_model:
        raise InputError(
            "plan",
            "base_model",
            base_model,
            "KServe takes hf://, s3:// or pvc://: pass --base-model",
        )
    return base_model if "://" in base_model else f"hf://{base_model}"


def _uri(adapter: ServedAdapter) -> str:
    folder = adapter.folder
    if folder.below_root_variable:
        return folder.template
    scheme, separator, rest = folder.text.partition("://")
    parts = rest.split("/")
    if separator and scheme in _URI_SCHEMES and ".." not in parts and "." not in parts:
        return folder.text
    if not separator and re.fullmatch(r"[\w.-]+/[\w.-]+", folder.text) and ".." not in folder.text:
        return f"hf://{folder.text}"
    raise InputError(
        "plan",
        f"adapter {adapter.adapter}: path",
        folder.text,
        "KServe reads hf://, s3:// or pvc:// only: pass --adapter-root with one of these",
    )
