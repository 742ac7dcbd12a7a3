"""The one memory rule: how many KV tokens an engine is left with, or why it does not start.

Before it serves, vLLM loads the weights and makes all LoRA slots, runs one dummy step to see the
peak of memory, and gives what is left of ``gpu_memory_utilization`` to the KV cache::

    KV = memory x utilization - reserved - peak - block tables - other

``reserved`` is what the caching allocator holds for weights and slots (`tensors.py`), ``peak`` the
largest transient of the dummy step, ``other`` (CUDA context, libraries, workspaces) the one fitted
constant: 0.93 GiB for both models measured. It refuses to start, in this order, when

1. ``cuda_out_of_memory``: weights, slots and the peak exceed the card;
2. ``no_cache_blocks``: nothing is left for a block of KV;
3. ``max_model_len``: one sequence of ``max_model_len`` does not fit in the KV left;
4. ``cuda_out_of_memory``: CUDA graphs, captured last, exceed what the KV cache left of the card.

Each refusal comes with its mends, cheapest first, every one proven by asking the rule again.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lorapack.fleet.adapter import MAX_LORA_RANKS
from lorapack.profile import tensors
from lorapack.profile.model_shape import KV_CACHE_DTYPES, ModelShape
from lorapack.profile.section import number

GIB = 2**30

CUDA_OUT_OF_MEMORY = "cuda_out_of_memory"
NO_CACHE_BLOCKS = "no_cache_blocks"
MAX_MODEL_LEN = "max_model_len"

SHORTEST_MODEL_LEN = 1024
"""A `max_model_len` below this is no mend: hardly a request would fit."""

GRAPHS_WITHIN_UTILIZATION = ("vllm-0.33",)
"""Rule sets of the versions that take an estimate of the CUDA graphs off the KV cache."""


@dataclass(frozen=True)
class Memory:
    """What memory cannot be had from first principles.

    Attributes:
        other_gib: Taken besides weights, slots, the peak and KV: CUDA context, libraries,
            workspaces. The one fitted constant.
        cuda_graphs_gib: Taken by CUDA graphs, captured once the KV cache is made.
    """

    other_gib: float = number()
    cuda_graphs_gib: float = number()


@dataclass(frozen=True)
class MemoryCase:
    """An engine about to start on one GPU: all that its memory depends on.

    Attributes:
        model: The model.
        rule_set: The engine version's rule set.
        memory: The fitted constants.
        gpu_memory_gib: Memory that PyTorch sees.
        gpu_memory_utilization: Share of it that the engine may take.
        max_loras: LoRA slots; 0: LoRA is off.
        max_lora_rank: Rank for which the slots are made.
        max_model_len: Longest sequence, tokens.
        max_num_seqs: Requests that may run at once.
        max_num_batched_tokens: Tokens a step may hold.
        block_size: Tokens a KV block.
        kv_cache_dtype: Type of a KV element, as the engine's flag has it.
    """

    model: ModelShape
    rule_set: str
    memory: Memory
    gpu_memory_gib: float
    gpu_memory_utilization: float
    max_loras: int
    max_lora_rank: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    kv_cache_dtype: str

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block."""
        return self.block_size * self.model.kv_bytes_per_token(self.kv_cache_dtype)

    @property
    def loaded(self) -> tensors.Loaded:
        """What weights and slots take."""
        return tensors.load(self.model, self.rule_set, self.max_loras, self.max_lora_rank)

    @property
    def peak_bytes(self) -> int:
        """The largest transient of the dummy step: sampling, or one layer's activations.

        Sampling ``max_num_seqs`` rows holds the logits once in the model's dtype and three times in
        float32 (a copy, the probabilities, the exponential noise); a forward pass of
        ``max_num_batched_tokens`` holds gate, up and their product, and two residual streams.
        """
        model = self.model
        rows = min(self.max_num_seqs, self.max_num_batched_tokens)
        extra = tensors.extra_vocabulary(model, self.rule_set, self.max_loras)
        logits = rows * (model.vocab_size + extra) * (model.dtype_bytes + 3 * 4)
        hidden = self.max_num_batched_tokens * model.hidden_size * model.dtype_bytes
        wide = self.max_num_batched_tokens * model.intermediate_size * model.dtype_bytes
        return hidden + max(logits, hidden + 3 * wide)

    @property
    def block_table_bytes(self) -> int:
        """The table of KV blocks of every request that may run (int32)."""
        return self.max_num_seqs * -(-self.max_model_len // self.block_size) * 4

    @property
    def taken_bytes(self) -> float:
        """All that is taken before KV, within the utilisation."""
        taken = self.loaded.reserved_bytes + self.peak_bytes + self.block_table_bytes
        return taken + self.memory.other_gib * GIB

    @property
    def graphs_bytes_within(self) -> float:
        """CUDA graphs that the engine takes off the KV cache, by its version."""
        within = self.rule_set in GRAPHS_WITHIN_UTILIZATION
        return self.memory.cuda_graphs_gib * GIB if within else 0.0

    @property
    def graphs_overflow_bytes(self) -> float:
        """By how much CUDA graphs exceed the card when captured beside a full KV cache.

        The dummy step's transient is free again by then.
        """
        graphs = self.memory.cuda_graphs_gib * GIB
        free = self.gpu_memory_gib * GIB - self.taken_bytes - max(0.0, self.kv_cache_bytes)
        return graphs - free - self.peak_bytes

    @property
    def kv_cache_bytes(self) -> float:
        """What is left for KV; negative where the rest takes more than the utilisation allows."""
        allowed = self.gpu_memory_gib * GIB * self.gpu_memory_utilization
        return allowed - self.taken_bytes - self.graphs_bytes_within


@dataclass(frozen=True)
class Mend:
    """One change of one setting with which the engine starts.

    Attributes:
        setting: The engine's name of the setting.
        value: What to set it to.
        kv_cache_tokens: KV capacity then, tokens.
        words: What it costs, for people.
    """

    setting: str
    value: int | float | str
    kv_cache_tokens: int
    words: str

    @property
    def flag(self) -> str:
        """The engine's command-line flag."""
        return f"--{self.setting.replace('_', '-')} {self.value}"


@dataclass(frozen=True)
class MemoryPlan:
    """The answer of the memory rule.

    Attributes:
        case: What was asked.
        refusal: Why the engine would not start: ``cuda_out_of_memory``, ``no_cache_blocks`` or
            ``max_model_len``; ``None`` if it starts.
        num_blocks: KV blocks, the null block included; 0 where none are left.
        parts_gib: Where each GiB of the card goes; the parts sum to its memory unless it is
            exceeded.
    """

    case: MemoryCase
    refusal: str | None
    num_blocks: int
    parts_gib: Mapping[str, float]

    @property
    def starts(self) -> bool:
        """Whether the engine starts."""
        return self.refusal is None

    @property
    def kv_cache_tokens(self) -> int:
        """Tokens of KV cache, the null block's included; 0 where no block is left."""
        return self.num_blocks * self.case.block_size

    @property
    def mends(self) -> tuple[Mend, ...]:
        """What would make the engine start, cheapest first; nothing if it does."""
        return () if self.starts else _mends(self.case)

    def host_gib(self, ranks: Iterable[int]) -> float:
        """Pinned host memory of adapters in the CPU cache, each at its own rank.

        Args:
            ranks: One rank an adapter held.
        """
        return host_bytes(self.case.model, ranks) / GIB


@functools.lru_cache(maxsize=65536)
def plan(case: MemoryCase) -> MemoryPlan:
    """Applies the memory rule.

    Args:
        case: The engine about to start.
    """
    num_blocks = max(0, int(case.kv_cache_bytes // case.block_bytes))
    return MemoryPlan(case, _refusal(case, num_blocks), num_blocks, _parts_gib(case, num_blocks))


def _refusal(case: MemoryCase, num_blocks: int) -> str | None:
    if case.taken_bytes > case.gpu_memory_gib * GIB:
        return CUDA_OUT_OF_MEMORY
    if num_blocks == 0:
        return NO_CACHE_BLOCKS
    if num_blocks * case.block_size < case.max_model_len:
        return MAX_MODEL_LEN
    return CUDA_OUT_OF_MEMORY if case.graphs_overflow_bytes > 0 else None


def _parts_gib(case: MemoryCase, num_blocks: int) -> Mapping[str, float]:
    loaded, bare = case.loaded, replace(case, max_loras=0, max_lora_rank=0).loaded
    parts = {
        "weights": bare.allocated_bytes / GIB,
        "lora_slots": (loaded.allocated_bytes - bare.allocated_bytes) / GIB,
        "fragmentation": (loaded.reserved_bytes - loaded.allocated_bytes) / GIB,
        "activations": case.peak_bytes / GIB,
        "other": case.memory.other_gib + case.block_table_bytes / GIB,
        "kv_cache": num_blocks * case.block_bytes / GIB,
        "cuda_graphs": case.memory.cuda_graphs_gib,
    }
    parts["unused"] = max(0.0, case.gpu_memory_gib - sum(parts.values()))
    return MappingProxyType(parts)


def host_bytes(model: ModelShape, ranks: Iterable[int]) -> int:
    """Pinned host memory of adapters in the CPU cache, at their own rank on all linear layers.

    Args:
        model: The served model.
        ranks: One rank an adapter held.
    """
    return model.lora_parameters_per_rank * model.dtype_bytes * sum(ranks)


def _mends(case: MemoryCase) -> tuple[Mend, ...]:
    candidates = (
        _shorter_sequences(case),
        _fewer_slots(case),
        _rank_class(case),
        _smaller_kv(case),
        _less_utilization(case),
    )
    return tuple(mend for mend in candidates if mend is not None)


def _mend(case: MemoryCase, setting: str, value: float | str, words: str) -> Mend | None:
    """The change as a mend, if the rule lets the engine start with it."""
    changed: dict[str, Any] = {setting: value}
    answer = plan(replace(case, **changed))
    return Mend(setting, value, answer.kv_cache_tokens, words) if answer.starts else None


def _shorter_sequences(case: MemoryCase) -> Mend | None:
    """The largest `max_model_len` that fits; a shorter one has a smaller block table, too."""
    length = min(plan(case).kv_cache_tokens, case.max_model_len)
    if length < SHORTEST_MODEL_LEN:
        return None
    longer = min(plan(replace(case, max_model_len=length)).kv_cache_tokens, case.max_model_len)
    if plan(replace(case, max_model_len=longer)).starts:
        length = longer
    return _mend(case, "max_model_len", length, "longer requests are refused; costs nothing else")


def _fewer_slots(case: MemoryCase) -> Mend | None:
    low, high = 0, case.max_loras
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if plan(replace(case, max_loras=middle)).starts else (low, middle)
        )
    if low == 0:
        return None
    return _mend(case, "max_loras", low, "fewer adapters in a batch; the others wait their turn")


def _rank_class(case: MemoryCase) -> Mend | None:
    """The largest smaller rank: adapters above it go to engines of their own."""
    if case.max_loras == 0:
        return None
    for rank in sorted((r for r in MAX_LORA_RANKS if r < case.max_lora_rank), reverse=True):
        mend = _mend(
            case, "max_lora_rank", rank, f"adapters above rank {rank} on engines of their own"
        )
        if mend is not None:
            return mend
    return None


def _smaller_kv(case: MemoryCase) -> Mend | None:
    if KV_CACHE_DTYPES[case.kv_cache_dtype] == 1:
        return None
    return _mend(case, "kv_cache_dtype", "fp8", "half the bytes a KV token; check the answers")


def _less_utilization(case: MemoryCase) -> Mend | None:
    """The share that leaves room for the CUDA graphs, where it is they that do not fit."""
    if case.graphs_overflow_bytes <= 0 or case.kv_cache_bytes <= 0:
        return None
    surplus = case.graphs_overflow_bytes / (case.gpu_memory_gib * GIB)
    share = math.floor((case.gpu_memory_utilization - surplus) * 100) / 100
    return _mend(case, "gpu_memory_utilization", share, "leaves room for the CUDA graphs")


def fit_other_gib(measured: Iterable[tuple[MemoryCase, int]]) -> float:
    """Fits the constant ``other_gib`` to measured capacities.

    A capacity of ``n`` blocks says that the constant lies within one block's width; the middle of
    the range on which most measurements agree is taken.

    Args:
        measured: Engines that started, and their ``kv_cache_tokens``; their own ``other_gib`` is
            ignored.

    Raises:
        ValueError: Nothing was measured.
    """
    edges: list[tuple[float, int]] = []
    for case, kv_cache_tokens in measured:
        bare = replace(case, memory=replace(case.memory, other_gib=0.0))
        most = bare.kv_cache_bytes - kv_cache_tokens // case.block_size * case.block_bytes
        edges += [(most - case.block_bytes, 1), (most, -1)]
    if not edges:
        raise ValueError("no capacity was measured")
    return max(0.0, _most_agreed(sorted(edges)) / GIB)


def _most_agreed(edges: list[tuple[float, int]]) -> float:
    """The middle of the range that most of the intervals share, from their sorted edges."""
    held, best, middle = 0, 0, 0.0
    for (edge, step), (following, _) in itertools.pairwise(edges):
        held += step
        if held > best:
            best, middle = held, (edge + following) / 2
    return middle
