"""A profile from step recordings of one engine (``NAME_steps.csv.gz`` and its two companions).

A recording has every step's time, tokens, requests and distinct adapters, and how many adapters it
brought in. The prices follow by non-negative least squares on the steps as they are: means, not
medians, since what a replay must get right is their sum. One profile describes one LoRA kernel, so
only recordings whose settings say ``grouped`` are fitted; the others are reported as residuals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import nnls

from lorapack.errors import InputError
from lorapack.profile.adapter_loading import AdapterLoading
from lorapack.profile.front_end import FrontEnd
from lorapack.profile.gpu import Gpu
from lorapack.profile.lengths import Lengths, Marginal
from lorapack.profile.model_shape import ModelShape
from lorapack.profile.profile import EngineDefaults, Price, Profile, Provenance, Uncertainty
from lorapack.profile.step_time import StepTime

Floats = NDArray[np.float64]

STEPS, REQUESTS, SUMMARY = "_steps.csv.gz", "_requests.csv", "_summary.json"
"""Endings of a recording's three files."""

IDLE_S = 0.005
"""A gap between two steps above this is idle time, below it the engine's own work."""

PRICES = (
    "fixed_ms",
    "request_ms",
    "token_ms",
    "context_token_ms",
    "adapter_ms",
    "waiting_ms",
    "disk_load_ms",
    "gpu_load_ms",
)
"""What a step is made of, in the order of the design's columns."""

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

CPU_TFLOPS = 1.0
"""Prefill attention of a toy model on a CPU: it is in the token's price, this adds next to none."""


@dataclass(frozen=True)
class Recording:
    """One recorded run.

    Attributes:
        name: What its files begin with.
        settings: The ``args`` of its summary.
        summary: The whole summary.
        steps: Its steps.
        requests: Its requests.
    """

    name: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    steps: pl.DataFrame
    requests: pl.DataFrame

    @property
    def grouped(self) -> bool:
        """Whether it ran the kernel that the profile is of."""
        return bool(self.settings.get("grouped"))

    def step_ms(self) -> Floats:
        """Time of each step, the engine's own work until the next one included, milliseconds."""
        start, took = self.steps["t"].to_numpy(), self.steps["dt"].to_numpy()
        gap = np.append(start[1:] - start[:-1] - took[:-1], 0.0)
        return (took + np.where(gap < IDLE_S, gap, 0.0)) * 1e3

    def design(self) -> Floats:
        """One row a step, one column a price of :data:`PRICES`."""
        steps = self.steps
        columns = [
            np.ones(steps.height),
            steps["batch"].to_numpy(),
            steps["tokens"].to_numpy(),
            self._context_tokens(),
            steps["distinct"].to_numpy(),
            steps["waiting_after"].to_numpy(),
            steps["n_load"].to_numpy(),
            steps["n_act"].to_numpy(),
        ]
        return np.column_stack([column.astype(np.float64) for column in columns])

    def _context_tokens(self) -> Floats:
        """KV tokens read in each step: prompts and what was generated, of the requests decoding."""
        first, done = self.requests["first"].to_numpy(), self.requests["done"].to_numpy()
        prompt, output = self.requests["in"].to_numpy(), self.requests["out"].to_numpy()
        context = np.zeros(self.steps.height)
        for i, now in enumerate(self.steps["t"].to_numpy() + 1e-4):
            alive = (first <= now) & (now < done)
            share = (now - first[alive]) / np.maximum(done[alive] - first[alive], 1e-9)
            context[i] = np.sum(prompt[alive] + output[alive] * share)
        return context


@dataclass(frozen=True)
class RecordingsFit:
    """Prices fitted to recordings.

    Attributes:
        prices: Milliseconds a unit, by :data:`PRICES`.
        total_error_percent: By recording: predicted over measured sum of step times, minus one.
        step_error_ms: By recording: root mean square error of a step.
    """

    prices: Mapping[str, float]
    total_error_percent: Mapping[str, float]
    step_error_ms: Mapping[str, float]


