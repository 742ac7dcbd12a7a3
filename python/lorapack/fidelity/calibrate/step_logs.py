"""Closed-loop step logs (``step_logs.parquet``) to shapes of steps and the time they took.

A row of the log has the step's time, its distinct adapters and, in some runs, its tokens. The rest
follows from how the runs were made: every request has the same few prompt tokens and the same
output length, a new one starts where one ends, and after one warm-up request an adapter
``max_num_seqs`` run at a time. So the requests alive and the context they read can be replayed from
the tokens alone; where those were not logged, the steps between two waves of requests all hold
``max_num_seqs`` requests of one age. Steps of equal shape are brought down to their median, which
is what makes the fit light and deaf to the odd slow step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lorapack.fidelity.calibrate.observations import Observations, single_steps
from lorapack.profile.profile import Profile

RUN_KEYS = [
    "kind",
    "max_num_seqs",
    "max_loras",
    "max_lora_rank",
    "prompt_len",
    "output_len",
    "n_adapters",
]

PROMPT_TOKENS = 5
"""Prompt tokens where one was asked for: the batched tokens of the first step of every run."""

WAVE_EDGE_STEPS = 12
"""Steps at either end of a wave of requests that are not of one shape: it begins over several."""

MAX_BATCHED_TOKENS = 2048
"""`max_num_batched_tokens` of those runs."""

MAX_WEIGHT = 50
"""A shape seen more often than this weighs no more: its median is known."""

CONTEXT_BIN_TOKENS = 25
"""Context tokens per request that count as one shape."""


def step_shapes(path: Path, base_latency: Path, model: str, profile: Profile) -> Observations:
    """Shapes of single steps of one model, medians of their times.

    Args:
        path: ``step_logs.parquet``.
        base_latency: ``base_latency.csv``: the true prompt tokens of the prompt-only runs.
        model: The model's name in those files.
        profile: Its memory: a run that does not fit its KV cache is left out.
    """
    logs = pl.read_parquet(path).filter(pl.col("model") == model)
    latency = pl.read_csv(base_latency).filter(
        (pl.col("model") == model) & (pl.col("kind") == "input")
    )
    frames = []
    for _, run in logs.group_by(RUN_KEYS, maintain_order=True):
        if not _fits(run, profile):
            continue  # who is preempted comes again: the requests are not of one age
        if run["output_len"][0] == 1:
            shapes = _prompt_only(run, latency)
        elif run["batched_tokens"].null_count() == 0 and run["prompt_len"][0] == 1:
            shapes = _replayed(run)
        elif run["batched_tokens"].null_count() > 0:
            shapes = _between_waves(run)
        else:
            continue  # prompts of unknown length: the context is not known
        if shapes is not None and shapes.height:
            frames.append(shapes)
    shapes = _medians(pl.concat(frames, how="diagonal_relaxed"))
    weight = _weights(shapes)
    return single_steps(
        tokens=shapes["tokens"].to_numpy().astype(np.int64),
        adapters=shapes["adapters"].to_numpy().astype(np.float64),
        max_loras=shapes["max_loras"].to_numpy().astype(np.int64),
        max_lora_rank=shapes["max_lora_rank"].to_numpy().astype(np.int64),
        cpu_loras=shapes["cpu_loras"].to_numpy().astype(np.float64),
        requests=shapes["requests"].to_numpy(),
        context_tokens=shapes["context_tokens"].to_numpy(),
        attention_pairs=shapes["attention_pairs"].to_numpy(),
        logged=(shapes["max_loras"] > 0).to_numpy().astype(np.float64),
        new_batches=shapes["is_new"].to_numpy().astype(np.float64),
        measured_ms=shapes["step_ms"].to_numpy(),
        weight=weight,
        source="step logs",
        max_tokens=MAX_BATCHED_TOKENS,
    )


def _fits(run: pl.DataFrame, profile: Profile) -> bool:
    """Whether all that run at a time fit the KV cache up to their last token."""
    seqs, slots, rank = run["max_num_seqs"][0], run["max_loras"][0], run["max_lora_rank"][0]
    if seqs is None:
        return True
    held = int(seqs) * (max(PROMPT_TOKENS, int(run["prompt_len"][0])) + int(run["output_len"][0]))
    plan = profile.memory_plan(int(slots), int(rank or 0), max_num_seqs=int(seqs))
    return held <= plan.kv_cache_tokens


def _weights(shapes: pl.DataFrame) -> NDArray[np.float64]:
    """Half for either side of LoRA's switch; a fixed share for shapes that few rows show."""
    weight = np.minimum(shapes["n"].to_numpy(), MAX_WEIGHT).astype(np.float64)
    on = shapes["max_loras"].to_numpy() > 0
    tokens = shapes["tokens"].to_numpy()
    for side in (on, ~on):
        if side.any():
            weight[side] /= weight[side].sum()
    for rare, share in ((tokens == MAX_BATCHED_TOKENS, 0.02), (on & (tokens == 1), 0.1)):
        if rare.any():
            weight[rare] = share / rare.sum()
    return np.asarray(weight / weight.sum())


def first_use_ms(path: Path, model: str) -> float:
    """How long the engine idles between two adapters' first requests, milliseconds.

    The warm-up sends one request an adapter, each after the one before has ended: the engine then
    waits for the API server to load the next adapter's tokenizer.
    """
    idle = pl.read_parquet(path).filter(
        (pl.col("model") == model) & (pl.col("batched_tokens") == 0) & (pl.col("step_s") > 0.1)
    )
    return float(idle["step_s"].cast(pl.Float64).median() * 1e3)


