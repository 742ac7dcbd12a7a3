"""ConfigMap, Deployment and Service a GPU, in core Kubernetes objects only.

The ConfigMap holds the same script that `--format vllm` writes: the flags exist once, and the
command of the container is fixed text, in which Kubernetes' own `$(VAR)` has nothing to expand.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Mapping, Sequence

import yaml

from lorapack.deploy import vllm
from lorapack.deploy.launch import ROOT_VARIABLE, Launch, engine_version
from lorapack.deploy.names import slug
from lorapack.errors import InputError

Object = dict[str, object]
"""One Kubernetes object."""

GPU_LABEL = "lorapack.dev/gpu"
"""The label that tells the GPUs of a plan apart."""

NAME_ANNOTATION = "lorapack.dev/adapter"
"""Where a slugged adapter's true name stands."""

PROFILE_ANNOTATION = "lorapack.dev/profile"
BASE_MODEL_ANNOTATION = "lorapack.dev/base-model"

PORT = 8000
"""The port of every pod and service."""

ROOT_FOLDER = "/adapters"
"""What LORA_ROOT is inside a pod: where the adapters' claim is mounted."""

_SCRIPT_FOLDER = "/etc/lorapack"
_LARGEST_CONFIG_MAP = 1 << 20
_STARTUP_PROBES = 360
"""Times 10 s: an hour, since start time grows with the list of adapters (vllm#16961)."""


def core_objects(launch: Launch, release: str, image: str, claim: str) -> list[Object]:
    """The objects of one GPU.

    Args:
        launch: The server.
        release: Name common to the plan's objects.
        image: The container image.
        claim: PersistentVolumeClaim that holds the adapters, where folders are to be mounted.

    Returns:
        ConfigMap, Deployment, Service.
    """
    text = vllm.script(launch, PORT)
    if len(text.encode()) > _LARGEST_CONFIG_MAP - 4096:
        raise InputError(
            "plan",
            f"gpus[{launch.index}].adapters",
            len(launch.adapters),
            "more than a ConfigMap holds (1 MiB): shorten the adapters' names or paths",
        )
    pod = pod_spec(
        launch,
        image,
        command=["/bin/sh", f"{_SCRIPT_FOLDER}/serve.sh"],
        environment={ROOT_VARIABLE: ROOT_FOLDER} if launch.needs_root_variable else {},
    )
    _add_volume(pod, "script", _SCRIPT_FOLDER, {"configMap": {"name": launch.name}})
    folder = mounted_folder(launch)
    if folder is not None:
        mount_claim(pod, claim, folder)
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(launch, release),
            "data": {"serve.sh": text},
        },
        deployment(launch, release, pod, {"checksum/serve.sh": _checksum(text)}),
        service(launch, release),
    ]


def mounted_folder(launch: Launch) -> str | None:
    """The folder that must be mounted for the adapters to be found.

    Args:
        launch: The server.

    Returns:
        Where LORA_ROOT points, else the folder that all absolute paths share; None if all
        adapters have Hugging Face names or there are none.

    Raises:
        InputError: A path leaves its folder, or no single folder holds the absolute ones.
    """
    folders = [adapter.folder for adapter in launch.adapters]
    absolute = sorted({f.text for f in folders if f.text.startswith("/")})
    for text in absolute:
        if posixpath.normpath(text) != text.rstrip("/"):
            raise InputError("plan", "path", text, "give the folder without . or .. parts")
    if any(folder.below_root_variable for folder in folders):
        if absolute:
            raise InputError(
                "plan",
                "path",
                absolute[0],
                "some adapters have a folder and some have none: pass --adapter-root for those",
            )
        return ROOT_FOLDER
    if not absolute:
        return None
    common = posixpath.commonpath([posixpath.dirname(text) for text in absolute])
    if common == "/":
        raise InputError("plan", "path", absolute[0], "put the adapters below one folder")
    return common


def metadata(launch: Launch, release: str, labels: Mapping[str, str] | None = None) -> Object:
    """Name, labels and annotations of an object of one GPU.

    Args:
        launch: The server.
        release: Name common to the plan's objects.
        labels: Further labels.

    Returns:
        The `metadata` of an object.
    """
    return {
        "name": launch.name,
        "labels": {**common_labels(launch, release), **(labels or {})},
        "annotations": {
            PROFILE_ANNOTATION: launch.profile,
            BASE_MODEL_ANNOTATION: launch.base_model,
        },
    }


def common_labels(launch: Launch, release: str) -> dict[str, str]:
    """The labels of one GPU's objects.

    Args:
        launch: The server.
        release: Name common to the plan's objects.

    Returns:
        Label -> value.
    """
    return {
        "app.kubernetes.io/name": "vllm",
        "app.kubernetes.io/instance": launch.name,
        "app.kubernetes.io/part-of": release,
        "app.kubernetes.io/managed-by": "lorapack",
        GPU_LABEL: str(launch.index),
    }


