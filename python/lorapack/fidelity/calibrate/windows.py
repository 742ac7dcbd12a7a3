"""Step times from polled metrics: a server's history, cut into windows.

While every running request decodes, a step makes one token a running request, so over a window

    step time = sum(running x dt) / tokens generated

and the prefill tokens a step follow from the prompt tokens counted in the window. What a window
cannot say is how prefill was spread over its steps; prompts arrive at random, so their number a
step is taken as Poisson. Context follows from the KV in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.stats import poisson

from lorapack.fidelity.calibrate.observations import Observations
from lorapack.profile.lengths import Lengths

Floats = NDArray[np.float64]

WINDOW_S = 20.0
"""Width of a window, seconds: some ten polls."""

FEWEST_POLLS = 4
"""Polls that a window needs at least."""

LARGEST_GAP_S = 15.0
"""A gap between polls above this hides what happened: its window is left out."""

FULL_SLOTS = 0.9
"""Share of the slots in use from which adapters push each other out."""

PROMPT_QUANTILES = 16
"""Prompt lengths that stand for all in a step with one prefill."""


@dataclass(frozen=True)
class Setting:
    """What is known of the server besides its history.

    Attributes:
        max_loras: LoRA slots; 0: LoRA off.
        max_lora_rank: Rank of the slots.
        kv_cache_tokens: KV capacity.
        max_num_batched_tokens: Tokens a step may hold.
        block_size: Tokens a block.
        cpu_loras: Adapters in the CPU cache.
        shares: Share of the requests of each adapter; ``None``: the history's own
            ``distinct_adapters`` column says how many are in the batch.
    """

    max_loras: int
    max_lora_rank: int
    kv_cache_tokens: int
    max_num_batched_tokens: int
    block_size: int
    cpu_loras: int
    shares: Floats | None = None

    def distinct(self, running: Floats) -> Floats:
        """Distinct adapters expected among so many running requests, cut at the slots."""
        if self.shares is None or self.max_loras == 0:
            return np.zeros_like(running)
        absent = (1 - self.shares[None, :]) ** running[:, None]
        return np.asarray(np.minimum((1 - absent).sum(axis=1), self.max_loras))


def cut(history: pl.DataFrame, window_s: float = WINDOW_S) -> pl.DataFrame:
    """Cuts a history into windows in which something ran from end to end.

    Args:
        history: Columns ``t_s``, ``running``, ``waiting``, ``kv_usage``, ``prompt_tokens`` and
            ``generation_tokens`` (both cumulative), ascending in time; ``distinct_adapters``
            where it is known.
        window_s: Width of a window, seconds.

    Returns:
        One row a window: ``step_ms``, means of the levels, ``prompt_per_step``, ``polls``.
    """
    polls = history.drop_nulls(["generation_tokens", "prompt_tokens"]).sort("t_s")
    dt = pl.col("t_s").shift(-1) - pl.col("t_s")
    after = pl.col("running").shift(-1)
    levels = [n for n in ("waiting", "kv_usage", "distinct_adapters") if n in polls.columns]
    spans = polls.with_columns(
        dt=dt,
        busy=(pl.col("running") + after) / 2 * dt,
        made=pl.col("generation_tokens").shift(-1) - pl.col("generation_tokens"),
        prompts=pl.col("prompt_tokens").shift(-1) - pl.col("prompt_tokens"),
        lowest=pl.min_horizontal("running", after),
        window=(pl.col("t_s") / window_s).floor(),
        **{n: (pl.col(n) + pl.col(n).shift(-1)) / 2 * dt for n in levels},
    ).drop_nulls(["dt"])
    whole = spans.group_by("window", maintain_order=True).agg(
        pl.col("dt").sum().alias("seconds"),
        pl.col("dt").max().alias("gap"),
        pl.col("busy", "made", "prompts").sum(),
        pl.col("lowest").min(),
        pl.len().alias("polls"),
        *(pl.col(name).sum() for name in levels),
    )
    kept = whole.filter(
        (pl.col("polls") >= FEWEST_POLLS)
        & (pl.col("gap") <= LARGEST_GAP_S)
        & (pl.col("lowest") >= 1)
        & (pl.col("made") > 0)
        & (pl.col("prompts") >= 0)
    )
    step_s = pl.col("busy") / pl.col("made")
    return kept.select(
        "window",
        "polls",
        step_ms=step_s * 1e3,
        running=pl.col("busy") / pl.col("seconds"),
        prompt_per_step=pl.col("prompts") / pl.col("seconds") * step_s,
        **{name: pl.col(name) / pl.col("seconds") for name in levels},
    )


def without_swaps(windows: pl.DataFrame, setting: Setting) -> pl.DataFrame:
    """Leaves out windows in which every slot was in use and more adapters want one.

    Adapters then push each other out, and what their loads take cannot be told from the steps'.
    """
    if setting.cpu_loras <= setting.max_loras:
        return windows
    if "distinct_adapters" in windows.columns:
        distinct = windows["distinct_adapters"].to_numpy().astype(np.float64)
    else:
        distinct = setting.distinct(windows["running"].to_numpy().astype(np.float64))
    return windows.filter(pl.Series(distinct < FULL_SLOTS * setting.max_loras))


def observations_of(
    windows: pl.DataFrame, setting: Setting, lengths: Lengths, source: str = "windows"
) -> Observations:
    """Rows for the step-time fit.

    Args:
        windows: Rows of :func:`cut`.
        setting: The server's.
        lengths: Shape of the prompts, for how prefill falls on the steps.
        source: Name of the data.
    """
    running = windows["running"].to_numpy().astype(np.float64)
    per_step = windows["prompt_per_step"].to_numpy().astype(np.float64)
    if "distinct_adapters" in windows.columns:
        distinct = windows["distinct_adapters"].to_numpy().astype(np.float64)
    else:
        distinct = setting.distinct(running)
    prompts = lengths.pairs()[0].astype(np.float64)
    held = windows["kv_usage"].to_numpy() * setting.kv_cache_tokens
    context = np.maximum(held - running * setting.block_size / 2, 0.0)
    admitted = per_step / prompts.mean()
    mixed = -np.expm1(-admitted)
    # New with its prompts, after a step that had some, and after one with which somebody ended.
    new = -np.expm1(-3 * admitted)
    tokens = _token_shares(running, per_step, prompts, setting.max_num_batched_tokens)
    n = windows.height
    none = np.zeros(n)
    return Observations(
        tokens=tokens,
        adapters=sparse.csr_matrix(sparse.diags(distinct) @ tokens),
        max_loras=np.full(n, setting.max_loras),
        max_lora_rank=np.full(n, setting.max_lora_rank),
        cpu_loras=np.full(n, float(setting.cpu_loras)),
        requests=running,
        context_tokens=context * (1 - mixed),
        mixed_context_tokens=context * mixed,
        attention_pairs=per_step * float((prompts**2).mean() / prompts.mean() / 2),
        skipped=none,
        waiting=windows["waiting"].to_numpy().astype(np.float64),
        new_batches=new,
        new_requests=running * new,
        logged=none,
        offered_rps=admitted / (windows["step_ms"].to_numpy() * 1e-3),
        load_ms=none,
        measured_ms=windows["step_ms"].to_numpy().astype(np.float64),
        gain=np.ones(n),
        weight=np.sqrt(running * windows["polls"].to_numpy()) / max(1.0, float(n)),
        source=np.full(n, source),
    )


def _token_shares(
    running: Floats, per_step: Floats, prompts: Floats, max_tokens: int
) -> sparse.csr_matrix:
    """Share of a window's steps by tokens: decodes, and a Poisson number of prompts with them."""
    single = np.quantile(prompts, (np.arange(PROMPT_QUANTILES) + 0.5) / PROMPT_QUANTILES)
    mean = float(prompts.mean())
    rows, columns, shares = [], [], []
    for row, (decodes, prefill) in enumerate(zip(running, per_step, strict=True)):
        rate = prefill / mean
        counts = np.arange(int(poisson.ppf(0.999, rate)) + 1)
        for count, share in zip(counts, poisson.pmf(counts, rate), strict=True):
            extra = np.zeros(1) if count == 0 else single if count == 1 else [count * mean]
            total = np.minimum(np.rint(decodes + np.asarray(extra)), max_tokens).astype(np.int64)
            rows += [row] * len(total)
            columns += total.tolist()
            shares += [share / len(total)] * len(total)
    shape = (len(running), max_tokens + 1)
    summed = sparse.coo_matrix((shares, (rows, columns)), shape=shape).tocsr()
    total = np.asarray(summed.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(total, 1e-12)) @ summed)
