"""What deploy needs of plan.json, checked once and then trusted.

Keys that only other readers care about are passed over; what is here is checked as if a stranger
had written it, since its texts end in shell scripts and cluster objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorapack.deploy.names import check_text, check_word
from lorapack.errors import InputError


@dataclass(frozen=True)
class PlannedAdapter:
    """One adapter on one GPU.

    Attributes:
        adapter: Its name, as requests say it.
        rank: LoRA rank; 0 is the base model itself.
        rate_rps: Rate it sends to this GPU or in all; only shown.
        share: Part of its requests that this GPU serves, over 0 and up to 1.
        path: Its PEFT folder, URI or Hugging Face name, where the fleet gave one.
    """

    adapter: str
    rank: int
    rate_rps: float
    share: float = 1.0
    path: str | None = None


@dataclass(frozen=True)
class PlannedGpu:
    """One GPU of the plan.

    Attributes:
        index: Its place in the plan, from 0.
        profile: The profile it was planned with: model/gpu/engine.
        base_model: What `vllm serve` is given: a Hugging Face name or a folder.
        engine: Every engine setting that was simulated, by the engine's own names.
        adapters: What it serves.
    """

    index: int
    profile: str
    base_model: str
    engine: Mapping[str, object]
    adapters: tuple[PlannedAdapter, ...]

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"gpus[{self.index}]"


@dataclass(frozen=True)
class DeployablePlan:
    """A plan as far as it is deployed.

    Attributes:
        gpus: The GPUs in the plan's order.
        verified: Whether the twin saw every GPU keep its service level; None: not said.
        predicted: Whether a GPU of it was predicted only: its `seeds` are there and empty.
    """

    gpus: tuple[PlannedGpu, ...]
    verified: bool | None = None
    predicted: bool = False


def read_plan(path: Path) -> DeployablePlan:
    """Reads a plan.

    Args:
        path: The plan.json that `lorapack pack -o` wrote, or one with the documented
            keys of `gpus[]` that was made otherwise.

    Returns:
        What deploy needs of it.

    Raises:
        InputError: It is not a plan, or something in it cannot be deployed.
    """
    try:
        plan = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(path, "JSON", str(error), "give a plan.json of lorapack pack") from error
    try:
        return plan_of(plan)
    except InputError as error:
        raise InputError(path, error.place, error.value, error.mend) from error


def plan_of(document: object) -> DeployablePlan:
    """A plan that is already in memory.

    Args:
        document: The object that plan.json holds.

    Returns:
        What deploy needs of it.

    Raises:
        InputError: Something in it cannot be deployed.
    """
    plan = _mapping(document, "plan")
    gpus = _member(plan, "gpus", "plan")
    if not isinstance(gpus, list) or not gpus:
        raise InputError("plan", "gpus", gpus, "give a list of at least one GPU")
    verified = plan.get("verified")
    return DeployablePlan(
        gpus=tuple(_gpu(index, _mapping(gpu, f"gpus[{index}]")) for index, gpu in enumerate(gpus)),
        verified=verified if isinstance(verified, bool) else None,
        predicted=any(gpu.get("seeds") == [] for gpu in gpus),
    )


def _gpu(index: int, gpu: Mapping[str, object]) -> PlannedGpu:
    place = f"gpus[{index}]"
    rows = _member(gpu, "adapters", place)
    if not isinstance(rows, list):
        raise InputError("plan", f"{place}.adapters", rows, "give a list of adapters")
    adapters = tuple(
        _adapter(_mapping(row, f"{place}.adapters[{number}]"), f"{place}.adapters[{number}]")
        for number, row in enumerate(rows)
    )
    seen: set[str] = set()
    for adapter in adapters:
        if adapter.adapter in seen:
            raise InputError("plan", f"{place}.adapters", adapter.adapter, "name it only once")
        seen.add(adapter.adapter)
    return PlannedGpu(
        index=index,
        profile=check_text(_text(gpu, "profile", place), f"{place}.profile"),
        base_model=check_word(_text(gpu, "base_model", place), f"{place}.base_model"),
        engine=_mapping(_member(gpu, "engine", place), f"{place}.engine"),
        adapters=adapters,
    )


def _adapter(row: Mapping[str, object], place: str) -> PlannedAdapter:
    path = row.get("path")
    if path is not None and not isinstance(path, str):
        raise InputError("plan", f"{place}.path", path, "give a folder or a URI, as text")
    share = _number(row.get("share", 1.0), f"{place}.share")
    if not 0 < share <= 1:
        raise InputError("plan", f"{place}.share", share, "give a part over 0 and up to 1")
    rate_rps = _number(row.get("rate_rps", 0.0), f"{place}.rate_rps")
    if rate_rps < 0:
        raise InputError("plan", f"{place}.rate_rps", rate_rps, "give a rate of 0 or more")
    return PlannedAdapter(
        adapter=check_text(_text(row, "adapter", place), f"{place}.adapter"),
        rank=whole(_member(row, "rank", place), f"{place}.rank", least=0),
        rate_rps=rate_rps,
        share=share,
        path=check_text(path, f"{place}.path") if path else None,
    )


def whole(value: object, place: str, least: int = 1) -> int:
    """A whole number of the plan.

    Args:
        value: What stands there.
        place: Where.
        least: Smallest allowed.

    Returns:
        The number.

    Raises:
        InputError: It is something else (a bool is not a number here).
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError("plan", place, value, f"give a whole number of {least} or more")
    return value


def _number(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError("plan", place, value, "give a finite number")
    return float(value)


def _mapping(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InputError("plan", place, value, "give an object, as lorapack pack writes it")
    return value


def _member(owner: Mapping[str, object], key: str, place: str) -> object:
    if key not in owner:
        raise InputError("plan", f"{place}.{key}", None, "is missing: make the plan anew")
    return owner[key]


def _text(owner: Mapping[str, object], key: str, place: str) -> str:
    value = _member(owner, key, place)
    if not isinstance(value, str):
        raise InputError("plan", f"{place}.{key}", value, "give a text")
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