def selector_labels(launch: Launch, release: str) -> dict[str, str]:
    """The labels that tell one GPU's pods from all others.

    Args:
        launch: The server.
        release: Name common to the plan's objects.

    Returns:
        Label -> value.
    """
    chosen = ("app.kubernetes.io/instance", "app.kubernetes.io/part-of", GPU_LABEL)
    labels = common_labels(launch, release)
    return {label: labels[label] for label in chosen}


def pod_spec(
    launch: Launch,
    image: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    arguments: Sequence[str] = (),
) -> Object:
    """The pod of one server.

    Args:
        launch: The server.
        image: The container image.
        command: What the container runs.
        environment: Variables beside the Hugging Face token.
        arguments: What follows the command; `$` in it must be doubled already.

    Returns:
        A PodSpec.
    """
    container: Object = {
        "name": "vllm",
        "image": image,
        "command": list(command),
        **({"args": list(arguments)} if arguments else {}),
        "env": [
            *({"name": name, "value": value} for name, value in environment.items()),
            _token(),
        ],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {"limits": {"nvidia.com/gpu": str(launch.n_devices)}},
        "startupProbe": _probe(period_s=10, failures=_STARTUP_PROBES),
        "readinessProbe": _probe(period_s=5, failures=3),
        "livenessProbe": _probe(period_s=10, failures=6),
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    return {
        "automountServiceAccountToken": False,
        # Else a Service called "vllm" would set VLLM_PORT in the pod, which the engine reads.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 120,
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}],
    }


def mount_claim(pod: Object, claim: str, folder: str) -> None:
    """Mounts the adapters' claim in a pod, read only.

    Args:
        pod: A PodSpec of :func:`pod_spec`; it is changed.
        claim: The PersistentVolumeClaim.
        folder: Where the pod sees it.
    """
    source: Object = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    _add_volume(pod, "adapters", folder, source)


def deployment(
    launch: Launch,
    release: str,
    pod: Object,
    annotations: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
) -> Object:
    """The Deployment of one server: one replica, replaced only after it has left its GPU.

    Args:
        launch: The server.
        release: Name common to the plan's objects.
        pod: The PodSpec.
        annotations: Annotations of the pod (a changed checksum restarts it).
        labels: Further labels of Deployment and pod.

    Returns:
        An apps/v1 Deployment.
    """
    extra = labels or {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(launch, release, extra),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": 10 * _STARTUP_PROBES + 600,
            "selector": {"matchLabels": selector_labels(launch, release)},
            "template": {
                "metadata": {
                    "labels": {**common_labels(launch, release), **extra},
                    "annotations": dict(annotations),
                },
                "spec": pod,
            },
        },
    }


def service(launch: Launch, release: str) -> Object:
    """The Service under which one server is found.

    Args:
        launch: The server.
        release: Name common to the plan's objects.

    Returns:
        A v1 Service.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(launch, release),
        "spec": {
            "type": "ClusterIP",
            "selector": selector_labels(launch, release),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def default_image(profile: str) -> str:
    """The public image of the engine version a profile was measured with.

    Args:
        profile: The profile's name.

    Returns:
        Such as `vllm/vllm-openai:v0.8.5`; `latest` where the name has no version.
    """
    version = engine_version(profile)
    if not version:
        return "vllm/vllm-openai:latest"
    numbers = [*version, 0, 0][: max(3, len(version))]
    return "vllm/vllm-openai:v" + ".".join(str(number) for number in numbers)


def release_name(name: str) -> str:
    """Checks the name that a plan's objects begin with.

    Args:
        name: A DNS-1123 label short enough to be followed by `-gpu-<number>`.

    Returns:
        The name.

    Raises:
        InputError: Kubernetes would not take it.
    """
    if slug(name, 50) != name or name[0].isdigit():
        raise InputError(
            None, "--name", name, "give 1 to 50 of a-z, 0-9 and -, beginning with a letter"
        )
    return name


class _Dumper(yaml.SafeDumper):
    """Safe YAML: scripts as blocks, no anchors, lists indented."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - yaml's signature
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(documents: Iterable[Mapping[str, object]], heading: str = "") -> str:
    """Documents as YAML that any parser reads back as they were.

    Args:
        documents: Plain objects.
        heading: Comment lines above them, without the `#`.

    Returns:
        The text, keys in their order, the same bytes for the same documents.
    """
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    texts = [
        yaml.dump(
            document,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=False,
            width=10_000,
            default_flow_style=False,
        )
        for document in documents
    ]
    return comment + "---\n".join(texts)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _token() -> Object:
    reference = {"name": "hf-token", "key": "token", "optional": True}
    return {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}}


def _probe(period_s: int, failures: int) -> Object:
    return {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _add_volume(pod: Object, name: str, path: str, source: Object) -> None:
    volumes, containers = pod["volumes"], pod["containers"]
    assert isinstance(volumes, list), "made by pod_spec"
    assert isinstance(containers, list), "made by pod_spec"
    mounts = containers[0]["volumeMounts"]
    volumes.append({"name": name, **source})
    mounts.append({"name": name, "mountPath": path, "readOnly": True})
