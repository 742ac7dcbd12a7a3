"""From the GPUs of a plan to the texts of its files, all in memory.

Names are worked out first, then one writer a format turns launches into texts. Nothing touches
the disk here: `write` puts the texts there once all are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lorapack.atomic_file import write_text
from lorapack.deploy import aibrix, envoy, kserve, kubernetes, ray_serve, routing, vllm
from lorapack.deploy.kubernetes import yaml_text
from lorapack.deploy.launch import ROOT_VARIABLE, Launch, launch_of
from lorapack.deploy.names import check_text, check_word, slugs
from lorapack.deploy.plan_reader import DeployablePlan, PlannedGpu
from lorapack.deploy.routing import Route, Router
from lorapack.errors import InputError

Format = Literal["vllm", "kubernetes", "ray-serve"]
Flavor = Literal["core", "kserve", "aibrix"]

_OUR_FILES = re.compile(
    r"gpu-\d+\.(sh|yaml)|routing\.(csv|[a-z-]+\.yaml)|ray-serve\.yaml|adapters\.yaml"
)
"""Names that deploy gives to files; `--force` clears these and nothing else."""

HUB_NAMES = {
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen-2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
}
"""Base models of the profiles that come with lorapack -> what they were measured as."""

_HEADING = "Written by lorapack deploy."
_SUBSTITUTE = (
    f"Needs {ROOT_VARIABLE}: envsubst '${{{ROOT_VARIABLE}}}' < FILE > FILE.new before use."
)


@dataclass(frozen=True)
class DeploySettings:
    """What the plan does not say.

    Attributes:
        format: What is to run the engines.
        flavor: Which Kubernetes objects.
        routers: Whose routing tables to write beside the CSV.
        adapter_root: Folder or URI that holds adapters without a path: `<root>/<adapter>`.
        name: What names of objects and models begin with.
        url: Where each server answers, `{gpu}` and `{port}` standing for its number and port;
            None takes what the format implies.
        port: Port of the first server (vllm only: the others follow).
        image: Container image; None takes the profile's engine version.
        claim: PersistentVolumeClaim that holds the adapters.
        gateway: Envoy's Gateway that takes the traffic.
        base_model: What `vllm serve` is given instead of the plan's base model.
    """

    format: Format = "vllm"
    flavor: Flavor = "core"
    routers: tuple[Router, ...] = ()
    adapter_root: str | None = None
    name: str = "lorapack"
    url: str | None = None
    port: int = 8000
    image: str | None = None
    claim: str = "lora-adapters"
    gateway: str = "lorapack"
    base_model: str | None = None


@dataclass(frozen=True)
class Deployment:
    """The files of a plan.

    Attributes:
        files: Name -> text, in the order to be read.
        warnings: What the user should know before starting them.
    """

    files: Mapping[str, str]
    warnings: tuple[str, ...]

    def write(self, folder: Path, *, force: bool = False) -> list[Path]:
        """Writes the files, each whole or not at all.

        Args:
            folder: Where; it is made if it is not there.
            force: Whether files of an earlier deploy may be replaced. Those of GPUs that the plan
                no longer has are removed: a leftover would start an engine nobody planned.

        Returns:
            The paths, in the order of :attr:`files`.

        Raises:
            InputError: The folder cannot be used, or holds an earlier deploy and `force` is off.
        """
        if folder.exists() and not folder.is_dir():
            raise InputError(folder, "output", None, "is a file: name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(p for p in folder.iterdir() if _OUR_FILES.fullmatch(p.name))
        if earlier and not force:
            raise InputError(
                folder, "output", earlier[0].name, "pass --force, or name another folder"
            )
        for name, text in self.files.items():
            write_text(folder / name, text, force=force)
            if name.endswith(".sh"):
                (folder / name).chmod(0o755)
        for stale in earlier:
            if stale.name not in self.files:
                stale.unlink()
        return [folder / name for name in self.files]


def assemble(plan: DeployablePlan, settings: DeploySettings) -> Deployment:
    """Turns a plan into files.

    Args:
        plan: The plan.
        settings: What the plan does not say.

    Returns:
        The files' texts and what to warn of.

    Raises:
        InputError: The plan cannot be deployed this way.

    Example:
        >>> from lorapack.deploy.plan_reader import plan_of
        >>> engine = {"max_model_len": 8192, "max_num_seqs": 256, "max_num_batched_tokens": 2048,
        ...           "gpu_memory_utilization": 0.9, "block_size": 16, "max_loras": 8,
        ...           "enable_prefix_caching": False, "max_lora_rank": 16, "max_cpu_loras": 8}
        >>> adapter = {"adapter": "sql", "rank": 16, "rate_rps": 0.5, "path": "/adapters/sql"}
        >>> plan = {"gpus": [{"profile": "llama-3.1-8b/h100-64gb/vllm-0.8.5", "engine": engine,
        ...         "base_model": "meta-llama/Llama-3.1-8B-Instruct", "adapters": [adapter]}]}
        >>> list(assemble(plan_of(plan), DeploySettings()).files)
        ['gpu-0.sh', 'routing.csv']
    """
    _check(settings)
    launches = _launches(plan.gpus, settings)
    served = _served_names(launches, settings)
    routes = _routes(launches, settings, served)
    files = _engine_files(launches, settings, served)
    files["routing.csv"] = routing.csv_text(routes)
    for router in dict.fromkeys(settings.routers):
        if router != "csv":
            files[f"routing.{router}.yaml"] = _table(router, routes, settings)
    warnings = _warnings(launches, routes, settings)
    if plan.verified is False:
        doubt = (
            "no simulation held it" if plan.predicted else "a GPU of it was seen to break its level"
        )
        warnings.insert(0, f"the plan is not verified: {doubt}")
    return Deployment(files, tuple(warnings))


def _check(settings: DeploySettings) -> None:
    kubernetes.release_name(settings.name)
    kubernetes.release_name(settings.gateway)
    kubernetes.release_name(settings.claim)
    if settings.flavor != "core" and settings.format != "kubernetes":
        raise InputError(None, "--flavor", settings.flavor, "goes with --format kubernetes only")
    if settings.adapter_root is not None:
        check_word(settings.adapter_root, "--adapter-root")
    if settings.base_model is not None:
        check_word(settings.base_model, "--base-model")
    if settings.image is not None and not re.fullmatch(r"[\w.:/@-]+", settings.image, re.ASCII):
        raise InputError(None, "--image", settings.image, "give an image as registry/name:tag")
    if settings.url is not None:
        check_text(settings.url, "--url")
        if not re.fullmatch(r"https?://[\w.:\[\]{}/-]+", settings.url, re.ASCII):
            raise InputError(None, "--url", settings.url, "give http://host:port, {gpu} in it")


def _launches(gpus: Sequence[PlannedGpu], settings: DeploySettings) -> list[Launch]:
    remote_only = settings.format == "ray-serve" or settings.flavor in ("kserve", "aibrix")
    launches = []
    for gpu in gpus:
        base_model = settings.base_model or HUB_NAMES.get(gpu.base_model, gpu.base_model)
        name = _gpu_name(gpu.index, len(gpus))
        launches.append(
            launch_of(
                replace(gpu, base_model=base_model),
                name if settings.format == "vllm" else f"{settings.name}-gpu-{gpu.index}",
                settings.adapter_root,
                root_first=remote_only,
            )
        )
    return launches


def _gpu_name(index: int, n_gpus: int) -> str:
    return f"gpu-{index:0{len(str(n_gpus - 1))}d}"


def _served_names(launches: Sequence[Launch], settings: DeploySettings) -> dict[str, str]:
    """Adapter -> the name its servers know it by, where that depends on the format alone."""
    names = [adapter.adapter for launch in launches for adapter in launch.adapters]
    if settings.format == "kubernetes" and settings.flavor == "aibrix":
        return slugs(names, aibrix.LONGEST_SLUG)
    return {name: name for name in names}


def _routes(
    launches: Sequence[Launch], settings: DeploySettings, served: Mapping[str, str]
) -> list[Route]:
    total: dict[str, float] = {}
    for launch in launches:
        for name, share in _shares(launch):
            total[name] = total.get(name, 0.0) + share
    return [
        Route(
            adapter=name,
            gpu=launch.index,
            url=_url(launch, settings),
            weight=share / total[name],
            model=ray_serve.model_of(launch, name)
            if settings.format == "ray-serve"
            else served.get(name, name),
        )
        for launch in launches
        for name, share in _shares(launch)
    ]


def _shares(launch: Launch) -> list[tuple[str, float]]:
    lora = [(adapter.adapter, adapter.share) for adapter in launch.adapters]
    return [*launch.base_names, *lora]


def _url(launch: Launch, settings: DeploySettings) -> str:
    port = settings.port + launch.index if settings.format == "vllm" else settings.port
    if settings.url is not None:
        url = settings.url.replace("{gpu}", str(launch.index)).replace("{port}", str(port))
        return url.rstrip("/").removesuffix("/v1")
    if settings.format == "vllm":
        return f"http://127.0.0.1:{port}"
    if settings.format == "ray-serve":
        return f"http://127.0.0.1:{ray_serve.PORT}"
    if settings.flavor == "kserve":
        # KServe names a service's workload thus, and serves it over TLS.
        return f"https://{launch.name}-kserve-workload-svc:{kubernetes.PORT}"
    return f"http://{launch.name}:{kubernetes.PORT}"


def _engine_files(
    launches: Sequence[Launch], settings: DeploySettings, served: Mapping[str, str]
) -> dict[str, str]:
    if settings.format == "vllm":
        return {
            f"{launch.name}.sh": vllm.script(
                launch, settings.port + launch.index, _devices(launches, launch)
            )
            for launch in launches
        }
    if settings.format == "ray-serve":
        config = ray_serve.application(launches, settings.name)
        return {"ray-serve.yaml": yaml_text([config], _heading(launches))}
    return _kubernetes_files(launches, settings, served)


def _kubernetes_files(
    launches: Sequence[Launch], settings: DeploySettings, served: Mapping[str, str]
) -> dict[str, str]:
    release, files = settings.name, {}
    split = aibrix.split_adapters(launches)
    for launch in launches:
        image = settings.image or kubernetes.default_image(launch.profile)
        heading = _HEADING
        if settings.flavor == "kserve":
            objects, heading = kserve.kserve_objects(launch, release, image), _heading([launch])
        elif settings.flavor == "aibrix":
            objects = aibrix.server_objects(launch, release, image, settings.claim, served, split)
        else:
            objects = kubernetes.core_objects(launch, release, image, settings.claim)
        name = _gpu_name(launch.index, len(launches))
        files[f"{name}.yaml"] = yaml_text(objects, heading)
    if settings.flavor == "aibrix":
        bases = {aibrix.base_label(launch): launch for launch in launches}
        objects = [aibrix.base_service(launch, release) for launch in bases.values()]
        objects += aibrix.adapter_objects(launches, release, served)
        files["adapters.yaml"] = yaml_text(objects, _heading(launches))
    return files


def _devices(launches: Sequence[Launch], launch: Launch) -> str:
    first = sum(other.n_devices for other in launches if other.index < launch.index)
    return ",".join(str(first + number) for number in range(launch.n_devices))


def _heading(launches: Sequence[Launch]) -> str:
    needs = any(launch.needs_root_variable for launch in launches)
    return f"{_HEADING}\n{_SUBSTITUTE}" if needs else _HEADING


def _table(router: Router, routes: Sequence[Route], settings: DeploySettings) -> str:
    if router == "litellm":
        return yaml_text([routing.litellm_config(routes)], _HEADING)
    if router == "production-stack":
        return yaml_text([routing.production_stack_config(routes)], _HEADING)
    return yaml_text(envoy.envoy_objects(routes, settings.name, settings.gateway), _HEADING)


def _warnings(
    launches: Sequence[Launch], routes: Sequence[Route], settings: DeploySettings
) -> list[str]:
    warnings = []
    if any(launch.needs_root_variable for launch in launches):
        warnings.append(
            f"the fleet gives no path for some adapters: the files hold the variable "
            f"{ROOT_VARIABLE} (pass --adapter-root URI to fill it in)"
        )
    plain_vllm = settings.format == "vllm" or (
        settings.format == "kubernetes" and settings.flavor == "core"
    )
    remote = [a for launch in launches for a in launch.adapters if a.folder.is_remote]
    if plain_vllm and remote:
        warnings.append(
            f"vLLM reads folders and Hugging Face names, not {remote[0].folder.text}: mount or "
            "copy the adapters first"
        )
    for base_model in dict.fromkeys(launch.base_model for launch in launches):
        if "/" not in base_model:
            warnings.append(
                f"{base_model} is no Hugging Face name or folder: pass --base-model with one"
            )
    for launch in launches:
        planned, written = launch.planned_rank, launch.flag("max_lora_rank")
        if written is not None and written != planned:
            warnings.append(
                f"{launch.name}: max_lora_rank {planned} is none that vLLM takes, {written} is "
                "written: its slots are larger than the plan's"
            )
    uneven = routing.uneven_splits(routes)
    if uneven and "production-stack" in settings.routers:
        warnings.append(
            f"production-stack's router knows no weights: {uneven[0]} and {len(uneven) - 1} more "
            "go to their GPUs in equal parts, not as planned"
        )
    return warnings
