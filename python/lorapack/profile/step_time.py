"""What one engine step costs, from the batch's shape: the physical form, and its tables.

The form (milliseconds; ``M`` tokens in the step, padded to the CUDA-graph sizes)::

    (fixed + eager [M > largest graph] + request x requests + gemm(M) + context_token x context
      + L(M) + skipped x skipped + waiting x waiting) x (1 + arrival x offered requests a ms)

    gemm(M) = (weights^2 + (token M)^2)^(1/2)          weights read once, or compute: the longer
    L(M)    = lora_fixed + lora_block x blocks(M) x (max_loras + 1) + lora_token M
              + distinct adapters x (adapter(M) + adapter_lookup x max_cpu_loras)
              + (lora_mapping + lora_mapping_request x requests) [new batch]
                                                       with LoRA on (max_loras > 0)

``blocks(M)`` counts the thread blocks that the LoRA kernels of vLLM 0.8.5 launch for *each slot,
used or not* (grid sizes and tiles of its Triton shrink and expand kernels; both kinds cost the same
when idle), which is why idle slots slow a GPU down. A block that has work costs some 25 times as
much: ``adapter(M)`` is one adapter's tiles of the expand kernel, and of the shrink kernel, which
splits its sum over 64 blocks in small batches and over 8 in large ones, once for each 16 of the
slots' rank. An adapter's blocks beyond its own tokens end early, too, but only once they have read
how many tokens it has, which those of an empty slot do not: ``adapter_block`` for each of its
expand kernels' blocks, whose number grows with all the tokens of the step. ``adapter_lookup`` is
the engine's own Python: for every adapter of a batch it copies the list of all that its CPU cache
holds (``list_adapters`` in vllm/lora/worker_manager.py). ``lora_mapping`` is too: in every step
whose batch is not one more token of each request of the step before, the tokens' slots are worked
out anew (``update_metadata`` in vllm/lora/punica_wrapper, behind the comparison with the last
mapping in ``set_adapter_mapping``). The step logs show it: the first step of a closed loop's round
is longer than the next ones, which are otherwise the same, by a constant and by request; with LoRA
off it is not.

The engine of the twin knows no floats: :meth:`StepTime.tables` rounds every price to picoseconds
once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorapack.profile.model_shape import ModelShape
from lorapack.profile.section import derived, number

PICOSECONDS_PER_MS = 1e9

ROOFLINE_SHARPNESS = 2
"""Exponent that joins the two sides of the roofline: 41 % above the longer one where they meet.

