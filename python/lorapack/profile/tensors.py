"""The tensors that an engine makes when it loads a model, in the order in which it makes them.

Read in vLLM 0.8.5 (``model_executor/models/*.py``, ``lora/layers.py``, ``lora/models.py``): the
weights layer by layer, then, walking the modules in the same order, the stacked LoRA matrices: all
A of a packed layer, then all its B, for every slot at ``max_lora_rank``, used or not. Checked on
the "model loading took" lines of 76 engines: equal to 0.1 MiB.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lorapack.profile.allocator import CachingAllocator
from lorapack.profile.model_shape import LinearLayer, ModelShape

EXTRA_VOCABULARY = 256
"""Rows for added tokens that vLLM 0.8.5 keeps for each slot (``--lora-extra-vocab-size``)."""

EXTRA_VOCABULARY_RULE_SETS = ("vllm-0.8.5",)
"""Rule sets of the versions that have the extra vocabulary."""

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Loaded:
    """What a loaded model takes.

    Attributes:
        allocated_bytes: Held by tensors (what the engine's log calls "model loading took").
        reserved_bytes: Held by the allocator's segments, the cache emptied.
    """

    allocated_bytes: int
    reserved_bytes: int


@functools.lru_cache(maxsize=4096)
def load(model: ModelShape, rule_set: str, max_loras: int, max_lora_rank: int) -> Loaded:
    """Replays the loading of a model with its LoRA slots.

    Args:
        model: The model.
        rule_set: The engine version's rule set.
        max_loras: LoRA slots; 0: LoRA is off.
        max_lora_rank: Rank for which the slots are made.
    """
    allocator = CachingAllocator()
    _make_weights(allocator, model, extra_vocabulary(model, rule_set, max_loras), max_loras)
    if max_loras > 0:
        _make_slots(allocator, model, rule_set, max_loras, max_lora_rank)
    allocator.empty_cache()
    return Loaded(allocator.allocated, allocator.reserved)


def extra_vocabulary(model: ModelShape, rule_set: str, max_loras: int) -> int:
    """Rows that the vocabulary gains for LoRA: of lm_head in all, of the embedding a slot."""
    lora_on_embedding = rule_set in model.family.embedding_lora and max_loras > 0
    return EXTRA_VOCABULARY if lora_on_embedding and _has_extra_vocabulary(rule_set) else 0


def _has_extra_vocabulary(rule_set: str) -> bool:
    return rule_set in EXTRA_VOCABULARY_RULE_SETS


def _make_weights(
    allocator: CachingAllocator, model: ModelShape, extra_rows: int, max_loras: int
) -> None:
    hidden, element = model.hidden_size, model.dtype_bytes
    linear_bytes = {layer.name: _linear_bytes(model, layer) for layer in model.linear_layers}
    attention = [linear_bytes["qkv_proj"]]
    if model.attention_bias:
        attention.append((model.query_size + 2 * model.kv_size) * element)
    attention.append(linear_bytes["o_proj"])
    attention += [model.head_dim * element] * model.family.head_norms
    rest = [linear_bytes["gate_up_proj"], linear_bytes["down_proj"]]
    rest += [hidden * element] * model.family.norms
    allocator.take((model.vocab_size + extra_rows * max_loras) * hidden * element)
    allocator.take_all(attention)
    _make_rotary_table(allocator, model)
    allocator.take_all([*rest, *(attention + rest) * (model.num_hidden_layers - 1)])
    allocator.take(hidden * element)
    if not model.tie_word_embeddings:
        allocator.take((model.vocab_size + extra_rows) * hidden * element)
    if model.other_parameters:
        allocator.take(model.other_parameters * element)


def _linear_bytes(model: ModelShape, layer: LinearLayer) -> int:
    weights = layer.in_features * sum(layer.slices)
    return round(weights * model.linear_weight_bits / 8)


def _make_rotary_table(allocator: CachingAllocator, model: ModelShape) -> None:
    """The cosines and sines of all positions, shared by the layers.

    Computed on the GPU in float32: the temporaries' segments stay in the cache, where slots are
    made in them later. Without them the fragments come out wrong by up to 20 MiB.
    """
    positions, half = model.max_position_embeddings, model.head_dim // 2
    half_table = positions * half * FLOAT32_BYTES
    temporaries = [
        allocator.take(size)
        for size in (positions * FLOAT32_BYTES, half_table, half_table, half_table)
    ]
    joined = allocator.take(2 * half_table)
    for block in temporaries:
        allocator.give(block)
    allocator.take(positions * 2 * half * model.dtype_bytes)
    allocator.give(joined)


def _make_slots(
    allocator: CachingAllocator,
    model: ModelShape,
    rule_set: str,
    max_loras: int,
    max_lora_rank: int,
) -> None:
    a_slot_column = max_loras * max_lora_rank * model.dtype_bytes
    hidden, extra = model.hidden_size, extra_vocabulary(model, rule_set, max_loras)
    extra_table = max_loras * extra * hidden * model.dtype_bytes
    on_embedding = rule_set in model.family.embedding_lora
    if on_embedding:
        allocator.take(a_slot_column * (model.vocab_size + extra))
        allocator.take(a_slot_column * hidden)
        if extra:
            allocator.take(extra_table)
    widths = [
        width
        for layer in model.linear_layers
        for width in (*[layer.in_features] * len(layer.slices), *layer.slices)
    ]
    layer = [a_slot_column * width for width in widths]
    allocator.take_all(layer * model.num_hidden_layers)
    if on_embedding:
        allocator.take(a_slot_column * hidden)
        allocator.take(a_slot_column * _padded_vocabulary(model.vocab_size + extra))
        if extra:
            allocator.take(extra_table)


def _padded_vocabulary(rows: int) -> int:
    """Rows of the stacked B of lm_head: rounded up to 256."""
    return -(-rows // 256) * 256
