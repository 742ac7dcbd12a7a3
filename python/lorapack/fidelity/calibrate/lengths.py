"""The fit of the lengths' shape: what is known of the campaign's requests, and their tail.

Means and quartiles are known; so is the KV that a running request holds on average, which says how
prompt and output go together. How long the longest outputs are is not, yet it decides runs bound by
LoRA slots: a slot is held by its longest request, and while that runs on alone its steps are short,
so the mean over tokens falls behind the mean over requests. That ratio is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lorapack.fidelity.replay import scenario_of
from lorapack.profile.lengths import Lengths, Marginal, solve
from lorapack.profile.profile import Profile
from lorapack.twin.run import simulate_many

QUARTILES = {"prompt": (23.0, 423.0), "output": (27.0, 359.0)}
"""Tokens, of the campaign's requests (its README; both tokenizers within a token or two)."""

MEANS = {"llama": (222.0, 195.0), "qwen": (222.0, 192.0)}
"""Mean prompt and output tokens by the tokenizer's family (its README)."""

KV_TOKENS_PER_REQUEST = 356.0
"""KV tokens that a running request holds where nobody waits, block rounding (8) taken off."""

PROMPT_RANGE = (4.0, 1024.0)
OUTPUT_RANGE = (1.0, 2044.0)
"""Shortest and longest that the campaign's client let through, tokens."""

TOTAL_MAX_TOKENS = 2048.0
"""Longest prompt and output together that it let through."""

PROMPT_TAIL_TOKENS = 250.0
"""Scale of the prompts' tail; the cut at 1,024 leaves little of it."""

OUTPUT_TAILS_TOKENS = (80.0, 110.0, 140.0, 170.0)
"""Scales of the outputs' tail that are tried; the best is read off between them."""

FIRST_TAIL_TOKENS = 110.0
"""Scale to begin with."""


def campaign_lengths(model: str, tail_tokens: float) -> Lengths:
    """The campaign's lengths with a given output tail.

    Args:
        model: The model's name; it begins with the tokenizer's family.
        tail_tokens: Scale of the exponential above the upper quartile.
    """
    prompt_mean, output_mean = next(
        means for family, means in MEANS.items() if model.startswith(family)
    )
    start = Lengths(
        correlation=0.0,
        total_max_tokens=TOTAL_MAX_TOKENS,
        prompt=_marginal(prompt_mean, PROMPT_RANGE, QUARTILES["prompt"], PROMPT_TAIL_TOKENS),
        output=_marginal(output_mean, OUTPUT_RANGE, QUARTILES["output"], tail_tokens),
    )
    return solve(start, KV_TOKENS_PER_REQUEST)


def fit_tail(
    runs: Sequence[dict[str, Any]],
    profile: Profile,
    recounted: float,
    seed: int,
    jobs: int | None = None,
) -> tuple[float, float]:
    """Finds the output tail whose replays have the measured ratio of ITL to TPOT.

    Args:
        runs: Runs bound by their LoRA slots.
        profile: Everything else.
        recounted: By how much the ratio is larger than a replay's, in the logarithm, in runs that
            show no tail: the campaign counted output tokens anew, from the text.
        seed: One seed for all.
        jobs: Threads.

    Returns:
        The tail's scale in tokens, and the mean absolute error of the ratio there, per cent.
    """
    measured = np.array([run["mean_itl_ms"] / run["mean_tpot_ms"] for run in runs])
    errors = []
    for tail in OUTPUT_TAILS_TOKENS:
        tried = replace(profile, lengths=campaign_lengths(profile.model.name, tail))
        results = simulate_many([scenario_of(run, tried, seed) for run in runs], jobs=jobs)
        ratio = np.array([result.itl_ms.mean / result.tpot_ms.mean for result in results])
        errors.append(np.log(ratio / measured) + recounted)
    bias = np.array([float(np.median(error)) for error in errors])
    # The ratio falls as the tail grows: the tail at which the median error is nil.
    tail = float(np.interp(0.0, bias[::-1], OUTPUT_TAILS_TOKENS[::-1]))
    nearest = int(np.argmin(np.abs(np.array(OUTPUT_TAILS_TOKENS) - tail)))
    return tail, float(np.mean(np.abs(errors[nearest])) * 100)


def _marginal(
    mean: float, limits: tuple[float, float], quartiles: tuple[float, float], tail: float
) -> Marginal:
    return Marginal(
        mean_tokens=mean,
        min_tokens=limits[0],
        q25_tokens=quartiles[0],
        q50_tokens=quartiles[0],
        q75_tokens=quartiles[1],
        tail_tokens=tail,
        max_tokens=limits[1],
    )