def is_recordings(folder: Path) -> bool:
    """Whether the folder holds step recordings."""
    return any(folder.glob("*" + STEPS))


def read_recordings(folder: Path) -> list[Recording]:
    """Reads every recording of a folder, in the order of their names.

    Raises:
        InputError: A companion file is missing or cannot be read.
    """
    recordings = []
    for path in sorted(folder.glob("*" + STEPS)):
        name = path.name.removesuffix(STEPS)
        for ending in (REQUESTS, SUMMARY):
            if not (folder / (name + ending)).is_file():
                raise InputError(
                    folder, name + ending, None, "missing: a recording has three files"
                )
        try:
            summary = json.loads((folder / (name + SUMMARY)).read_text(encoding="utf-8"))
            steps = pl.read_csv(path)
            requests = pl.read_csv(folder / (name + REQUESTS))
            settings = summary["args"]
        except (ValueError, KeyError, pl.exceptions.PolarsError) as error:
            raise InputError(folder, name, None, f"is no recording: {error}") from error
        recordings.append(Recording(name, settings, summary, steps, requests))
    return recordings


def fit_recordings(fitted: Sequence[Recording], judged: Sequence[Recording]) -> RecordingsFit:
    """Fits the prices to some recordings and reports their errors on others.

    Args:
        fitted: Recordings of one kernel.
        judged: Recordings to report errors on.
    """
    designs = [recording.design() for recording in fitted]
    times = np.concatenate([recording.step_ms() for recording in fitted])
    prices, _ = nnls(np.vstack(designs), times)
    total, per_step = {}, {}
    for recording in judged:
        predicted, measured = recording.design() @ prices, recording.step_ms()
        total[recording.name] = float((predicted.sum() / measured.sum() - 1) * 100)
        per_step[recording.name] = float(np.sqrt(np.mean((predicted - measured) ** 2)))
    return RecordingsFit(dict(zip(PRICES, map(float, prices), strict=True)), total, per_step)


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
    fit = fit_recordings(grouped, recordings)
    settings = grouped[0].settings
    requests = pl.concat([recording.requests for recording in grouped], how="diagonal_relaxed")
    price = fit.prices
    profile = Profile(
        name="tiny-llama/cpu-1core/vllm-0.33",
        rule_set="vllm-0.33",
        provenance=Provenance(
            kind="fitted",
            source=source,
            command=command,
            note="step recordings of vLLM 0.32 on one CPU core; times are the engine's own",
            uncertainty=Uncertainty(step_time_fraction=0.02),
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
        step_time=StepTime(
            fixed_ms=price["fixed_ms"],
            eager_ms=0.0,
            request_ms=price["request_ms"],
            weights_ms=0.0,
            token_ms=price["token_ms"],
            context_token_ms=price["context_token_ms"],
            mixed_context_token_ms=price["context_token_ms"],
            attention_tflops=CPU_TFLOPS,
            lora_fixed_ms=0.0,
            lora_block_ns=0.0,
            lora_token_ms=0.0,
            lora_prompt_token_ms=0.0,
            adapter_ms=price["adapter_ms"],
            adapter_rank_ms=0.0,
            adapter_small_batch_ms=0.0,
            adapter_lookup_ns=0.0,
            skipped_ms=0.0,
            waiting_ms=price["waiting_ms"],
            arrival_ms=0.0,
            cuda_graph_max_tokens=0,
            model=MODEL,
        ),
        adapter_loading=AdapterLoading(
            gpu_fixed_ms=price["gpu_load_ms"],
            gpu_rank_ms=0.0,
            gpu_partial_ms=0.0,
            disk_fixed_ms=price["disk_load_ms"],
            disk_rank_ms=0.0,
        ),
        front_end=FrontEnd.none(),
        lengths=_lengths(requests),
        price=Price(),
    )
    return profile, fit


def _lengths(requests: pl.DataFrame) -> Lengths:
    prompt, output = (requests[name].to_numpy().astype(np.float64) for name in ("in", "out"))
    return Lengths(
        correlation=float(np.corrcoef(prompt, output)[0, 1]),
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
