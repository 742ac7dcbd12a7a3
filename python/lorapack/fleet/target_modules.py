"""Which modules of a model an engine version takes a LoRA on, and whether an adapter's tensors fit.

vLLM takes a LoRA on every linear layer, by its last name: those that it packs (qkv, gate and up) by
the names of their parts, unless the checkpoint itself has them as one (Phi-3). The embedding and
lm_head are taken only where the model's class lists them. An adapter with any other module is
refused, whichever base model it names; tensors of other sizes than the model's fail when the
adapter is activated, or fill a part of the slot and answer nonsense.

Sources: vLLM 0.8.5 and 0.33 ``lora/worker_manager.py`` (`_load_adapter`), ``lora/utils.py``
(`get_supported_lora_modules`), ``model_executor/models/*.py`` (`packed_modules_mapping`,
`embedding_modules`), ``lora/layers``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lorapack.errors import shown
from lorapack.profile.model_shape import ModelShape

_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
)
"""The engine's packed layer -> the checkpoint's names of its parts."""

_EMBEDDINGS = ("embed_tokens", "lm_head")

_TOWER_MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"Gemma3ForConditionalGeneration": ("fc1", "fc2", "out_proj")}
)
"""Class -> further linear layers that its vision tower brings."""

_TOWER = ".vision_tower."

_MOST_NAMED = 5
"""Modules named in a message; of more, their count."""


@dataclass(frozen=True)
class TargetModule:
    """One module that has LoRA tensors.

    Attributes:
        path: Its full name, such as ``model.layers.0.self_attn.q_proj``.
        in_features: Second size of its A tensor.
        out_features: First size of its B tensor.
    """

    path: str
    in_features: int
    out_features: int

    @property
    def name(self) -> str:
        """Its last name, by which engines know it."""
        return self.path.rpartition(".")[2]


def lora_modules(model: ModelShape, engine: str) -> dict[str, tuple[int, int] | None]:
    """The modules that take a LoRA.

    Args:
        model: The base model.
        engine: The engine version, as its rule set is named.

    Returns:
        Last name -> inputs and outputs; ``None`` where these are not known.

    Example:
        >>> from lorapack.profile.profile import Profile
        >>> qwen = Profile.load("qwen-2.5-7b/h100-64gb/vllm-0.8.5").model
        >>> lora_modules(qwen, "vllm-0.8.5")["k_proj"]
        (3584, 512)
        >>> "lm_head" in lora_modules(qwen, "vllm-0.8.5")
        False
    """
    sizes: dict[str, tuple[int, int] | None] = {}
    for layer in model.linear_layers:
        packed = len(layer.slices) > 1
        for name, size_out in zip(
            _PARTS[layer.name] if packed else (layer.name,), layer.slices, strict=True
        ):
            sizes[name] = (layer.in_features, size_out)
    if engine in model.family.embedding_lora:
        # Their vocabularies may be padded or extended.
        sizes.update(dict.fromkeys(_EMBEDDINGS))
    sizes.update(dict.fromkeys(_TOWER_MODULES.get(model.architecture, ())))
    return sizes


def refused_modules(
    targets: Iterable[TargetModule], model: ModelShape, engine: str
) -> tuple[str, ...]:
    """Why an engine version would refuse an adapter for its modules.

    Args:
        targets: The adapter's modules.
        model: The base model it is to be served on.
        engine: The engine version, as its rule set is named.

    Returns:
        One reason a kind of fault; none where all is well.
    """
    known = lora_modules(model, engine)
    unknown = {target.name for target in targets if target.name not in known}
    reasons = []
    if unknown:
        reasons.append(
            f"target modules {listed(unknown)}: {model.architecture} takes {', '.join(known)}"
        )
    misfits = {
        f"{target.name} is {target.in_features} -> {target.out_features}, "
        f"{model.name}'s {size[0]} -> {size[1]}"
        for target in targets
        if _TOWER not in f".{target.path}"
        and (size := known.get(target.name)) is not None
        and size != (target.in_features, target.out_features)
    }
    if misfits:
        reasons.append(f"tensors of another model: {listed(misfits)}")
    return tuple(reasons)


def listed(names: Iterable[str]) -> str:
    """Names for a message: sorted, the first few, and how many more.

    Example:
        >>> listed(["b", "a"]), listed("gfedcba")
        ('a, b', 'a, b, c, d, e and 2 more')
    """
    ordered = sorted(names)
    more = len(ordered) - _MOST_NAMED
    said = ", ".join(shown(name) for name in ordered[:_MOST_NAMED])
    return said if more <= 0 else f"{said} and {more} more"
