"""plan.json: what was decided and what proves it, as plain data that reads back.

Keys are INTERFACE.md's. The same inputs and seed give the same bytes: no clock, no path of the
machine, keys in a fixed order, floats rounded to what the twin's figures are worth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from lorapack.atomic_file import write_text
from lorapack.errors import InputError

if TYPE_CHECKING:
    import os

FORMAT = 1
"""Version of plan.json's layout."""

ENGINE_KEYS = (
    "max_loras",
    "max_lora_rank",
    "max_cpu_loras",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "block_size",
    "enable_prefix_caching",
)
"""Every engine setting that was simulated, by the engine's own names."""


@dataclass(frozen=True)
class PlannedAdapter:
    """An adapter, or a share of one, on a GPU.

    Attributes:
        adapter: Its name.
        share: Of its requests that this GPU serves, over 0 and up to 1.
        rank: LoRA rank; 0 is the base model.
        rate_rps: Requests a second this GPU gets of it as stated, before headroom.
        path: Its PEFT folder or URI.
        load: What else shapes its load: the fleet's columns that were not left out.
    """

    adapter: str
    share: float
    rank: int
    rate_rps: float
    path: str | None
    load: Mapping[str, object]


@dataclass(frozen=True)
class PlannedGpu:
    """One GPU of a plan.

    Attributes:
        gpu: Its name in the plan.
        profile: Name of the profile it was planned with.
        base_model: The model it serves.
        engine: Settings, by `ENGINE_KEYS`.
        adapters: What it holds.
        exempt: Whether it holds exempt clients only, under `batch`.
        memory: KV capacity and where each GiB goes.
        predicted: What was expected of it while placing.
        twin: What the twin said over the verifying seeds: worst served fraction and p99 TTFT, means
            of the rest, violations.
        seeds: The verifying seeds.
        margin: Traffic above the planned that it was seen to hold, as a fraction.
        failing_probability: Estimated chance that another seed breaks the level; None: no seed was
            simulated. `twin` and `seeds` are then empty, and `predicted` holds all there is.
    """

    gpu: str
    profile: str
    base_model: str
    engine: Mapping[str, Any]
    adapters: tuple[PlannedAdapter, ...]
    exempt: bool
    memory: Mapping[str, Any]
    predicted: Mapping[str, Any]
    twin: Mapping[str, Any]
    seeds: tuple[int, ...]
    margin: float
    failing_probability: float | None

    @property
    def simulated(self) -> bool:
        """Whether the twin ran it; if not, only `predicted` says what to expect."""
        return bool(self.seeds)


