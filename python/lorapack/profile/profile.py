"""A profile: the measured constants of one (model, GPU, engine version), as a TOML file.

Reading guide: :class:`Profile` is the file's sections; each section is a dataclass in the module of
its name (`step_time`, `front_end`, `adapter_loading`, `lengths`, `memory`, `gpu`, `model_shape`),
where its physics is, too. `section.py` holds how keys are checked.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from lorapack.atomic_file import atomic_file
from lorapack.errors import InputError, did_you_mean
from lorapack.profile.adapter_loading import AdapterLoading
from lorapack.profile.front_end import FrontEnd
from lorapack.profile.gpu import Gpu
from lorapack.profile.lengths import Lengths
from lorapack.profile.memory import Memory, MemoryCase, MemoryPlan, plan
from lorapack.profile.model_shape import KV_CACHE_DTYPES, ModelShape
from lorapack.profile.section import choice, number, plain, read_section, write_section
from lorapack.profile.step_time import StepTime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

DEFAULT_PROFILE = "llama-3.1-8b/h100-64gb/vllm-0.8.5"
"""The profile of every command that is given none."""

RULE_SETS = ("vllm-0.8.5", "vllm-0.33")
"""Scheduling rules that the twin replays, by the engine version they were read in."""


@dataclass(frozen=True)
class Uncertainty:
    """How far each part may be off: one standard deviation over the value; unknown if ``None``."""

    step_time_fraction: float | None = number(optional=True)
    kv_cache_fraction: float | None = number(optional=True)
    adapter_loading_fraction: float | None = number(optional=True)
    front_end_fraction: float | None = number(optional=True)
    lengths_fraction: float | None = number(optional=True)


@dataclass(frozen=True)
class Provenance:
    """Where a profile's constants come from.

    Attributes:
        kind: ``fitted`` to measurements, ``published`` by others, or ``estimated`` from another
            profile's efficiencies.
        source: The data, paper or profile.
        command: The command that made the file.
        note: What a reader should know besides.
        uncertainty: By part.
    """

    kind: str = choice("fitted", "published", "estimated")
    source: str = plain()
    command: str = plain()
    note: str = plain()
    uncertainty: Uncertainty = plain()  # noqa: RUF009 - makes a field, as `choice` does


@dataclass(frozen=True)
class EngineDefaults:
    """Settings of the engine that a run takes unless it overrides them, in the engine's own names.

    Attributes:
        block_size: Tokens a KV block.
        max_num_seqs: Requests that may run at once.
        max_num_batched_tokens: Tokens a step may hold.
        max_model_len: Longest sequence, tokens.
        gpu_memory_utilization: Share of the GPU's memory that the engine may take.
        kv_cache_dtype: Type of a KV element.
        enable_prefix_caching: Whether equal prompts share KV; the twin models it off.
    """

    block_size: int = number(low=1)
    max_num_seqs: int = number(low=1)
    max_num_batched_tokens: int = number(low=1)
    max_model_len: int = number(low=1)
    gpu_memory_utilization: float = number(above=True, high=1)
    kv_cache_dtype: str = choice(*KV_CACHE_DTYPES)
    enable_prefix_caching: bool = plain()


@dataclass(frozen=True)
class Price:
    """What an hour of the GPU costs; unknown if ``None``.

    Attributes:
        usd_per_hour: US dollars an hour.
        power_watts: Mean draw, for energy.
    """

    usd_per_hour: float | None = number(optional=True)
    power_watts: float | None = number(optional=True)


@dataclass(frozen=True)
class Profile:
    """The measured constants of one (model, GPU, engine version).

    Example:
        >>> profile = Profile.load("llama-3.1-8b/h100-64gb/vllm-0.8.5")
        >>> profile.rule_set, profile.engine.block_size
        ('vllm-0.8.5', 16)

    Attributes:
        name: ``model/gpu/engine``.
        rule_set: Scheduling rules, one of :data:`RULE_SETS`.
        provenance: Where the constants come from.
        engine: Default settings of the engine.
        model: Shape of the model.
        gpu: Facts of the GPU.
        memory: Constants of the memory rule; ``None``: KV capacity must be given.
        step_time: Cost of a step.
        adapter_loading: Cost of bringing an adapter in.
        front_end: What a client sees.
        lengths: Joint shape of prompt and output lengths.
        price: Money and energy.
    """

    name: str
    rule_set: str
    provenance: Provenance
    engine: EngineDefaults
    model: ModelShape
    gpu: Gpu
    memory: Memory | None
    step_time: StepTime
    adapter_loading: AdapterLoading
    front_end: FrontEnd
    lengths: Lengths
    price: Price

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the profiles that come with lorapack.

        Example:
            >>> DEFAULT_PROFILE in Profile.names()
            True
        """
        files = (entry.name for entry in _BUILTIN.iterdir())
        return tuple(sorted(_name_of(file) for file in files if file.endswith(".toml")))

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str] = DEFAULT_PROFILE) -> Profile:
        """Loads a profile that comes with lorapack by its name, or any by its path.

        Args:
            name_or_path: A name of :meth:`names`, or the path of a ``.toml`` file.

        Raises:
            InputError: No such profile, or something in it that cannot be used.

        Example:
            >>> Profile.load("qwen-2.5-7b/h100-64gb/vllm-0.8.5").model.num_hidden_layers
            28
        """
        given = os.fspath(name_or_path)
        if given in cls.names():
            file = _file_of(given)
            return cls.from_toml((_BUILTIN / file).read_text(encoding="utf-8"), file=file)
        path = Path(given)
        if path.suffix != ".toml" and not path.is_file():
            mend = f"{did_you_mean(given, cls.names())}; or give the path of a .toml file"
            raise InputError("profile", "name", given, mend)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise InputError(given, None, None, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(given, None, None, f"is not UTF-8 text: {error}") from error
        return cls.from_toml(text, file=given)

    @classmethod
    def from_toml(cls, text: str, *, file: str = "profile") -> Profile:
        """Reads a profile from the text of its TOML file.

        Args:
            text: The file's text.
            file: What messages call it.

        Raises:
            InputError: Not TOML, or something in it that cannot be used.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(file, None, None, f"is not TOML: {error}") from error
        return _read(document, file)

    def memory_plan(
        self,
        max_loras: int,
        max_lora_rank: int,
        *,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        gpu_memory_utilization: float | None = None,
        block_size: int | None = None,
        kv_cache_dtype: str | None = None,
    ) -> MemoryPlan:
        """Says whether an engine starts, with how much KV cache, and what would mend it.

        Args:
            max_loras: LoRA slots; 0: LoRA is off.
            max_lora_rank: Rank for which the slots are made.
            max_model_len: Longest sequence, tokens; here and below, left out: the profile's.
            max_num_seqs: Requests that may run at once.
            max_num_batched_tokens: Tokens a step may hold.
            gpu_memory_utilization: Share of the GPU's memory that the engine may take.
            block_size: Tokens a KV block.
            kv_cache_dtype: Type of a KV element.

        Raises:
            InputError: The profile has no ``[memory]``.

        Example:
            >>> plan = Profile.load().memory_plan(max_loras=256, max_lora_rank=16)
            >>> plan.starts, plan.refusal, plan.mends[0].setting
            (False, 'max_model_len', 'max_model_len')
        """
        if self.memory is None:
            mend = "has no [memory]: give kv_cache_tokens, as the engine's log prints it"
            raise InputError(self.name, None, None, mend)
        engine = self.engine
        return plan(
            MemoryCase(
                model=self.model,
                rule_set=self.rule_set,
                memory=self.memory,
                gpu_memory_gib=self.gpu.memory_gib,
                gpu_memory_utilization=_given(
                    gpu_memory_utilization, engine.gpu_memory_utilization
                ),
                max_loras=max_loras,
                max_lora_rank=max_lora_rank if max_loras else 0,
                max_model_len=_given(max_model_len, engine.max_model_len),
                max_num_seqs=_given(max_num_seqs, engine.max_num_seqs),
                max_num_batched_tokens=_given(
                    max_num_batched_tokens, engine.max_num_batched_tokens
                ),
                block_size=_given(block_size, engine.block_size),
                kv_cache_dtype=_given(kv_cache_dtype, engine.kv_cache_dtype),
            )
        )

    def to_toml(self) -> str:
        """The text of the profile's TOML file; :meth:`from_toml` gives an equal profile back.

        Example:
            >>> profile = Profile.load()
            >>> Profile.from_toml(profile.to_toml()) == profile
            True
        """
        import tomli_w  # only writers need it

        return tomli_w.dumps(write_section(self))

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the profile's TOML file, whole or not at all.

        Args:
            path: The file.
            force: Whether one that exists may be replaced.

        Raises:
            InputError: It exists and ``force`` is off, or it cannot be written.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp(), "mine.toml")
            >>> Profile.load().write(file)
            >>> Profile.load(file) == Profile.load()
            True
        """
        with atomic_file(path, force=force) as partial:
            partial.write_text(self.to_toml(), encoding="utf-8")


_BUILTIN = resources.files("lorapack.profile") / "builtin"

_SECTIONS: Mapping[str, type] = {
    "provenance": Provenance,
    "engine": EngineDefaults,
    "gpu": Gpu,
    "memory": Memory,
    "adapter_loading": AdapterLoading,
    "front_end": FrontEnd,
    "lengths": Lengths,
    "price": Price,
}


@dataclass(frozen=True)
class _Identity:
    name: str
    rule_set: str = choice(*RULE_SETS)


def _read(document: Mapping[str, object], file: str) -> Profile:
    document = dict(document)
    known = [field.name for field in dataclasses.fields(Profile)]
    for key in document:
        if key not in known:
            mend = f"unknown section or key: {did_you_mean(key, known)}"
            raise InputError(file, "top level", key, mend)
    sections = {key: document.pop(key) for key in known[2:] if key in document}
    identity = read_section(_Identity, document, file=file, place="top level")
    sections.setdefault("price", {})
    sections.setdefault("front_end", write_section(FrontEnd.none()))
    for key in known[2:]:
        if key not in sections and key != "memory":
            raise InputError(file, f"[{key}]", None, "missing: add the section")
    model = read_section(ModelShape, sections.pop("model"), file=file, place="[model]")
    step_time = read_section(
        StepTime, sections.pop("step_time"), file=file, place="[step_time]", model=model
    )
    read: dict[str, Any] = {
        key: read_section(_SECTIONS[key], table, file=file, place=f"[{key}]")
        for key, table in sections.items()
    }
    profile = Profile(
        identity.name,
        identity.rule_set,
        model=model,
        step_time=step_time,
        **{"memory": None, **read},
    )
    _check_together(profile, file)
    return profile


def _check_together(profile: Profile, file: str) -> None:
    """Refuses what only two keys together show to be wrong."""
    for which in ("prompt", "output"):
        marginal = getattr(profile.lengths, which)
        if not marginal.ascending():
            place = f"[lengths.{which}]"
            raise InputError(file, place, None, "order min, q25, q50, q75, max ascending")
    model = profile.model
    if model.num_attention_heads % model.num_key_value_heads:
        mend = f"give a divisor of num_attention_heads = {model.num_attention_heads}"
        raise InputError(file, "[model] num_key_value_heads", model.num_key_value_heads, mend)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _file_of(name: str) -> str:
    return name.replace("/", "__") + ".toml"


def _name_of(file: str) -> str:
    return file.removesuffix(".toml").replace("__", "/")
