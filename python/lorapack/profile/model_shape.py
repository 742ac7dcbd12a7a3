"""The shape of a decoder-only language model, from its Hugging Face ``config.json``.

All that memory and step time need of a model follows from a dozen integers: parameters, bytes of
weights, bytes of KV a token, the linear layers that take a LoRA and how the engine packs them. Each
supported architecture is one row of :data:`FAMILIES`; mixtures of experts are refused, since
neither their slots nor their kernels have this form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lorapack.errors import InputError, did_you_mean
from lorapack.profile.section import number, plain

LORA_TILE = 128
"""Columns of a tile of the LoRA expand kernel (vLLM 0.8.5, lora/ops/triton_ops)."""

KV_CACHE_DTYPES: Mapping[str, float] = MappingProxyType(
    {"auto": 0, "float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
)
"""Bytes of one KV element by the engine's ``--kv-cache-dtype``; ``auto``: as the model's dtype."""

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float16": 2, "bfloat16": 2, "float32": 4})
"""Bytes of a value by the config's ``torch_dtype`` (or ``dtype``)."""


@dataclass(frozen=True)
class Family:
    """What an architecture's class fixes, whatever the model's size.

    Attributes:
        norms: Norm vectors of the hidden size in a layer.
        qkv_bias: q, k and v have a bias unless the config says otherwise.
        head_norms: Norm vectors of the head's size in a layer.
        packed_as_one: qkv and gate_up are one LoRA slice each, not three and two.
        ties_embeddings: What ``tie_word_embeddings`` is when the config leaves it out.
        embedding_lora: Rule sets in which the class makes slots for the embedding and lm_head.
        defaults: Sizes that the class has when the config leaves them out.
    """

    norms: int = 2
    qkv_bias: bool = False
    head_norms: int = 0
    packed_as_one: bool = False
    ties_embeddings: bool = False
    embedding_lora: tuple[str, ...] = ()
    defaults: Mapping[str, int] = field(default_factory=dict)


_GEMMA3_DEFAULTS = MappingProxyType(
    {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    }
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "LlamaForCausalLM": Family(embedding_lora=("vllm-0.8.5", "vllm-0.33")),
        "MistralForCausalLM": Family(embedding_lora=("vllm-0.8.5",)),
        "GraniteForCausalLM": Family(embedding_lora=("vllm-0.8.5", "vllm-0.33")),
        "Qwen2ForCausalLM": Family(qkv_bias=True),
        "Qwen3ForCausalLM": Family(head_norms=2, embedding_lora=("vllm-0.33",)),
        "Gemma2ForCausalLM": Family(
            norms=4, ties_embeddings=True, defaults=MappingProxyType({"head_dim": 256})
        ),
        "Gemma3ForCausalLM": Family(
            norms=4, head_norms=2, ties_embeddings=True, defaults=_GEMMA3_DEFAULTS
        ),
        "Gemma3ForConditionalGeneration": Family(
            norms=4, head_norms=2, ties_embeddings=True, defaults=_GEMMA3_DEFAULTS
        ),
        "Phi3ForCausalLM": Family(
            packed_as_one=True,
            embedding_lora=("vllm-0.8.5", "vllm-0.33"),  # inherited from the Llama class
        ),
    }
)
"""Architectures that lorapack knows, by the class name in the config."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer of one decoder layer, as the engine packs it.

    Attributes:
        name: The engine's name for it.
        in_features: Inputs.
        slices: Outputs of each part that has LoRA matrices of its own.
    """

    name: str
    in_features: int
    slices: tuple[int, ...]


