"""One GPU of a plan as the server it needs: flags, served names, adapters and where they lie.

Every format says the same through it, so no two can disagree about what was simulated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lorapack.deploy.names import check_word, joined
from lorapack.deploy.plan_reader import PlannedAdapter, PlannedGpu, whole
from lorapack.errors import InputError
from lorapack.fleet.adapter import MAX_LORA_RANKS

ROOT_VARIABLE = "LORA_ROOT"
"""The variable that stands for the adapters' folder where neither fleet nor user named one."""

FlagValue = int | float | bool | str
"""A setting's value; a bool becomes `--flag` or `--no-flag`."""

_Kind = Literal["count", "share", "switch", "word"]

_SETTINGS: dict[str, _Kind] = {
    "max_model_len": "count",
    "max_num_seqs": "count",
    "max_num_batched_tokens": "count",
    "gpu_memory_utilization": "share",
    "block_size": "count",
    "enable_prefix_caching": "switch",
}
"""What decides which engine runs: all must be in the plan (the engine's defaults moved between
versions, and with the hardware)."""

_LORA_SETTINGS: dict[str, _Kind] = {
    "max_loras": "count",
    "max_lora_rank": "count",
    "max_cpu_loras": "count",
}
"""The same where adapters are served."""

_OPTIONAL_SETTINGS: dict[str, _Kind] = {
    "tensor_parallel_size": "count",
    "dtype": "word",
    "kv_cache_dtype": "word",
    "quantization": "word",
    "enable_chunked_prefill": "switch",
    "long_prefill_token_threshold": "count",
    "lora_dtype": "word",
    "fully_sharded_loras": "switch",
}
"""Settings that a plan may hold: written when they are there and not null."""

_NOT_FLAGS = {"rule_set", "kv_cache_tokens", "num_gpu_blocks", "max_in_flight", "enable_lora"}
"""What a plan may hold beside the settings that is no flag of the engine."""


@dataclass(frozen=True)
class AdapterFolder:
    """Where an adapter lies.

    Attributes:
        text: The folder, URI or Hugging Face name; after the root where there is one.
        below_root_variable: Whether `text` is to be read below the variable LORA_ROOT.
    """

    text: str
    below_root_variable: bool = False

    @property
    def template(self) -> str:
        """As a text for `envsubst`: `${LORA_ROOT}/name` or the folder itself."""
        return f"${{{ROOT_VARIABLE}}}/{self.text}" if self.below_root_variable else self.text

    @property
    def is_remote(self) -> bool:
        """Whether it is a URI."""
        return not self.below_root_variable and "://" in self.text


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter as the server is told of it.

    Attributes:
        adapter: Its name, as requests say it.
        rank: Its LoRA rank.
        share: Part of its requests that this GPU serves.
        folder: Where it lies.
    """

    adapter: str
    rank: int
    share: float
    folder: AdapterFolder


@dataclass(frozen=True)
class Launch:
    """One server to start.

    Attributes:
        index: The GPU's place in the plan, from 0.
        name: The name its files and objects get.
        profile: The profile it was planned with.
        base_model: What `vllm serve` is given.
        base_names: (name, share) of the fleet's rows that are the base model itself (rank 0).
        flags: Engine settings in the order written.
        adapters: LoRA adapters in the plan's order.
        planned_rank: The plan's own `max_lora_rank`, None where it has none.
    """

    index: int
    name: str
    profile: str
    base_model: str
    base_names: tuple[tuple[str, float], ...]
    flags: tuple[tuple[str, FlagValue], ...]
    adapters: tuple[ServedAdapter, ...]
    planned_rank: object = None

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names under which the base model answers: its own first, metrics carry that one."""
        names = [self.base_model, *(name for name, _ in self.base_names)]
        return tuple(dict.fromkeys(names))

    @property
    def n_devices(self) -> int:
        """GPUs this one server takes (its tensor parallelism)."""
        value = dict(self.flags).get("tensor_parallel_size", 1)
        assert isinstance(value, int), "checked when it was read"
        return value

    @property
    def needs_root_variable(self) -> bool:
        """Whether its files hold the variable LORA_ROOT."""
        return any(adapter.folder.below_root_variable for adapter in self.adapters)

    def flag(self, name: str) -> FlagValue | None:
        """The value of a setting, None where it is not set."""
        return dict(self.flags).get(name)


def launch_of(
    gpu: PlannedGpu, name: str, adapter_root: str | None, *, root_first: bool = False
) -> Launch:
    """Works out the server that one GPU of a plan needs.

    Args:
        gpu: The GPU.
        name: The name its files and objects get.
        adapter_root: Folder or URI that holds adapters whose fleet row has no path.
        root_first: Whether the root also replaces local folders (Ray, KServe and AIBrix, which
            cannot use them).

    Returns:
        The server.

    Raises:
        InputError: A setting is missing, unknown or out of range, or an adapter cannot be served.
    """
    lora = [adapter for adapter in gpu.adapters if adapter.rank > 0]
    base = [adapter for adapter in gpu.adapters if adapter.rank == 0]
    flags = engine_flags(gpu, largest_rank=max((a.rank for a in lora), default=0))
    for adapter in lora:
        _refuse_base_name(adapter, gpu)
    for adapter in base:
        check_word(adapter.adapter, f"{gpu.place}: adapter")
    return Launch(
        index=gpu.index,
        name=name,
        profile=gpu.profile,
        base_model=gpu.base_model,
        base_names=tuple((adapter.adapter, adapter.share) for adapter in base),
        flags=flags,
        adapters=tuple(
            ServedAdapter(
                adapter.adapter,
                adapter.rank,
                adapter.share,
                _folder(adapter, adapter_root, root_first=root_first),
            )
            for adapter in lora
        ),
        planned_rank=gpu.engine.get("max_lora_rank"),
    )