def _replayed(run: pl.DataFrame) -> pl.DataFrame | None:
    """Context and requests of every step, from its tokens and the closed loop it was made by."""
    tokens = run["batched_tokens"].to_numpy().astype(np.int64)
    output = int(run["output_len"][0])
    requests, new, context, exact = replay_closed_loop(tokens, output)
    steady = exact & (new == 0) & (tokens > 0)
    many = exact & (tokens > MAX_BATCHED_TOKENS // 4)  # admissions large enough for eager mode
    same = (new == 0) & (np.roll(new, 1) == 0) & (np.roll(requests, 1) == requests)
    return _frame(run, tokens, requests, context, ~same).filter(pl.Series(steady | many))


def replay_closed_loop(
    tokens: NDArray[np.int64], output_tokens: int, prompt_tokens: int = PROMPT_TOKENS
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Replays a closed loop of equal requests from the tokens of its steps.

    Args:
        tokens: Tokens of each step.
        output_tokens: Steps for which a request lives.
        prompt_tokens: Tokens it adds in its first.

    Returns:
        By step: requests scheduled, of them new, context tokens read, and whether the tokens so far
        were explained without a remainder (a request that ended early breaks it from there on).
    """
    n = tokens.size
    started = np.zeros(n, dtype=np.int64)
    requests = np.zeros(n, dtype=np.int64)
    context = np.zeros(n, dtype=np.int64)
    exact = np.ones(n, dtype=bool)
    alive = held = 0
    for step in range(n):
        if step >= output_tokens:
            ended = started[step - output_tokens]
            alive -= ended
            held -= ended * (prompt_tokens + output_tokens - 1)
        new, remainder = divmod(int(tokens[step]) - alive, prompt_tokens)
        if new < 0 or remainder:
            exact[step:] = False
            break
        started[step], context[step] = new, held
        held += alive + new * prompt_tokens
        alive += new
        requests[step] = alive
    return requests, started, context, exact


def _between_waves(run: pl.DataFrame) -> pl.DataFrame:
    """Steps inside a wave of ``max_num_seqs`` requests of one age, and those of the warm-up."""
    output, seqs = int(run["output_len"][0]), int(run["max_num_seqs"][0])
    step = np.arange(run.height)
    wave, age = step // output, step % output
    full = (wave >= 1) & (step < run.height - 2 * output)
    inside = full & (age >= WAVE_EDGE_STEPS) & (age < output - WAVE_EDGE_STEPS // 2)
    alone = (wave == 0) & (age >= 3) & (age < output - 3)
    requests = np.where(alone, 1, seqs)
    context = requests * (PROMPT_TOKENS + age - np.where(alone, 0, 3))
    none = np.zeros(run.height, dtype=bool)
    return _frame(run, requests, requests, context, none).filter(pl.Series(inside | alone))


def _prompt_only(run: pl.DataFrame, latency: pl.DataFrame) -> pl.DataFrame | None:
    """Steps that hold nothing but prompts, `max_num_batched_tokens` of them."""
    asked = run["prompt_len"][0]
    known = latency.filter(pl.col("max_num_seqs") == run["max_num_seqs"][0])
    known = known.sort("input_len")["input_len", "num_prompts"]
    place = sorted({10, 20, 40} if asked in (10, 20, 40) else {50, 100, 200}).index(asked)
    if place >= known.height:
        return None
    length, n = known.row(place)
    full = int(length) * int(n) // MAX_BATCHED_TOKENS
    if full < 2:
        return None
    later = run[3:].sort("step_s", descending=True)[:full]
    requests = np.full(later.height, MAX_BATCHED_TOKENS / length)
    tokens = np.full(later.height, MAX_BATCHED_TOKENS)
    frame = _frame(later, tokens, requests, np.zeros(later.height), np.ones(later.height, bool))
    return frame.with_columns(attention_pairs=pl.lit(MAX_BATCHED_TOKENS * (length + 1) / 2))


def _frame(
    run: pl.DataFrame,
    tokens: NDArray[np.int64],
    requests: NDArray[np.int64] | NDArray[np.float64],
    context: NDArray[np.int64] | NDArray[np.float64],
    is_new: NDArray[np.bool_],
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "max_loras": run["max_loras"].cast(pl.Int64),
            "max_lora_rank": run["max_lora_rank"].cast(pl.Int64),
            "cpu_loras": run["n_adapters"].cast(pl.Int64),
            "tokens": tokens.astype(np.int64),
            "requests": requests.astype(np.float64),
            "context_tokens": context.astype(np.float64),
            "attention_pairs": np.zeros(run.height),
            "adapters": run["distinct_adapters"].cast(pl.Int64),
            "is_new": is_new,
            "step_ms": run["step_s"].cast(pl.Float64) * 1e3,
        }
    )


def _medians(steps: pl.DataFrame) -> pl.DataFrame:
    age = (pl.col("context_tokens") / pl.col("requests") / CONTEXT_BIN_TOKENS).round()
    keys = [
        "max_loras",
        "max_lora_rank",
        "cpu_loras",
        "tokens",
        "requests",
        "attention_pairs",
        "adapters",
        "is_new",
    ]
    return (
        steps.with_columns(age=age)
        .group_by([*keys, "age"])
        .agg(
            pl.col("step_ms").median(),
            pl.col("context_tokens").mean(),
            pl.len().alias("n"),
        )
        .filter((pl.col("n") >= 3) | (pl.col("tokens") > MAX_BATCHED_TOKENS // 4))
        .sort([*keys, "age"])
    )
