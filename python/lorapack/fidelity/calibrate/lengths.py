"""The fit of the lengths' shape: what is known of the campaign's requests, and their tail.

Means and quartiles are known; so is the KV that a running request holds on average, which says how
prompt and output go together. How long the longest outputs are is not, yet it decides runs bound by
LoRA slots: a slot is held by its longest request, so the longer those are, the less is served; and
while one runs on alone its steps are short, so the mean over tokens falls behind the mean over
requests. Throughput and that ratio are both measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lorapack.fidelity.calibrate.serving import Totals
from lorapack.fidelity.replay import measured_tps, scenario_of
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
    """Finds the output tail whose replays have the measured throughput and ratio of ITL to TPOT.

    Args:
        runs: Runs bound by their LoRA slots.
        profile: Everything else.
        recounted: By how much the ratio is larger than a replay's, in the logarithm, in runs that
            show no tail: the campaign counted output tokens anew, from the text.
        seed: One seed for all.
        jobs: Threads.

    Returns:
        The tail's scale in tokens, and the mean absolute error of the two there, per cent.
    """
    ratio = np.array([run["mean_itl_ms"] / run["mean_tpot_ms"] for run in runs])
    tps = np.array([measured_tps(run) for run in runs])
    errors = []
    for tail in OUTPUT_TAILS_TOKENS:
        tried = replace(profile, lengths=campaign_lengths(profile.model.name, tail))
        results = simulate_many([scenario_of(run, tried, seed) for run in runs], jobs=jobs)
        totals = [Totals.of(result) for result in results]
        itl_over_tpot = np.array([total.itl_ms / total.tpot_ms for total in totals])
        throughput = np.array([total.tps for total in totals])
        errors.append([np.log(itl_over_tpot / ratio) + recounted, np.log(throughput / tps)])
    # Both fall as the tail grows: the tail at which their median errors cancel.
    bias = np.median(errors, axis=2).sum(axis=1)
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
