"""A profile from step recordings of one engine (``NAME_steps.csv.gz`` and its two companions).

What a recording times by itself is taken from there: the scheduler's time for a waiting request, a
read from disk, a copy into a slot. The rest of a step is priced by non-negative least squares of
*relative* errors: a step's noise is a share of it (some 5 %, whether it takes 12 ms or 90), and if
long steps counted for more, they alone would decide what a short one costs. Means, not medians,
since what a replay must get right is their sum. One profile describes one LoRA kernel, so only
recordings whose settings say ``grouped`` are fitted; the others are reported as residuals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import nnls

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.recorded_run import WORK, Floats, Recording, each_left_out
from lorapack.profile.adapter_loading import AdapterLoading
from lorapack.profile.front_end import FrontEnd
from lorapack.profile.gpu import Gpu
from lorapack.profile.lengths import Lengths, Marginal
from lorapack.profile.model_shape import ModelShape
from lorapack.profile.profile import EngineDefaults, Price, Profile, Provenance, Uncertainty
from lorapack.profile.step_time import StepTime

REWEIGHTINGS = 10
"""Rounds in which each step is weighed by what the last round says it costs; three settle it."""

MODEL = ModelShape(
    name="tiny-llama",
    architecture="LlamaForCausalLM",
    num_hidden_layers=8,
    hidden_size=512,
    intermediate_size=1376,
    num_attention_heads=8,
    num_key_value_heads=8,
    head_dim=64,
    vocab_size=32000,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
    attention_bias=False,
    dtype_bytes=4,
    linear_weight_bits=32.0,
    other_parameters=0,
)
"""The toy model of the recordings at hand; the fit reads nothing of it, a file may not lack it."""

INSTANT_TFLOPS = 1000.0
"""Prefill attention whose time is all in the tokens' price: adds next to none."""


@dataclass(frozen=True)
class RecordedPrices:
    """What a step's parts cost, milliseconds a unit.

    Attributes:
        work: By :data:`~lorapack.fidelity.calibrate.recorded_run.WORK`; `disk_loads` is what the
            first step of an adapter costs besides reading it.
        skipped_ms: A waiting request that the scheduler passed over.
        waiting_ms: A waiting request, passed over or not.
        disk_load_ms: Reading an adapter from disk, by its own timer.
        gpu_load_ms: Copying an adapter into a slot, by its own timer.
    """

    work: Mapping[str, float]
    skipped_ms: float
    waiting_ms: float
    disk_load_ms: float
    gpu_load_ms: float

    def step_ms(self, recording: Recording) -> Floats:
        """What each step of a recording should have taken, its loads as they were timed."""
        prices = np.array([self.work[unit] for unit in WORK])
        skipped, waiting = recording.queue()
        queue = self.skipped_ms * skipped + self.waiting_ms * waiting
        return np.asarray(recording.work() @ prices + queue + recording.load_ms())


@dataclass(frozen=True)
class StepErrors:
    """Predicted over measured time of a recording's steps, less one, per cent of the sum.

    Attributes:
        total: Of all steps.
        decode: Of those without tokens of prompts.
        prompts: Of those with some; ``None`` if there are none.
        step_rms: Root mean square of single steps' relative errors, per cent.
    """

    total: float
    decode: float | None
    prompts: float | None
    step_rms: float


@dataclass(frozen=True)
class RecordingsFit:
    """Prices fitted to recordings.

    Attributes:
        prices: What a step's parts cost.
        errors: By recording.
        left_out: By recording fitted, what the prices of all the others make of it; empty unless
            there are others.
    """

    prices: RecordedPrices
    errors: Mapping[str, StepErrors]
    left_out: Mapping[str, StepErrors] = field(default_factory=dict)


def fit_recordings(fitted: Sequence[Recording], judged: Sequence[Recording]) -> RecordingsFit:
    """Fits the prices to some recordings and reports their errors on others.

    Args:
        fitted: Recordings of one kernel.
        judged: Recordings to report errors on.
    """
    prices = _fit(fitted)
    return RecordingsFit(
        prices, {recording.name: _errors(prices, recording) for recording in judged}
    )