@dataclass(frozen=True)
class Plan:
    """A placement with its evidence; `lorapack pack -o` writes it, `Plan.read` reads it back.

    Example:
        >>> import tempfile
        >>> import lorapack as lp
        >>> fleet = [lp.Adapter("sql", rank=16, rate_rps=0.5)]
        >>> plan = lp.pack(lp.Profile.load(), fleet, n_seeds=1)
        >>> file = tempfile.mkdtemp() + "/plan.json"
        >>> plan.write(file)
        >>> [row.adapter for gpu in Plan.read(file).gpus for row in gpu.adapters]
        ['sql']

    Attributes:
        n_gpus: GPUs used.
        lower_bound: The larger of the bounds, as a float.
        bound: `true`: GPUs that no plan goes below; `estimate`: the dual bound on the predicted
            surface, where it was computed.
        slo: The service level's name.
        service_level: Its parts.
        rate_headroom: By which stated rates were raised throughout.
        method: Who placed.
        objective: What was made small.
        seed: Of everything random.
        verified: Whether every GPU held on every verifying seed.
        gpus: The GPUs.
        exempt: Clients held to `batch`, each with its own p99.
        cost_per_hour: Price of all GPUs, where prices are known.
        kwh_per_hour: Energy of all GPUs, where powers are known.
        notes: What else was found: `replan` (moves, and what more of them would save), `rates`
            (which hour binds), `spare` (what the loss of a GPU does).
    """

    n_gpus: int
    lower_bound: float
    bound: Mapping[str, Any]
    slo: str
    service_level: Mapping[str, Any]
    rate_headroom: float
    method: str
    objective: str
    seed: int
    verified: bool
    gpus: tuple[PlannedGpu, ...]
    exempt: tuple[Mapping[str, Any], ...] = ()
    cost_per_hour: float | None = None
    kwh_per_hour: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether the twin ran every GPU; if not, the plan is one by prediction alone."""
        return all(gpu.simulated for gpu in self.gpus)

    def to_dict(self) -> dict[str, Any]:
        """The object that plan.json holds."""
        return {
            "format": FORMAT,
            "n_gpus": self.n_gpus,
            "lower_bound": _rounded(self.lower_bound),
            "bound": _rounded(self.bound),
            "slo": self.slo,
            "service_level": dict(self.service_level),
            "rate_headroom": self.rate_headroom,
            "method": self.method,
            "objective": self.objective,
            "seed": self.seed,
            "verified": self.verified,
            "cost_per_hour": _rounded(self.cost_per_hour),
            "kwh_per_hour": _rounded(self.kwh_per_hour),
            "notes": _rounded(self.notes),
            "exempt": [_rounded(dict(entry)) for entry in self.exempt],
            "gpus": [_gpu_to_dict(gpu) for gpu in self.gpus],
        }

    def to_json(self) -> str:
        """The text of plan.json."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=True, allow_nan=False) + "\n"

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes plan.json whole, or not at all.

        Args:
            path: The file.
            force: Whether one that exists may be replaced.

        Raises:
            InputError: It exists and `force` is off, or its folder is not there.
        """
        write_text(path, self.to_json(), force=force)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Plan:
        """Reads plan.json back.

        Raises:
            InputError: It is not a plan, with the place of the first thing wrong.
        """
        from pathlib import Path

        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, ValueError) as error:
            mend = "give a plan.json that `lorapack pack -o` wrote"
            raise InputError(path, "JSON", str(error), mend) from error
        return cls.from_dict(document, file=str(path))

    @classmethod
    def from_dict(cls, document: object, *, file: str = "plan") -> Plan:
        """The plan of an object as `to_dict` makes it.

        Raises:
            InputError: A key is missing or has the wrong type.
        """
        reader = _Reader(file)
        top = reader.mapping(document, "plan")
        if reader.get(top, "format", int, "plan") != FORMAT:
            raise InputError(file, "format", top["format"], f"this version reads format {FORMAT}")
        gpus = reader.get(top, "gpus", list, "plan")
        exempt = reader.get(top, "exempt", list, "plan")
        return cls(
            n_gpus=reader.get(top, "n_gpus", int, "plan"),
            lower_bound=reader.number(top, "lower_bound", "plan"),
            bound=reader.get(top, "bound", dict, "plan"),
            slo=reader.get(top, "slo", str, "plan"),
            service_level=reader.get(top, "service_level", dict, "plan"),
            rate_headroom=reader.number(top, "rate_headroom", "plan"),
            method=reader.get(top, "method", str, "plan"),
            objective=reader.get(top, "objective", str, "plan"),
            seed=reader.get(top, "seed", int, "plan"),
            verified=reader.get(top, "verified", bool, "plan"),
            gpus=tuple(reader.gpu(gpu, f"gpus[{i}]") for i, gpu in enumerate(gpus)),
            exempt=tuple(reader.mapping(row, f"exempt[{i}]") for i, row in enumerate(exempt)),
            cost_per_hour=cast("float | None", top.get("cost_per_hour")),
            kwh_per_hour=cast("float | None", top.get("kwh_per_hour")),
            notes=reader.mapping(top.get("notes", {}), "plan.notes"),
        )


def _gpu_to_dict(gpu: PlannedGpu) -> dict[str, Any]:
    return {
        "gpu": gpu.gpu,
        "profile": gpu.profile,
        "base_model": gpu.base_model,
        "engine": {key: gpu.engine[key] for key in ENGINE_KEYS},
        "adapters": [
            {
                "adapter": row.adapter,
                "share": _rounded(row.share),
                "rank": row.rank,
                "rate_rps": _rounded(row.rate_rps),
                "path": row.path,
                **row.load,
            }
            for row in gpu.adapters
        ],
        "exempt": gpu.exempt,
        "memory": _rounded(gpu.memory),
        "predicted": _rounded(gpu.predicted),
        "twin": _rounded(gpu.twin),
        "seeds": list(gpu.seeds),
        "margin": gpu.margin,
        "failing_probability": _rounded(gpu.failing_probability),
    }


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON is of any type
    """Floats to nine significant digits, what is not finite to null; structure kept."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(item) for item in value]
    return value


