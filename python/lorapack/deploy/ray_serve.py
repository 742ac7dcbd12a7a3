"""One Ray Serve application, one LLMConfig a GPU, each with its own model id.

Ray cannot pin an adapter to a replica (multiplexing decides), so every GPU is a model of its own
and callers say `<model id>:<adapter>`. Ray loads adapters from cloud storage only, each from the
subfolder of one root that bears its name.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorapack.deploy.kubernetes import Object
from lorapack.deploy.launch import ROOT_VARIABLE, Launch, ServedAdapter
from lorapack.errors import InputError

PORT = 8000
"""The port of Ray Serve's HTTP proxy."""

REMOTE_SCHEMES = ("s3", "gs", "abfss", "azure")
"""Where Ray reads adapters from."""

_ACCELERATORS = {
    "h100": "H100",
    "h200": "H200",
    "b200": "B200",
    "a100": "A100",
    "a10g": "A10G",
    "l40s": "L40S",
    "l4": "L4",
}
"""GPU part of a profile's name, up to its first dash -> Ray's word for it."""


def application(launches: Sequence[Launch], name: str) -> Object:
    """The Serve config of a plan (`serve run FILE`).

    Args:
        launches: All servers of the plan.
        name: The application's name.

    Returns:
        The config.

    Raises:
        InputError: An adapter lies where Ray cannot read it.
    """
    return {
        "applications": [
            {
                "name": name,
                "route_prefix": "/",
                "import_path": "ray.serve.llm:build_openai_app",
                "args": {"llm_configs": [llm_config(launch) for launch in launches]},
            }
        ]
    }


def llm_config(launch: Launch) -> Object:
    """The LLMConfig of one GPU.

    Args:
        launch: The server.

    Returns:
        Its fields as plain data.

    Raises:
        InputError: An adapter lies where Ray cannot read it.
    """
    config: Object = {
        "model_loading_config": {"model_id": launch.name, "model_source": launch.base_model},
        "engine_kwargs": dict(launch.flags),
        "deployment_config": {"num_replicas": 1},
    }
    accelerator = accelerator_type(launch.profile)
    if accelerator is not None:
        config["accelerator_type"] = accelerator
    if launch.adapters:
        config["lora_config"] = {
            "dynamic_lora_loading_path": common_root(launch),
            "max_num_adapters_per_replica": launch.flag("max_cpu_loras"),
        }
    return config


def model_of(launch: Launch, adapter: str) -> str:
    """What a request must say in `model`.

    Args:
        launch: The server.
        adapter: The adapter's name; a name of the base model itself gives the model id alone.

    Returns:
        `<model id>:<adapter>`.
    """
    base = {name for name, _ in launch.base_names}
    return launch.name if adapter in base else f"{launch.name}:{adapter}"


def common_root(launch: Launch) -> str:
    """The one remote folder whose subfolders are the GPU's adapters.

    Args:
        launch: The server, with at least one adapter.

    Returns:
        The URI, or `${LORA_ROOT}`.

    Raises:
        InputError: An adapter is local, not in the subfolder of its name, or the roots differ.
    """
    roots = {_root(adapter) for adapter in launch.adapters}
    if len(roots) > 1:
        raise InputError(
            "plan",
            f"gpus[{launch.index}]: path",
            ", ".join(sorted(roots)),
            "Ray reads all adapters of a model from one folder: pass --adapter-root",
        )
    return roots.pop()


def accelerator_type(profile: str) -> str | None:
    """Ray's word for the GPU of a profile.

    Args:
        profile: A profile's name.

    Returns:
        Such as `H100`; None where the name tells none that Ray knows.
    """
    parts = profile.split("/")
    return _ACCELERATORS.get(parts[1].split("-")[0].lower()) if len(parts) > 1 else None


def _root(adapter: ServedAdapter) -> str:
    folder = adapter.folder
    if folder.below_root_variable:
        return f"${{{ROOT_VARIABLE}}}"
    place = f"adapter {adapter.adapter}: path"
    scheme, separator, _ = folder.text.partition("://")
    if not separator or scheme not in REMOTE_SCHEMES:
        raise InputError(
            "plan",
            place,
            folder.text,
            "Ray Serve cannot use it: it downloads adapters from "
            f"{', '.join(f'{known}://' for known in REMOTE_SCHEMES)} only, never from a local "
            "folder; upload them and pass --adapter-root with that URI",
        )
    root, _, last = folder.text.rstrip("/").rpartition(f"/{adapter.adapter}")
    if last or not root or ".." in folder.text.split("/"):
        raise InputError(
            "plan",
            place,
            folder.text,
            f"Ray looks for it in a subfolder called {adapter.adapter}: rename or move it",
        )
    return root