@dataclass(frozen=True)
class ModelShape:
    """The integers of a model, under the config's own names.

    Attributes:
        name: What lorapack calls the model.
        architecture: The class name in the config.
        num_hidden_layers: Decoder layers.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward part.
        num_attention_heads: Query heads.
        num_key_value_heads: KV heads.
        head_dim: Width of a head.
        vocab_size: Rows of the embedding.
        max_position_embeddings: Longest sequence the model takes: the engine's default
            `max_model_len`.
        tie_word_embeddings: lm_head is the embedding.
        attention_bias: q, k and v have a bias.
        dtype_bytes: Bytes of an activation, a LoRA weight and an unquantised weight.
        linear_weight_bits: Bits of a weight of the decoder's linear layers, scales included.
        other_parameters: Parameters outside the decoder (a vision tower), at `dtype_bytes`.
    """

    name: str
    architecture: str
    num_hidden_layers: int = number(low=1)
    hidden_size: int = number(low=1)
    intermediate_size: int = number(low=1)
    num_attention_heads: int = number(low=1)
    num_key_value_heads: int = number(low=1)
    head_dim: int = number(low=1)
    vocab_size: int = number(low=1)
    max_position_embeddings: int = number(low=1)
    tie_word_embeddings: bool = plain()
    attention_bias: bool = plain()
    dtype_bytes: int = number(low=1)
    linear_weight_bits: float = number(above=True)
    other_parameters: int = number()

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], name: str | None = None) -> ModelShape:
        """Reads a ``config.json`` (or the folder that holds it).

        Args:
            path: The file, or a folder with a ``config.json``.
            name: What to call the model; otherwise the config's ``_name_or_path`` or its folder.

        Raises:
            InputError: Not a config, an architecture that is not known, a mixture of experts, or a
                size that is missing or not a positive whole number.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "config.json"
        return _Config.read(file).shape(name)

    @property
    def family(self) -> Family:
        """What the model's class fixes; an unknown class counts as Llama's, without embeddings."""
        return FAMILIES.get(self.architecture, Family())

    @property
    def query_size(self) -> int:
        """Outputs of the query projection."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Outputs of the key projection, and of the value's."""
        return self.num_key_value_heads * self.head_dim

    @cached_property
    def linear_layers(self) -> tuple[LinearLayer, ...]:
        """The linear layers of one decoder layer, in the order in which the engine makes them."""
        hidden, wide = self.hidden_size, self.intermediate_size
        qkv, gate_up = (self.query_size, self.kv_size, self.kv_size), (wide, wide)
        if self.family.packed_as_one:
            qkv, gate_up = (sum(qkv),), (sum(gate_up),)  # type: ignore[assignment]
        return (
            LinearLayer("qkv_proj", hidden, qkv),
            LinearLayer("o_proj", self.query_size, (hidden,)),
            LinearLayer("gate_up_proj", hidden, gate_up),
            LinearLayer("down_proj", wide, (hidden,)),
        )

    @property
    def lora_slices(self) -> int:
        """LoRA pairs in one decoder layer: 7 where qkv and gate_up are packed of parts."""
        return sum(len(layer.slices) for layer in self.linear_layers)

    @property
    def lora_expand_blocks(self) -> int:
        """Column tiles that the expand kernels of one decoder layer launch, for each slot.

        A packed layer launches slices x ceil(widest slice / 128): 384 for Llama-3.1-8B, 436 for
        Qwen2.5-7B.
        """
        return sum(
            len(layer.slices) * -(-max(layer.slices) // LORA_TILE) for layer in self.linear_layers
        )

    @property
    def lora_parameters_per_rank(self) -> int:
        """Values of an adapter on all linear layers, for each unit of its rank."""
        return self.num_hidden_layers * sum(
            layer.in_features * len(layer.slices) + sum(layer.slices)
            for layer in self.linear_layers
        )

    @property
    def linear_parameters(self) -> int:
        """Weights of the decoder's linear layers, biases aside."""
        return self.num_hidden_layers * sum(
            layer.in_features * sum(layer.slices) for layer in self.linear_layers
        )

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of lm_head where it is another matrix."""
        matrices = 1 if self.tie_word_embeddings else 2
        return matrices * self.vocab_size * self.hidden_size

    @property
    def vector_parameters(self) -> int:
        """Norms and biases."""
        family = self.family
        bias = self.query_size + 2 * self.kv_size if self.attention_bias else 0
        layer = family.norms * self.hidden_size + family.head_norms * self.head_dim + bias
        return self.num_hidden_layers * layer + self.hidden_size

    @property
    def n_parameters(self) -> int:
        """All parameters."""
        decoder = self.linear_parameters + self.vector_parameters
        return decoder + self.embedding_parameters + self.other_parameters

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights in GPU memory, before any allocator's rounding."""
        unquantised = self.n_parameters - self.linear_parameters
        linear = round(self.linear_parameters * self.linear_weight_bits / 8)
        return linear + unquantised * self.dtype_bytes

    def kv_bytes_per_token(self, kv_cache_dtype: str = "auto") -> int:
        """Bytes of KV that one token takes in all layers.

        Layers with a sliding window count as full: vLLM 0.8.5 allocates them so, and of later
        versions it is the cautious figure.
        """
        element = KV_CACHE_DTYPES[kv_cache_dtype] or self.dtype_bytes
        return int(2 * self.num_hidden_layers * self.kv_size * element)


@dataclass(frozen=True)
class _Config:
    """A parsed config.json and the file's name, for messages."""

    file: str
    whole: Mapping[str, Any]
    text: Mapping[str, Any]
    family: Family

    @classmethod
    def read(cls, file: Path) -> _Config:
        name = os.fspath(file)
        try:
            whole = json.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(name, None, None, f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(name, None, None, f"is not JSON: {error}") from error
        if not isinstance(whole, dict):
            raise InputError(name, None, whole, "give a model's config.json: a JSON object")
        family = FAMILIES[_architecture(whole, name)]
        nested = whole.get("text_config")
        text = {**whole, **nested} if isinstance(nested, dict) else whole
        return cls(name, whole, text, family)

    def shape(self, name: str | None) -> ModelShape:
        hidden = self.size("hidden_size")
        heads = self.size("num_attention_heads")
        return ModelShape(
            name=name or self.name(),
            architecture=self.whole["architectures"][0],
            num_hidden_layers=self.size("num_hidden_layers"),
            hidden_size=hidden,
            intermediate_size=self.size("intermediate_size"),
            num_attention_heads=heads,
            num_key_value_heads=self.size("num_key_value_heads", heads),
            head_dim=self.size("head_dim", hidden // heads),
            vocab_size=self.size("vocab_size"),
            max_position_embeddings=self.longest_sequence(),
            tie_word_embeddings=bool(
                self.text.get("tie_word_embeddings", self.family.ties_embeddings)
            ),
            attention_bias=bool(self.text.get("attention_bias", False)) or self.family.qkv_bias,
            dtype_bytes=self.dtype_bytes(),
            linear_weight_bits=self.linear_weight_bits(),
            other_parameters=self.vision_parameters(hidden),
        )

    def name(self) -> str:
        given = self.whole.get("_name_or_path") or Path(self.file).resolve().parent.name
        return str(given).rstrip("/").rsplit("/", 1)[-1].lower()

    def size(self, key: str, default: int | None = None, within: str = "text") -> int:
        table = self.text if within == "text" else self.whole[within]
        value = table.get(key)
        if value is None:
            value = self.family.defaults.get(key, default) if within == "text" else default
        if value is None:
            raise InputError(self.file, key, None, f"missing: add {key}, a whole number")
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise InputError(self.file, key, value, "give a whole number above 0")
        return value

    def longest_sequence(self) -> int:
        """The engine's default `max_model_len`: positions, stretched by RoPE scaling."""
        positions = self.size("max_position_embeddings")
        scaling = self.text.get("rope_scaling") or {}
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        factor = scaling.get("factor", 1.0)
        if kind == "yarn":
            return int(scaling.get("original_max_position_embeddings", positions) * factor)
        return int(positions * factor) if kind in ("linear", "dynamic") else positions

    def dtype_bytes(self) -> int:
        dtype = self.text.get("torch_dtype") or self.text.get("dtype") or "bfloat16"
        if dtype not in DTYPE_BYTES:
            mend = f"give one of {', '.join(DTYPE_BYTES)}"
            raise InputError(self.file, "torch_dtype", dtype, mend)
        # The engine loads float32 checkpoints in half precision (--dtype auto).
        return min(DTYPE_BYTES[dtype], 2)

    def linear_weight_bits(self) -> float:
        """Bits of a linear weight with its scales and zero points, by the quantisation's kind."""
        quantisation = self.text.get("quantization_config") or {}
        method = quantisation.get("quant_method")
        if not quantisation:
            return 8.0 * self.dtype_bytes()
        if method in ("awq", "gptq"):
            bits = quantisation.get("bits", quantisation.get("w_bit", 4))
            return _grouped_bits(bits, quantisation.get("group_size", 128), scale=16, zero=bits)
        if method == "bitsandbytes":
            return 8.0 if quantisation.get("load_in_8bit") else _grouped_bits(4, 64, scale=32)
        if method == "fp8":
            block = quantisation.get("weight_block_size")
            return 8.0 + (32.0 / (block[0] * block[1]) if block else 0.0)
        if method == "compressed-tensors":
            return self._compressed_bits(quantisation)
        if method == "modelopt":
            algorithm = str(quantisation.get("quant_algo", "FP8")).upper()
            return _grouped_bits(4, 16, scale=8) if algorithm == "NVFP4" else 8.0
        known = "awq, gptq, fp8, bitsandbytes, compressed-tensors, modelopt"
        place = "quantization_config quant_method"
        raise InputError(self.file, place, method, f"known are: {known}")

    def _compressed_bits(self, quantisation: Mapping[str, Any]) -> float:
        groups = list((quantisation.get("config_groups") or {}).values())
        weights = groups[0].get("weights") if groups else None
        if not weights or not isinstance(weights.get("num_bits"), int):
            place = "quantization_config config_groups"
            raise InputError(self.file, place, None, "missing: give weights.num_bits of a group")
        return _grouped_bits(weights["num_bits"], weights.get("group_size"), scale=16)

    def vision_parameters(self, hidden: int) -> int:
        """Parameters of a SigLIP vision tower and its projector, where the config nests one."""
        if not isinstance(self.whole.get("vision_config"), dict):
            return 0
        width = self.size("hidden_size", within="vision_config")
        wide = self.size("intermediate_size", within="vision_config")
        layers = self.size("num_hidden_layers", within="vision_config")
        patch = self.size("patch_size", 14, within="vision_config")
        image = self.size("image_size", 896, within="vision_config")
        attention = 4 * (width * width + width)
        feed_forward = 2 * width * wide + wide + width
        embedding = width * 3 * patch**2 + width + (image // patch) ** 2 * width
        tower = layers * (attention + feed_forward + 4 * width) + embedding + 2 * width
        return tower + width * hidden + width


def _architecture(config: Mapping[str, Any], file: str) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InputError(file, "architectures", names, "give a list with the model's class name")
    nested = config.get("text_config")
    text = {**config, **nested} if isinstance(nested, dict) else config
    for key in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"):
        if text.get(key):
            mend = (
                "give a dense model: a mixture of experts has a LoRA pair an expert and reads only "
                "the chosen experts' weights, which neither the memory rule nor the step time knows"
            )
            raise InputError(file, key, text[key], mend)
    if names[0] not in FAMILIES:
        raise InputError(file, "architectures", names[0], did_you_mean(names[0], FAMILIES))
    return names[0]


def _grouped_bits(
    bits: float, group_size: int | None, *, scale: float = 0.0, zero: float = 0.0
) -> float:
    """Bits a weight where each group of ``group_size`` shares a scale and a zero point."""
    shared = (scale + zero) / group_size if group_size and group_size > 0 else 0.0
    return bits + shared
