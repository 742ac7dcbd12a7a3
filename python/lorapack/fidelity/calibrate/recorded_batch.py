"""What a recorded step's batch held that its log does not say: context, prompts' attention, skips.

A step log has sums over the batch; which requests they are of follows from when each made its first
and its last token.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def context_tokens(
    start_s: Floats, first_s: Floats, done_s: Floats, prompt_tokens: Floats, output_tokens: Floats
) -> Floats:
    """KV tokens read in each step: prompts and what was generated, of the requests decoding.

    Args:
        start_s: When each step began.
        first_s: When each request had its first token.
        done_s: When each request had its last.
        prompt_tokens: Of each request.
        output_tokens: Of each request; made evenly between its first and its last.
    """
    pace = output_tokens / np.maximum(done_s - first_s, 1e-9)
    at_zero = prompt_tokens - pace * first_s
    # A straight line a request from its first token to its last: their sum is one, too.
    offset, slope = (_alive(start_s, first_s, done_s, line) for line in (at_zero, pace))
    return np.maximum(offset + slope * start_s, 0.0)


def _alive(at_s: Floats, first_s: Floats, done_s: Floats, values: Floats) -> Floats:
    """Sum of the values whose request has a first token by then, and not its last."""
    return _by_then(at_s, first_s, values) - _by_then(at_s, done_s, values)


def _by_then(at_s: Floats, when_s: Floats, values: Floats) -> Floats:
    order = np.argsort(when_s, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(values[order])])
    return np.asarray(sums[np.searchsorted(when_s[order], at_s, side="right")])


def attention_pairs(
    start_s: Floats, prefilled_tokens: Floats, first_s: Floats, prompt_tokens: Floats
) -> Floats:
    """(Query, key) pairs of the prompts' attention in each step.

    A step ends the prompts of the requests that have their first token of it; what else it computed
    is the beginning of the next request's, which the budget cut short. (What a preempted request
    computes again passes for such a beginning: no log tells them apart.)

    Args:
        start_s: When each step began.
        prefilled_tokens: Tokens of prompts in each step.
        first_s: When each request had its first token.
        prompt_tokens: Of each request.
    """
    ended_in = np.maximum(np.searchsorted(start_s, first_s) - 1, 0)
    ended_tokens = np.bincount(ended_in, prompt_tokens, start_s.size)
    ended_pairs = np.bincount(ended_in, _triangle(prompt_tokens), start_s.size)
    pairs = np.zeros(start_s.size)
    begun = np.zeros(1)
    for step in np.flatnonzero(prefilled_tokens):
        left_over = np.maximum(begun + prefilled_tokens[step] - ended_tokens[step], 0.0)
        pairs[step] = (ended_pairs[step] + _triangle(left_over) - _triangle(begun)).item()
        begun = left_over
    return np.maximum(pairs, 0.0)


def _triangle(tokens: Floats) -> Floats:
    """Pairs of a whole prompt: each token attends to itself and to all before it."""
    return np.asarray(tokens * (tokens + 1) / 2)