def engine_flags(gpu: PlannedGpu, largest_rank: int) -> tuple[tuple[str, FlagValue], ...]:
    """The engine's settings by its own names, all that was simulated and nothing else.

    Args:
        gpu: The GPU.
        largest_rank: Largest rank among its adapters, 0 where it serves only the base model.

    Returns:
        (setting, value), in the order written.

    Raises:
        InputError: A setting is missing, unknown or out of range.
    """
    engine, place = gpu.engine, f"{gpu.place}.engine"
    known = {*_SETTINGS, *_LORA_SETTINGS, *_OPTIONAL_SETTINGS, *_NOT_FLAGS}
    for key in engine:
        if key not in known:
            raise InputError(
                "plan", f"{place}.{key}", engine[key], "is no engine setting that deploy knows"
            )
    flags = [(key, _value(gpu, key, kind)) for key, kind in _SETTINGS.items()]
    if largest_rank > 0 or engine.get("max_loras"):
        flags.append(("enable_lora", True))
        flags.extend((key, _value(gpu, key, kind)) for key, kind in _LORA_SETTINGS.items())
        flags = [
            (key, allowed_rank(gpu, largest_rank) if key == "max_lora_rank" else value)
            for key, value in flags
        ]
        _check_cpu_slots(gpu)
    for key, kind in _OPTIONAL_SETTINGS.items():
        if engine.get(key) is not None:
            flags.append((key, _value(gpu, key, kind)))
    return tuple(flags)


def allowed_rank(gpu: PlannedGpu, largest_rank: int) -> int:
    """`max_lora_rank` rounded up to a value that vLLM takes.

    Args:
        gpu: The GPU.
        largest_rank: Largest rank among its adapters.

    Returns:
        The value for the flag.

    Raises:
        InputError: No such value is large enough, or an adapter's rank is above the planned one.
    """
    place = f"{gpu.place}.engine.max_lora_rank"
    planned = whole(gpu.engine.get("max_lora_rank"), place)
    if largest_rank > planned:
        raise InputError(
            "plan", place, planned, f"an adapter of rank {largest_rank} needs at least that"
        )
    if planned == 1 and engine_version(gpu.profile) >= (0, 33):
        return 1
    for rank in MAX_LORA_RANKS:
        if rank >= planned:
            return rank
    raise InputError("plan", place, planned, f"vLLM takes {MAX_LORA_RANKS[-1]} at most")


def engine_version(profile: str) -> tuple[int, ...]:
    """The engine version a profile's name ends in.

    Args:
        profile: A profile's name, such as `llama-3.1-8b/h100-64gb/vllm-0.8.5`.

    Returns:
        Its numbers, such as (0, 8, 5); empty where the name ends in none.
    """
    found = re.search(r"vllm-(\d+(?:\.\d+)*)[^/]*$", profile)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def flag_arguments(flags: Sequence[tuple[str, FlagValue]]) -> list[list[str]]:
    """The command-line form of settings: one list of arguments a setting.

    Args:
        flags: (setting, value).

    Returns:
        `["--max-loras", "8"]`, `["--enable-lora"]`, `["--no-enable-prefix-caching"]`.
    """
    return [_argument(key.replace("_", "-"), value) for key, value in flags]


def _argument(flag: str, value: FlagValue) -> list[str]:
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return [f"--no-{flag}"]
    return [f"--{flag}", f"{value:.10g}" if isinstance(value, float) else str(value)]


def _value(gpu: PlannedGpu, key: str, kind: _Kind) -> FlagValue:
    place, value = f"{gpu.place}.engine.{key}", gpu.engine.get(key)
    if value is None:
        raise InputError(
            "plan", place, None, "is missing: without it the engine is not the one simulated"
        )
    if kind == "count":
        return whole(value, place)
    if kind == "switch":
        if not isinstance(value, bool):
            raise InputError("plan", place, value, "give true or false")
        return value
    if kind == "word":
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
            raise InputError("plan", place, value, "give the engine's own word for it")
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= 1:  # type: ignore[arg-type, operator]
        raise InputError("plan", place, value, "give a part over 0 and up to 1")
    return float(value)  # type: ignore[arg-type]


def _check_cpu_slots(gpu: PlannedGpu) -> None:
    slots = whole(gpu.engine.get("max_loras"), f"{gpu.place}.engine.max_loras")
    place = f"{gpu.place}.engine.max_cpu_loras"
    if whole(gpu.engine.get("max_cpu_loras"), place) < slots:
        raise InputError(
            "plan", place, gpu.engine["max_cpu_loras"], f"give at least max_loras, {slots}"
        )


def _refuse_base_name(adapter: PlannedAdapter, gpu: PlannedGpu) -> None:
    bases = {gpu.base_model, *(a.adapter for a in gpu.adapters if a.rank == 0)}
    if adapter.adapter in bases:
        raise InputError(
            "plan",
            f"{gpu.place}: adapter",
            adapter.adapter,
            "rename it: an adapter may not carry the base model's name",
        )


def _folder(adapter: PlannedAdapter, root: str | None, *, root_first: bool) -> AdapterFolder:
    local = adapter.path is None or "://" not in adapter.path
    if adapter.path is not None and not (root_first and root is not None and local):
        return AdapterFolder(adapter.path)
    if root is not None:
        return AdapterFolder(joined(root, adapter.adapter))
    below = joined("", adapter.adapter).removeprefix("/")
    if ROOT_VARIABLE in below:
        raise InputError(
            "plan", "adapter", below, f"holds the word {ROOT_VARIABLE}: pass --adapter-root"
        )
    return AdapterFolder(below, below_root_variable=True)