def _fit(recordings: Sequence[Recording]) -> RecordedPrices:
    work = np.vstack([recording.work() for recording in recordings])
    took = np.concatenate([recording.step_ms() for recording in recordings])
    timed = np.concatenate([recording.load_ms() for recording in recordings])
    skipped, waiting = (
        np.concatenate(q) for q in zip(*(r.queue() for r in recordings), strict=True)
    )
    skipped_ms, waiting_ms = _queue_prices(recordings, work, (skipped, waiting))
    timed += skipped_ms * skipped + waiting_ms * waiting
    weight = 1 / took
    for _ in range(REWEIGHTINGS):
        prices = _non_negative(work * weight[:, None], (took - timed) * weight)
        # By what it should take: by what it took, a step late by chance would count for less.
        weight = 1 / (work @ prices + timed)
    return RecordedPrices(
        work=dict(zip(WORK, map(float, prices), strict=True)),
        skipped_ms=skipped_ms,
        waiting_ms=waiting_ms,
        disk_load_ms=_mean([recording.mean_disk_load_ms() for recording in recordings]),
        gpu_load_ms=_mean([recording.mean_gpu_load_ms() for recording in recordings]),
    )


def _queue_prices(
    recordings: Sequence[Recording], work: Floats, queue: tuple[Floats, Floats]
) -> tuple[float, float]:
    """What the scheduler's own time says of a request passed over, and of one that waits."""
    batch = work[:, [WORK.index("steps"), WORK.index("requests")]]
    prompts = np.concatenate([recording.prompts() for recording in recordings])
    times = np.concatenate([recording.scheduler_ms() for recording in recordings])
    *_, skipped, waiting = _non_negative(np.column_stack([batch, prompts, *queue]), times)
    return float(skipped), float(waiting)


def _non_negative(rows: Floats, values: Floats) -> Floats:
    """Non-negative least squares, the columns brought to one size first."""
    size = np.maximum(np.abs(rows).max(axis=0), 1e-12)
    return np.asarray(nnls(rows / size, values)[0] / size)


def _mean(means: Sequence[tuple[float, int]]) -> float:
    count = sum(n for _, n in means)
    return sum(mean * n for mean, n in means) / count if count else 0.0


def _errors(prices: RecordedPrices, recording: Recording) -> StepErrors:
    predicted, measured = prices.step_ms(recording), recording.step_ms()
    prompts = recording.has_prompts()

    def of(steps: NDArray[np.bool_]) -> float | None:
        there = float(measured[steps].sum())
        return (float(predicted[steps].sum()) / there - 1) * 100 if there > 0 else None

    return StepErrors(
        total=float((predicted.sum() / measured.sum() - 1) * 100),
        decode=of(~prompts),
        prompts=of(prompts),
        step_rms=float(np.sqrt(np.mean((predicted / measured - 1) ** 2)) * 100),
    )