Matrix products of a few hundred tokens are neither bound by memory nor efficient at computing."""

SMALL_BATCH_TOKENS = 128
"""Below it the shrink kernel splits its sum over 64 blocks, from it on over 8."""

SMALL_BATCH_SPLIT, LARGE_BATCH_SPLIT = 64, 8
"""Blocks over which the shrink kernel splits its sum."""

RANK_TILE = 16
"""Ranks that one block of the shrink kernel covers."""


@dataclass(frozen=True)
class StepTables:
    """Prices of a step in whole picoseconds, as the twin adds them up.

    Attributes:
        base: By tokens in the step, 0..=`max_num_batched_tokens`: all that depends on tokens alone.
        distinct_adapter: By tokens in the step: one distinct adapter in the batch.
        request_ps: One request scheduled.
        context_token_ps: One token of KV that was there before the step and is read in it.
        mixed_context_token_ps: The same, in a step that also has a request with several tokens.
        attention_pair_ps: One (query, key) pair of a prefill chunk's attention.
        skipped_ps: One waiting request passed over because its adapter had no slot.
        waiting_ps: One request left waiting.
        mapping_ps: A batch that is not one more token of each request of the step before.
        mapping_request_ps: Further, for each of its requests.
    """

    base: NDArray[np.uint64]
    distinct_adapter: NDArray[np.uint64]
    request_ps: int
    context_token_ps: int
    mixed_context_token_ps: int
    attention_pair_ps: int
    skipped_ps: int
    waiting_ps: int
    mapping_ps: int
    mapping_request_ps: int


@dataclass(frozen=True)
class StepTime:
    """The constants of the form in this module's first lines; each key names its unit.

    Attributes:
        fixed_ms: Scheduler, launch and sampling of a step, whatever its batch.
        eager_ms: Further, where the step is larger than the largest CUDA graph.
        request_ms: A request scheduled (its sampling, its rows of the batch's tables).
        weights_ms: Reading the weights once.
        token_ms: Computing one token, where compute is the longer side.
        context_token_ms: Reading the KV of one context token, in a step of decodes alone.
        mixed_context_token_ms: The same in a step that also has tokens of prompts: the attention
            kernel then computes a whole tile of queries (64 or 128) for the one of each decode.
        attention_tflops: Rate at which prefill attention runs, for the price of a pair.
        lora_fixed_ms: LoRA switched on.
        lora_block_ns: One thread block of a LoRA expand kernel, launched for each slot.
        lora_token_ms: One token through the LoRA kernels.
        adapter_ms: One distinct adapter in the batch: its tiles of the expand kernels.
        adapter_rank_ms: Further, for each unit of `max_lora_rank`.
        adapter_small_batch_ms: Further, for each 16 of `max_lora_rank`, in a batch below 128
            tokens: its tiles of the shrink kernels; an eighth of that in a larger batch.
        adapter_block_ns: Further, for each of its blocks of the expand kernels.
        adapter_lookup_ns: Further, for each adapter that the CPU cache holds.
        lora_mapping_ms: Mapping tokens to slots anew, in a new batch.
        lora_mapping_request_ms: Further, for each request of that batch.
        skipped_ms: One waiting request passed over for lack of a slot.
        waiting_ms: One request left waiting.
        arrival_ms: CPU time that a request offered takes from the engine (clients and API server
            share its host), admitted or not: steps are longer by that share.
        cuda_graph_max_tokens: The largest CUDA graph captured; 0: every step is eager.
        model: The served model's shape, from the profile's ``[model]``.
    """

    fixed_ms: float = number()
    eager_ms: float = number()
    request_ms: float = number()
    weights_ms: float = number()
    token_ms: float = number()
    context_token_ms: float = number()
    mixed_context_token_ms: float = number()
    attention_tflops: float = number(above=True)
    lora_fixed_ms: float = number()
    lora_block_ns: float = number()
    lora_token_ms: float = number()
    adapter_ms: float = number()
    adapter_rank_ms: float = number()
    adapter_small_batch_ms: float = number()
    adapter_block_ns: float = number()
    adapter_lookup_ns: float = number()
    lora_mapping_ms: float = number()
    lora_mapping_request_ms: float = number()
    skipped_ms: float = number()
    waiting_ms: float = number()
    arrival_ms: float = number()
    cuda_graph_max_tokens: int = number()
    model: ModelShape = derived()  # noqa: RUF009 - makes a field, as `number` does

    @functools.lru_cache(maxsize=256)  # noqa: B019 - frozen and hashed by value, bounded
    def tables(
        self,
        max_loras: int,
        max_lora_rank: int,
        max_num_batched_tokens: int,
        cpu_loras: int = 0,
        offered_rps: float = 0.0,
    ) -> StepTables:
        """Prices by batch shape for one engine setting.

        Args:
            max_loras: LoRA slots; 0: LoRA is off.
            max_lora_rank: Rank for which the slots are made; not read when LoRA is off.
            max_num_batched_tokens: Largest number of tokens in a step.
            cpu_loras: Adapters that the CPU cache holds.
            offered_rps: Requests offered, a second.

        Returns:
            Tables with ``max_num_batched_tokens + 1`` entries; a step of no tokens costs
            ``fixed_ms`` alone, as it runs no model.
        """
        tokens = np.arange(max_num_batched_tokens + 1)
        base_ms = self.base_ms(tokens, max_loras, max_lora_rank)
        adapter_ms = self.distinct_adapter_ms(tokens, max_loras, max_lora_rank, cpu_loras)
        stretch = self.stretch(offered_rps)
        base = _picoseconds(base_ms * stretch)
        distinct_adapter = _picoseconds(adapter_ms * stretch)
        lora = stretch if max_loras > 0 else 0.0
        base.flags.writeable = distinct_adapter.flags.writeable = False
        return StepTables(
            base=base,
            distinct_adapter=distinct_adapter,
            request_ps=_whole_picoseconds(self.request_ms * stretch),
            context_token_ps=_whole_picoseconds(self.context_token_ms * stretch),
            mixed_context_token_ps=_whole_picoseconds(self.mixed_context_token_ms * stretch),
            attention_pair_ps=_whole_picoseconds(self.attention_pair_ms * stretch),
            skipped_ps=_whole_picoseconds(self.skipped_ms * stretch),
            waiting_ps=_whole_picoseconds(self.waiting_ms * stretch),
            mapping_ps=_whole_picoseconds(self.lora_mapping_ms * lora),
            mapping_request_ps=_whole_picoseconds(self.lora_mapping_request_ms * lora),
        )

    def stretch(self, offered_rps: float) -> float:
        """Factor on every step where so many requests a second are offered."""
        return 1 + self.arrival_ms * 1e-3 * offered_rps

    @property
    def attention_pair_ms(self) -> float:
        """One (query, key) pair of prefill attention, from first principles.

        Two products of ``head_dim`` multiply-adds a head and layer: 4 x heads x head_dim x layers
        floating-point operations a pair.
        """
        model = self.model
        flop = 4 * model.num_attention_heads * model.head_dim * model.num_hidden_layers
        return flop / (self.attention_tflops * 1e12) * 1e3

    def base_ms(
        self, tokens: NDArray[np.int64], max_loras: int, max_lora_rank: int
    ) -> NDArray[np.float64]:
        """The part of a step's time that depends on its tokens and the engine's setting alone."""
        padded = self.padded_tokens(tokens)
        gemm = (
            self.weights_ms**ROOFLINE_SHARPNESS + (self.token_ms * padded) ** ROOFLINE_SHARPNESS
        ) ** (1 / ROOFLINE_SHARPNESS)
        time = self.fixed_ms + self.eager_ms * self._is_eager(padded) + gemm
        if max_loras > 0:
            launched = self.lora_blocks(padded, max_lora_rank) * (max_loras + 1)
            time = time + self.lora_fixed_ms + self.lora_token_ms * padded
            time = time + self.lora_block_ns * 1e-6 * launched
        return np.where(tokens > 0, time, self.fixed_ms)

    def distinct_adapter_ms(
        self,
        tokens: NDArray[np.int64],
        max_loras: int,
        max_lora_rank: int,
        cpu_loras: float | NDArray[np.float64] = 0,
    ) -> NDArray[np.float64]:
        """The price of one distinct adapter in the batch, by the step's tokens."""
        padded = self.padded_tokens(tokens)
        if max_loras == 0:
            return np.zeros(padded.shape)
        split = self._shrink_split(padded) / SMALL_BATCH_SPLIT
        shrink = self.adapter_small_batch_ms * split * _tiles(max_lora_rank)
        blocks = self.adapter_block_ns * 1e-6 * self._expand_blocks(padded)
        lookup = self.adapter_lookup_ns * 1e-6 * cpu_loras
        return self.adapter_ms + self.adapter_rank_ms * max_lora_rank + shrink + blocks + lookup

    def padded_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens as computed: up to a CUDA graph's size (1, 2, 4, multiples of 8), eager as is."""
        graph = np.where(tokens <= 2, tokens, np.where(tokens <= 4, 4, -(-tokens // 8) * 8))
        return np.where(graph <= self.cuda_graph_max_tokens, graph, tokens)

    def lora_blocks(
        self, padded_tokens: NDArray[np.int64], max_lora_rank: int
    ) -> NDArray[np.float64]:
        """Thread blocks that the LoRA kernels launch for one slot."""
        model = self.model
        split = self._shrink_split(padded_tokens)
        shrink = split * -(-padded_tokens // 32) * _tiles(max_lora_rank) * model.lora_slices
        blocks = shrink * model.num_hidden_layers + self._expand_blocks(padded_tokens)
        return np.asarray(blocks, dtype=np.float64)

    def _expand_blocks(self, padded_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        model = self.model
        return -(-padded_tokens // 64) * model.lora_expand_blocks * model.num_hidden_layers

    def _shrink_split(self, padded_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        small = padded_tokens < SMALL_BATCH_TOKENS
        return np.where(small, SMALL_BATCH_SPLIT, LARGE_BATCH_SPLIT)

    def _is_eager(self, padded_tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(padded_tokens > self.cuda_graph_max_tokens)


def _tiles(max_lora_rank: int) -> int:
    return -(-max_lora_rank // RANK_TILE)


def _picoseconds(milliseconds: NDArray[np.float64]) -> NDArray[np.uint64]:
    return np.rint(milliseconds * PICOSECONDS_PER_MS).astype(np.uint64)


def _whole_picoseconds(milliseconds: float) -> int:
    return round(milliseconds * PICOSECONDS_PER_MS)
