"""One PEFT adapter folder: ``adapter_config.json`` and the header of ``adapter_model.safetensors``.

The tensors are trusted over the config (the rank is the first size of an A tensor), and what an
engine version would refuse is told by rules that name the version; which modules it refuses depends
on the base model (:mod:`lorapack.fleet.target_modules`) and is told where that is given. Pickles
(``.bin``) are refused: reading one runs its code.

Sources: huggingface/peft ``tuners/lora/config.py``, ``utils/save_and_load.py``; vLLM 0.8.5
``lora/peft_helper.py``, ``lora/models.py``; vLLM 0.33 ``lora/peft_helper.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from lorapack.errors import InputError, shown
from lorapack.fleet.adapter import LARGEST_RANK
from lorapack.fleet.safetensors_header import Tensor, read_header
from lorapack.fleet.target_modules import TargetModule, refused_modules
from lorapack.profile.model_shape import ModelShape

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

ENGINES = ("vllm-0.8.5", "vllm-0.33")
"""Engine versions whose refusals are known, named as their rule sets."""

_PEFT_RANK = 8
"""``r`` where the config does not say."""

_LARGEST_CONFIG_BYTES = 16 * 2**20
_SERVED_BYTES = 2
"""vLLM casts to the base model's type, 16 bits: what an element takes in memory."""

_LARGEST_VOCABULARY = {"vllm-0.8.5": 257_024, "vllm-0.33": 258_048}
"""Largest vocabulary of an lm_head with LoRA."""

_PART = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+)\."
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<kind>weight|bias))?$"
)
_PARTNER = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}

_BASE_EMBEDDING = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
"""What PEFT saves beside a LoRA on the embedding: the base model's own. 0.33 passes over them."""


@dataclass(frozen=True)
class PeftAdapter:
    """What a folder holds.

    Attributes:
        name: The adapter's name: its folder's.
        folder: Where it is.
        rank: The largest rank of its tensors.
        config_rank: ``r`` of the config.
        target_modules: Last names of the modules that have LoRA tensors, sorted.
        n_modules: How many modules have them.
        elements: Numbers in the LoRA tensors.
        file_bytes: Bytes of all tensors in the file.
        served_bytes: Bytes of the LoRA tensors once cast to 16 bits.
        base_model: ``base_model_name_or_path``, if it says.
        features: What is out of the ordinary: ``rsLoRA``, ``DoRA``, ``rank_pattern`` and so on.
        saved_modules: Modules saved whole, by the config or as plain tensors.
        notes: Where config and tensors differ, and what an engine would ignore.
        refused_by: Engine version -> reasons it would give; versions that take it are not in it.
            Modules count where the base model was given.
    """

    name: str
    folder: str
    rank: int
    config_rank: int
    target_modules: tuple[str, ...]
    n_modules: int
    elements: int
    file_bytes: int
    served_bytes: int
    base_model: str | None
    features: tuple[str, ...] = ()
    saved_modules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Parts:
    """A file's tensors by what they are."""

    ranks: Mapping[str, int]
    targets: tuple[TargetModule, ...]
    lora: Mapping[str, Tensor]
    magnitudes: int
    biases: int
    saved: tuple[str, ...]
    lm_head_vocabulary: int | None


def read_peft_adapter(
    folder: Path, name: str | None = None, model: ModelShape | None = None
) -> PeftAdapter:
    """Reads one adapter folder.

    Args:
        folder: It must hold ``adapter_config.json``.
        name: The adapter's name; by default the folder's.
        model: The base model to hold its modules against; ``None`` leaves them unchecked.

    Returns:
        What it holds.

    Raises:
        InputError: It is damaged, no LoRA, or a pickle.
    """
    config = _config(folder)
    file = _weights(folder)
    tensors = read_header(file)
    parts = _parts(file, tensors)
    ranks = sorted(set(parts.ranks.values()))
    base = config.get("base_model_name_or_path")
    elements = sum(tensor.elements for tensor in parts.lora.values())
    return PeftAdapter(
        name=name or folder.resolve().name,
        folder=str(folder.resolve()),
        rank=ranks[-1],
        config_rank=_config_rank(config),
        target_modules=tuple(sorted({module.rpartition(".")[2] for module in parts.ranks})),
        n_modules=len(parts.ranks),
        elements=elements,
        file_bytes=sum(tensor.n_bytes for tensor in tensors.values()),
        served_bytes=elements * _SERVED_BYTES,
        base_model=base if isinstance(base, str) and base else None,
        features=tuple(name for name, has in _FEATURES.items() if has(config, parts)),
        saved_modules=tuple(_saved_modules(config, parts)),
        notes=tuple(_notes(config, ranks)),
        refused_by=MappingProxyType(_refusals(config, parts, model)),
    )