def profile_of_recordings(
    recordings: Sequence[Recording], *, command: str, source: str
) -> tuple[Profile, RecordingsFit]:
    """The profile of the recordings' kernel, and its errors on all of them.

    Args:
        recordings: All of a folder.
        command: The command to name in the profile.
        source: The data to name in the profile.

    Raises:
        InputError: None of them ran the grouped kernel.
    """
    grouped = [recording for recording in recordings if recording.grouped]
    if not grouped:
        mend = "add a recording whose args.grouped is true: one profile describes one kernel"
        raise InputError(source, "args.grouped", None, mend)
    fit = replace(fit_recordings(grouped, recordings), left_out=_left_out(grouped))
    settings = grouped[0].settings
    requests = pl.concat([recording.requests for recording in grouped], how="diagonal_relaxed")
    prices = fit.prices
    profile = Profile(
        name="tiny-llama/cpu-1core/vllm-0.33",
        rule_set="vllm-0.33",
        provenance=Provenance(
            kind="fitted",
            source=source,
            command=command,
            note="step recordings of vLLM 0.32 on one CPU core; times are the engine's own",
            uncertainty=Uncertainty(step_time_fraction=_uncertainty(fit.left_out)),
        ),
        engine=EngineDefaults(
            block_size=int(settings["block_size"]),
            max_num_seqs=int(settings["max_num_seqs"]),
            max_num_batched_tokens=int(settings["max_batched"]),
            max_model_len=MODEL.max_position_embeddings,
            gpu_memory_utilization=0.9,
            kv_cache_dtype="auto",
            enable_prefix_caching=False,
        ),
        model=MODEL,
        gpu=Gpu("cpu-1core", memory_gib=8.0),
        memory=None,
        step_time=_step_time(prices),
        adapter_loading=AdapterLoading(
            gpu_fixed_ms=prices.gpu_load_ms,
            gpu_rank_ms=0.0,
            gpu_partial_ms=0.0,
            disk_fixed_ms=prices.disk_load_ms + prices.work["disk_loads"],
            disk_rank_ms=0.0,
        ),
        front_end=FrontEnd.none(),
        lengths=_lengths(requests),
        price=Price(),
    )
    return profile, fit


def _left_out(recordings: Sequence[Recording]) -> dict[str, StepErrors]:
    return {
        left_out.name: fit_recordings(others, [left_out]).errors[left_out.name]
        for left_out, others in each_left_out(recordings)
    }


def _uncertainty(left_out: Mapping[str, StepErrors]) -> float | None:
    """One recording judges no other: then nobody knows."""
    if not left_out:
        return None
    return float(np.sqrt(np.mean([errors.total**2 for errors in left_out.values()]))) / 100


def _step_time(prices: RecordedPrices) -> StepTime:
    work = prices.work
    step_time = StepTime(
        fixed_ms=work["steps"],
        eager_ms=0.0,
        request_ms=work["requests"],
        weights_ms=0.0,
        token_ms=work["tokens"],
        context_token_ms=work["context_tokens"],
        mixed_context_token_ms=work["context_tokens"] + work["mixed_context_tokens"],
        attention_tflops=INSTANT_TFLOPS,
        lora_fixed_ms=0.0,
        lora_block_ns=0.0,
        lora_token_ms=0.0,
        adapter_ms=work["adapters"],
        adapter_rank_ms=0.0,
        adapter_small_batch_ms=0.0,
        adapter_block_ns=0.0,
        adapter_lookup_ns=0.0,
        lora_mapping_ms=0.0,
        lora_mapping_request_ms=0.0,
        skipped_ms=prices.skipped_ms,
        waiting_ms=prices.waiting_ms,
        arrival_ms=0.0,
        cuda_graph_max_tokens=0,
        model=MODEL,
    )
    # The form keeps a rate, not the price of a pair: they are inverse.
    slower = work["attention_pairs"] / step_time.attention_pair_ms
    return replace(step_time, attention_tflops=INSTANT_TFLOPS / max(slower, 1.0))


def _lengths(requests: pl.DataFrame) -> Lengths:
    prompt, output = (requests[name].to_numpy().astype(np.float64) for name in ("in", "out"))
    varied = min(prompt.std(), output.std()) > 0
    return Lengths(
        correlation=float(np.corrcoef(prompt, output)[0, 1]) if varied else 0.0,
        total_max_tokens=float(MODEL.max_position_embeddings),
        prompt=_marginal(prompt),
        output=_marginal(output),
    )


def _marginal(tokens: Floats) -> Marginal:
    low, lower, middle, upper, high = np.quantile(tokens, [0.0, 0.25, 0.5, 0.75, 1.0])
    beyond = tokens[tokens > upper] - upper
    return Marginal(
        mean_tokens=float(tokens.mean()),
        min_tokens=float(max(low, 1.0)),
        q25_tokens=float(lower),
        q50_tokens=float(middle),
        q75_tokens=float(upper),
        tail_tokens=float(beyond.mean()) if beyond.size else 1.0,
        max_tokens=float(high),
    )
