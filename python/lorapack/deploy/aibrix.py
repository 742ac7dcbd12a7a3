"""AIBrix' flavour: Deployment and Service a GPU that start without adapters, and ModelAdapters.

A ModelAdapter's object name is the name requests use, so an adapter whose name is no DNS label is
served by its slug; the true name stands in an annotation and in the routing table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lorapack.deploy import kubernetes
from lorapack.deploy.kubernetes import NAME_ANNOTATION, Object
from lorapack.deploy.launch import Launch, ServedAdapter, flag_arguments
from lorapack.deploy.names import slug
from lorapack.errors import InputError

_PLACED_LABEL = "lorapack.dev/serves-"
LONGEST_SLUG = 63 - len("serves-")
"""Characters an adapter's slug may have: it also ends a label's name."""


def server_objects(
    launch: Launch,
    release: str,
    image: str,
    claim: str,
    slugs: Mapping[str, str],
    placed_apart: set[str],
) -> list[Object]:
    """The server of one GPU; its adapters come as objects of their own.

    Args:
        launch: The server.
        release: Name common to the plan's objects.
        image: The container image.
        claim: PersistentVolumeClaim that holds adapters with absolute folders.
        slugs: Adapter -> object name.
        placed_apart: Adapters that several GPUs serve: their pods carry a label each.

    Returns:
        Deployment and Service.
    """
    served = replace(launch, adapters=())
    words = [word for argument in flag_arguments(served.flags) for word in argument]
    arguments = [
        served.base_model,
        "--port",
        str(kubernetes.PORT),
        "--served-model-name",
        *(name for name in (base_label(served), *served.served_names)),
        *words,
    ]
    pod = kubernetes.pod_spec(
        served,
        image,
        command=["vllm", "serve"],
        environment={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
        arguments=[argument.replace("$", "$$") for argument in arguments],
    )
    folder = None if launch.needs_root_variable else kubernetes.mounted_folder(launch)
    if folder is not None:
        kubernetes.mount_claim(pod, claim, folder)
    labels = {
        "model.aibrix.ai/name": base_label(launch),
        "model.aibrix.ai/port": str(kubernetes.PORT),
        "adapter.model.aibrix.ai/enabled": "true",
    }
    for adapter in launch.adapters:
        if adapter.adapter in placed_apart:
            labels[_PLACED_LABEL + slugs[adapter.adapter]] = "true"
    return [
        kubernetes.deployment(served, release, pod, {}, labels),
        kubernetes.service(served, release),
    ]


def adapter_objects(
    launches: Sequence[Launch], release: str, slugs: Mapping[str, str]
) -> list[Object]:
    """One ModelAdapter an adapter, bound to the GPUs that the plan gave it.

    Args:
        launches: All servers of the plan.
        release: Name common to the plan's objects.
        slugs: Adapter -> object name.

    Returns:
        The objects in the order of the plan.

    Raises:
        InputError: An adapter lies where AIBrix cannot read it, or two GPUs disagree about it.
    """
    homes: dict[str, list[tuple[Launch, ServedAdapter]]] = {}
    for launch in launches:
        for adapter in launch.adapters:
            homes.setdefault(adapter.adapter, []).append((launch, adapter))
    return [_adapter_object(name, where, release, slugs[name]) for name, where in homes.items()]


def base_service(launch: Launch, release: str) -> Object:
    """The Service by which AIBrix' gateway finds a base model: named as its label says.

    Args:
        launch: Any server of that base model.
        release: Name common to the plan's objects.

    Returns:
        A v1 Service over all GPUs of that base model.
    """
    label = base_label(launch)
    service = kubernetes.service(launch, release)
    service["metadata"] = {
        "name": label,
        "labels": {
            "model.aibrix.ai/name": label,
            "app.kubernetes.io/part-of": release,
            "app.kubernetes.io/managed-by": "lorapack",
        },
    }
    spec = service["spec"]
    assert isinstance(spec, dict), "made by service()"
    spec["selector"] = {"model.aibrix.ai/name": label, "app.kubernetes.io/part-of": release}
    return service


def split_adapters(launches: Sequence[Launch]) -> set[str]:
    """Adapters that more than one GPU serves.

    Args:
        launches: All servers of the plan.

    Returns:
        Their names.
    """
    seen: set[str] = set()
    twice: set[str] = set()
    for launch in launches:
        for adapter in launch.adapters:
            (twice if adapter.adapter in seen else seen).add(adapter.adapter)
    return twice


def base_label(launch: Launch) -> str:
    """The base model's name as AIBrix says it: a label, equal to the served name.

    Args:
        launch: The server.

    Returns:
        A DNS-1123 label.
    """
    return slug(launch.base_model.rsplit("/", 1)[-1].lower().replace(".", "-"))


def _adapter_object(
    name: str, where: Sequence[tuple[Launch, ServedAdapter]], release: str, label: str
) -> Object:
    launch, adapter = where[0]
    if any(base_label(other) != base_label(launch) for other, _ in where):
        raise InputError("plan", "adapter", name, "AIBrix binds an adapter to one base model")
    selector = {"adapter.model.aibrix.ai/enabled": "true"}
    if len(where) > 1:
        selector[_PLACED_LABEL + label] = "true"
    else:
        selector.update(kubernetes.selector_labels(launch, release))
    return {
        "apiVersion": "model.aibrix.ai/v1alpha1",
        "kind": "ModelAdapter",
        "metadata": {
            "name": label,
            "labels": {
                "model.aibrix.ai/name": label,
                "model.aibrix.ai/port": str(kubernetes.PORT),
                "app.kubernetes.io/part-of": release,
                "app.kubernetes.io/managed-by": "lorapack",
            },
            "annotations": {NAME_ANNOTATION: name},
        },
        "spec": {
            "baseModel": base_label(launch),
            "podSelector": {"matchLabels": selector},
            "artifactURL": _artifact_url(adapter),
        },
    }


def _artifact_url(adapter: ServedAdapter) -> str:
    folder = adapter.folder
    text = folder.template
    if folder.below_root_variable or text.startswith(("/", "s3://", "huggingface://")):
        if ".." not in text.split("/"):
            return text
    elif text.startswith("hf://"):
        return "huggingface://" + text.removeprefix("hf://")
    raise InputError(
        "plan",
        f"adapter {adapter.adapter}: path",
        text,
        "AIBrix reads huggingface://, s3:// or an absolute folder: pass --adapter-root",
    )