class _Reader:
    """Takes values out of JSON, naming file and place when they are not what they must be."""

    def __init__(self, file: str) -> None:
        self.file = file

    def mapping(self, value: object, place: str) -> dict[str, Any]:
        """A JSON object."""
        if not isinstance(value, dict):
            raise InputError(self.file, place, value, "give an object")
        return value

    def get(self, table: Mapping[str, Any], key: str, kind: type[Any], place: str) -> Any:  # noqa: ANN401
        """A value of a type."""
        if key not in table:
            raise InputError(self.file, f"{place}.{key}", None, "missing: add the key")
        value = table[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(self.file, f"{place}.{key}", value, f"give a {kind.__name__}")
        return value

    def number(self, table: Mapping[str, Any], key: str, place: str) -> float:
        """A number of 0 or more."""
        value = table.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise InputError(self.file, f"{place}.{key}", value, "give a number of 0 or more")
        return float(value)

    def number_or_none(self, table: Mapping[str, Any], key: str, place: str) -> float | None:
        """A number of 0 or more, or null."""
        present = key in table and table[key] is None
        return None if present else self.number(table, key, place)

    def gpu(self, value: object, place: str) -> PlannedGpu:
        """One GPU."""
        table = self.mapping(value, place)
        engine = self.get(table, "engine", dict, place)
        for key in ENGINE_KEYS:
            if key not in engine:
                raise InputError(self.file, f"{place}.engine.{key}", None, "missing: add the key")
        rows = self.get(table, "adapters", list, place)
        return PlannedGpu(
            gpu=self.get(table, "gpu", str, place),
            profile=self.get(table, "profile", str, place),
            base_model=self.get(table, "base_model", str, place),
            engine=engine,
            adapters=tuple(
                self.adapter(row, f"{place}.adapters[{i}]") for i, row in enumerate(rows)
            ),
            exempt=self.get(table, "exempt", bool, place),
            memory=self.get(table, "memory", dict, place),
            predicted=self.get(table, "predicted", dict, place),
            twin=self.get(table, "twin", dict, place),
            seeds=tuple(self.get(table, "seeds", list, place)),
            margin=self.number(table, "margin", place),
            failing_probability=self.number_or_none(table, "failing_probability", place),
        )

    def adapter(self, value: object, place: str) -> PlannedAdapter:
        """One adapter of a GPU."""
        row = self.mapping(value, place)
        known = ("adapter", "share", "rank", "rate_rps", "path")
        share = self.number(row, "share", place)
        if not 0 < share <= 1:
            raise InputError(self.file, f"{place}.share", share, "give a part over 0 and up to 1")
        path = row.get("path")
        if path is not None and not isinstance(path, str):
            raise InputError(self.file, f"{place}.path", path, "give a text or null")
        return PlannedAdapter(
            adapter=self.get(row, "adapter", str, place),
            share=share,
            rank=self.get(row, "rank", int, place),
            rate_rps=self.number(row, "rate_rps", place),
            path=path,
            load={key: row[key] for key in row if key not in known},
        )