def _config(folder: Path) -> dict[str, object]:
    file = folder / CONFIG
    try:
        if file.stat().st_size > _LARGEST_CONFIG_BYTES:
            raise InputError(file, None, f"{file.stat().st_size} bytes", "give PEFT's own config")
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(file, None, None, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(file, None, None, f"mend the JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(file, None, config, "give a JSON object, as PEFT writes it")
    if config.get("peft_type") != "LORA":
        raise InputError(file, "peft_type", config.get("peft_type"), "give a LORA adapter")
    rank = config.get("r", _PEFT_RANK)
    if type(rank) is not int or rank < 1:
        raise InputError(file, "r", rank, "give a whole number, 1 or more")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise InputError(file, key, config[key], "give an object: module -> number")
    return config


def _weights(folder: Path) -> Path:
    file = folder / WEIGHTS
    if file.is_file():
        return file
    if (folder / PICKLE).is_file():
        mend = f"convert it to {WEIGHTS}: reading a pickle runs the code in it"
        raise InputError(folder / PICKLE, None, "a pickle", mend)
    raise InputError(file, None, None, "is not there: give the weights beside the config")


def _parts(file: Path, tensors: Mapping[str, Tensor]) -> _Parts:
    lora: dict[str, Tensor] = {}
    saved: list[str] = []
    magnitudes = biases = 0
    for name, tensor in tensors.items():
        match = _PART.match(name)
        if match is None:
            saved.append(name)
        elif match["part"] == "lora_magnitude_vector":
            magnitudes += 1
        elif match["kind"] == "bias":
            biases += 1
        else:
            lora[f"{match['module']}.{match['part']}"] = tensor
    ranks = _ranks(file, lora)
    if not ranks:
        raise InputError(file, None, f"{len(tensors)} tensors", "holds no lora_A tensor")
    heads = [lora[f"{module}.lora_B"] for module in ranks if _is_head(module, lora)]
    vocabulary = max((head.shape[0] for head in heads), default=None)
    targets = tuple(_target(module, lora) for module in ranks)
    return _Parts(ranks, targets, lora, magnitudes, biases, tuple(saved), vocabulary)


def _target(module: str, lora: Mapping[str, Tensor]) -> TargetModule:
    side = "lora_" if f"{module}.lora_A" in lora else "lora_embedding_"
    first, second = lora[f"{module}.{side}A"], lora[f"{module}.{side}B"]
    return TargetModule(module, first.shape[1], second.shape[0])


def _is_head(module: str, lora: Mapping[str, Tensor]) -> bool:
    return module.rpartition(".")[2] == "lm_head" and f"{module}.lora_B" in lora


def _ranks(file: Path, lora: Mapping[str, Tensor]) -> dict[str, int]:
    """Module -> rank, each A with the B that fits it."""
    ranks: dict[str, int] = {}
    for name, tensor in lora.items():
        module, _, part = name.rpartition(".")
        partner = _PARTNER.get(part)
        if partner is None:
            if f"{module}.{part[:-1]}A" not in lora:
                raise InputError(file, f"tensor {name}", None, "save it again: its A is not there")
            continue
        other = lora.get(f"{module}.{partner}")
        if other is None:
            raise InputError(file, f"tensor {name}", None, "save it again: its B is not there")
        rank = tensor.shape[0] if len(tensor.shape) >= 2 else 0
        if rank < 1 or len(other.shape) < 2 or other.shape[1] != rank:
            shapes = f"A {list(tensor.shape)}, B {list(other.shape)}"
            raise InputError(file, f"module {module}", shapes, "give A [r, in] and B [out, r]")
        ranks[module] = rank
    return ranks


_Rule = Callable[[Mapping[str, object], _Parts], bool]


def _saved_modules(config: Mapping[str, object], parts: _Parts) -> list[str]:
    """Modules saved whole: by the config's list, or as plain tensors in the file."""
    listed = config.get("modules_to_save") or []
    names = [str(name) for name in listed] if isinstance(listed, list) else [str(listed)]
    return sorted({*names, *map(_module_saved, parts.saved)})


def _module_saved(tensor: str) -> str:
    """The last name of the module that a plain tensor belongs to."""
    path = tensor.rpartition(".")[0].removesuffix(".base_layer")
    return path.rpartition(".")[2] or tensor


_FEATURES: Mapping[str, _Rule] = MappingProxyType(
    {
        "rsLoRA": lambda config, _: bool(config.get("use_rslora")),
        "DoRA": lambda config, parts: bool(config.get("use_dora")) or parts.magnitudes > 0,
        "rank_pattern": lambda config, _: bool(config.get("rank_pattern")),
        "alpha_pattern": lambda config, _: bool(config.get("alpha_pattern")),
        "modules_to_save": lambda config, parts: bool(_saved_modules(config, parts)),
        "bias": lambda config, parts: (
            (config.get("bias") or "none") != "none"
            or bool(config.get("lora_bias"))
            or parts.biases > 0
        ),
        "embeddings": lambda _, parts: any(".lora_embedding_" in name for name in parts.lora),
        "lm_head": lambda _, parts: parts.lm_head_vocabulary is not None,
        "layers_to_transform": lambda config, _: config.get("layers_to_transform") is not None,
        "aLoRA": lambda config, _: bool(config.get("alora_invocation_tokens")),
        "layer_replication": lambda config, _: bool(config.get("layer_replication")),
        "target_parameters": lambda config, _: bool(config.get("target_parameters")),
        "trainable_token_indices": lambda config, _: bool(config.get("trainable_token_indices")),
    }
)
"""What is out of the ordinary about an adapter, and how it is told."""


def _notes(config: Mapping[str, object], ranks: list[int]) -> list[str]:
    notes = []
    said, pattern = _config_rank(config), _pattern_ranks(config)
    if any(rank != said and rank not in pattern for rank in ranks):
        notes.append(f"the config says rank {said}, the tensors have {ranks}")
    if pattern or config.get("alpha_pattern"):
        notes.append("vllm-0.8.5 ignores rank_pattern and alpha_pattern: wrong scaling or an error")
    if config.get("trainable_token_indices") or config.get("target_parameters"):
        notes.append("trainable_token_indices and target_parameters may be ignored by an engine")
    return notes


def _refusals(
    config: Mapping[str, object], parts: _Parts, model: ModelShape | None
) -> dict[str, tuple[str, ...]]:
    """What each version says no to, in the order of its own checks."""
    found = {}
    for engine in ENGINES:
        reasons = [*_refused_by_both(config, parts, engine)]
        reasons += _refused_by_085(config, parts) if engine == "vllm-0.8.5" else []
        reasons += _refused_by_033(config, parts) if engine == "vllm-0.33" else []
        reasons += [] if model is None else refused_modules(parts.targets, model, engine)
        if reasons:
            found[engine] = tuple(reasons)
    return found


_REQUIRED = ("r", "lora_alpha", "target_modules")
"""Keys of the config without which vLLM does not begin to read it, though PEFT has defaults."""


def _refused_by_both(config: Mapping[str, object], parts: _Parts, engine: str) -> list[str]:
    missing = [key for key in _REQUIRED if key not in config]
    reasons = [f"a config without {', '.join(missing)}"] if missing else []
    rank = max(*parts.ranks.values(), _stated_rank(config, engine))
    if rank > LARGEST_RANK:
        reasons.append(f"rank {rank} is over {LARGEST_RANK}, the largest max_lora_rank")
    if _FEATURES["DoRA"](config, parts):
        reasons.append("DoRA (use_dora)")
    if (config.get("bias") or "none") != "none" or parts.biases > 0:
        reasons.append(f"bias {shown(config.get('bias') or 'in the tensors')}")
    vocabulary, most = parts.lm_head_vocabulary, _LARGEST_VOCABULARY[engine]
    if vocabulary is not None and vocabulary > most:
        reasons.append(f"lm_head of {vocabulary} words, over {most}")
    return reasons


def _stated_rank(config: Mapping[str, object], engine: str) -> int:
    """0.8.5 compares ``r`` with max_lora_rank, 0.33 the largest of ``r`` and rank_pattern."""
    values = [_config_rank(config), *(_pattern_ranks(config) if engine == "vllm-0.33" else [])]
    return max(value for value in values if isinstance(value, int))


def _config_rank(config: Mapping[str, object]) -> int:
    rank = config.get("r", _PEFT_RANK)
    assert isinstance(rank, int), "checked when the config was read"
    return rank


def _pattern_ranks(config: Mapping[str, object]) -> list[object]:
    pattern = config.get("rank_pattern") or {}
    assert isinstance(pattern, dict), "checked when the config was read"
    return [*pattern.values()]


def _refused_by_085(config: Mapping[str, object], parts: _Parts) -> list[str]:
    saved = _saved_modules(config, parts)
    return [f"modules_to_save {', '.join(map(shown, saved))}"] if saved else []


_INITS_OF_033 = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Initialisations that leave the base model's weights as they are."""


def _refused_by_033(config: Mapping[str, object], parts: _Parts) -> list[str]:
    reasons = ["lora_bias"] if config.get("lora_bias") else []
    kept = tuple(name for name in parts.saved if not name.endswith(_BASE_EMBEDDING))
    saved = _saved_modules(config, replace(parts, saved=kept))
    saved = [name for name in saved if name not in ("classifier", "score")]
    if saved:
        reasons.append(f"modules_to_save {', '.join(map(shown, saved))}")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _INITS_OF_033:
        reasons.append(f"init_lora_weights {shown(init)}")
    if config.get("alora_invocation_tokens"):
        reasons.append("aLoRA (alora_invocation_tokens)")
    if not all(type(rank) is int and rank > 0 for rank in _pattern_ranks(config)):
        reasons.append("a rank_pattern whose ranks are not all whole numbers above 0")
    switches = ("layer_replication", "use_bdlora", "use_qalora")
    return reasons + [name for name in switches if config.get(name)]
