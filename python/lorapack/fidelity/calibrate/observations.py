"""What a measurement says of the step time: shapes of steps, and the milliseconds they took.

A row of :class:`Observations` is one measured time, and the shape of the step (or the mean shape of
the many steps) behind it. The price of a step is linear in all of a shape but its tokens, so a row
keeps *how many* steps there were of each token count (a histogram), and means of the rest: any
table of prices by tokens can then be tried against it without going back to the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from lorapack.profile.step_time import StepTime

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Observations:
    """Rows of measured step times and the shapes behind them.

    Attributes:
        tokens: Share of the row's steps by tokens in the step, one column a token count.
        adapters: The same, each step times the distinct adapters in it.
        max_loras: LoRA slots; 0: LoRA off.
        max_lora_rank: Rank the slots are made for.
        cpu_loras: Adapters in the CPU cache.
        requests: Mean requests scheduled in a step.
        context_tokens: Mean KV tokens read in steps of decodes alone (zero in the others).
        mixed_context_tokens: The same in steps that also have tokens of prompts.
        attention_pairs: Mean (query, key) pairs of prefill chunks.
        skipped: Mean waiting requests passed over.
        waiting: Mean requests left waiting.
        new_batches: Share of the steps whose batch is not that of the step before.
        new_requests: Mean requests in those steps, the others counted as none.
        logged: 1 where the engine also wrote a log of the adapters in each step, which takes time.
        offered_rps: Requests offered, a second: the CPU that they take stretches the step.
        load_ms: Mean time spent bringing adapters in, milliseconds.
        measured_ms: Time of a step, milliseconds.
        gain: By how much the logarithm of what was measured moves with that of the step time
            (1 for a step's own time; the feedback of load on batch size makes it other than 1).
        weight: Weight of the row's squared relative error.
        source: Where the row comes from; errors are reported by it.
    """

    tokens: sparse.csr_matrix
    adapters: sparse.csr_matrix
    max_loras: NDArray[np.int64]
    max_lora_rank: NDArray[np.int64]
    cpu_loras: Floats
    requests: Floats
    context_tokens: Floats
    mixed_context_tokens: Floats
    attention_pairs: Floats
    skipped: Floats
    waiting: Floats
    new_batches: Floats
    new_requests: Floats
    logged: Floats
    offered_rps: Floats
    load_ms: Floats
    measured_ms: Floats
    gain: Floats
    weight: Floats
    source: NDArray[np.str_]

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.measured_ms.size)

    def rows(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> Observations:
        """Some of the rows, as chosen by a mask or by their numbers."""
        return Observations(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def predicted_ms(self, step_time: StepTime, logging_ms: float = 0.0) -> Floats:
        """Mean step time of each row under the given constants, loads included, milliseconds.

        Args:
            step_time: The constants.
            logging_ms: What writing the log of a step took.
        """
        time = (
            step_time.request_ms * self.requests
            + step_time.context_token_ms * self.context_tokens
            + step_time.mixed_context_token_ms * self.mixed_context_tokens
            + step_time.attention_pair_ms * self.attention_pairs
            + step_time.skipped_ms * self.skipped
            + step_time.waiting_ms * self.waiting
        )
        mapping = (
            step_time.lora_mapping_ms * self.new_batches
            + step_time.lora_mapping_request_ms * self.new_requests
        )
        time += np.where(self.max_loras > 0, mapping, 0.0)
        count = np.arange(self.tokens.shape[1])
        lookup = step_time.adapter_lookup_ns * 1e-6 * self.cpu_loras
        for slots, rank in sorted(set(zip(self.max_loras, self.max_lora_rank, strict=True))):
            here = (self.max_loras == slots) & (self.max_lora_rank == rank)
            base = step_time.base_ms(count, int(slots), int(rank))
            adapter = step_time.distinct_adapter_ms(count, int(slots), int(rank))
            adapters = self.adapters[here]
            time[here] += self.tokens[here] @ base + adapters @ adapter
            if slots > 0:
                time[here] += lookup[here] * np.asarray(adapters.sum(axis=1)).ravel()
        stretch = 1 + step_time.arrival_ms * 1e-3 * self.offered_rps
        return np.asarray(time * stretch + self.load_ms + logging_ms * self.logged)


def concatenated(parts: list[Observations]) -> Observations:
    """All rows of several sets, in order."""
    columns = {}
    for field in fields(Observations):
        values = [getattr(part, field.name) for part in parts]
        if field.name in ("tokens", "adapters"):
            columns[field.name] = sparse.csr_matrix(sparse.vstack(values, format="csr"))
        else:
            columns[field.name] = np.concatenate(values)
    return Observations(**columns)


def single_steps(
    *,
    tokens: NDArray[np.int64],
    adapters: Floats,
    max_loras: NDArray[np.int64],
    max_lora_rank: NDArray[np.int64],
    cpu_loras: Floats,
    requests: Floats,
    context_tokens: Floats,
    measured_ms: Floats,
    weight: Floats,
    source: str,
    max_tokens: int,
    attention_pairs: Floats | None = None,
    load_ms: Floats | None = None,
    waiting: Floats | None = None,
    skipped: Floats | None = None,
    new_batches: Floats | None = None,
    logged: Floats | None = None,
) -> Observations:
    """Rows that are one shape of step each.

    Args:
        tokens: Tokens in the step.
        adapters: Distinct adapters in it.
        max_loras: LoRA slots.
        max_lora_rank: Rank of the slots.
        cpu_loras: Adapters in the CPU cache.
        requests: Requests scheduled.
        context_tokens: KV tokens read.
        measured_ms: What it took, milliseconds.
        weight: Weight of the row.
        source: Name of the data.
        max_tokens: Largest token count of any step, which fixes the width of the histograms.
        attention_pairs: Pairs of prefill attention; none where left out.
        load_ms: Loads, milliseconds; none where left out.
        waiting: Requests left waiting; none where left out.
        skipped: Of those, the ones passed over; none where left out.
        new_batches: 1 where the batch is not that of the step before; none is where left out.
        logged: 1 where the adapters of each step were logged; none were where left out.
    """
    n = tokens.size
    rows = np.arange(n)
    shape = (n, max_tokens + 1)
    none = np.zeros(n)
    mixed = tokens > requests

    def given(values: Floats | None) -> Floats:
        return none if values is None else values

    return Observations(
        tokens=sparse.csr_matrix((np.ones(n), (rows, tokens)), shape=shape),
        adapters=sparse.csr_matrix((adapters.astype(np.float64), (rows, tokens)), shape=shape),
        max_loras=max_loras,
        max_lora_rank=max_lora_rank,
        cpu_loras=cpu_loras,
        requests=requests,
        context_tokens=np.where(mixed, 0.0, context_tokens),
        mixed_context_tokens=np.where(mixed, context_tokens, 0.0),
        attention_pairs=given(attention_pairs),
        skipped=given(skipped),
        waiting=given(waiting),
        new_batches=given(new_batches),
        new_requests=given(new_batches) * requests,
        logged=given(logged),
        offered_rps=none,
        load_ms=given(load_ms),
        measured_ms=measured_ms,
        gain=np.ones(n),
        weight=weight,
        source=np.full(n, source),
    )
