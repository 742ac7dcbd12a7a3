"""The joint shape of prompt and output lengths that a profile was measured under.

Each of the two lengths has a quantile function: logarithmically straight between its smallest
value, quartiles and median, exponential above the upper quartile up to its cut (a LoRA slot is held
by its longest request, so the tail decides slot-bound runs). A Gaussian copula joins the two. The
twin takes the law as a fixed low-discrepancy sample, :meth:`Lengths.pairs`, whose means are exact.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lorapack.profile.section import number, plain

PAIRS = 8192
"""Rows of the sample: quantiles to 0.01 %, and small enough to stay in the CPU's cache."""

PLASTIC_NUMBER = 1.324717957244746
"""Root of x^3 = x + 1, whose powers give the evenest additive sequence in the plane."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Marginal:
    """The quantile function of one length, in tokens.

    Attributes:
        mean_tokens: Mean; the sample is stretched to it exactly.
        min_tokens: Smallest value.
        q25_tokens: Lower quartile.
        q50_tokens: Median.
        q75_tokens: Upper quartile.
        tail_tokens: Scale of the exponential above the upper quartile.
        max_tokens: Cut of that tail.
    """

    mean_tokens: float = number(above=True)
    min_tokens: float = number(low=1)
    q25_tokens: float = number(low=1)
    q50_tokens: float = number(low=1)
    q75_tokens: float = number(low=1)
    tail_tokens: float = number(above=True)
    max_tokens: float = number(low=1)

    def quantile(self, shares: Floats) -> Floats:
        """Tokens below which the given shares (0..1) of the lengths lie."""
        knots = np.log([self.min_tokens, self.q25_tokens, self.q50_tokens, self.q75_tokens])
        body = np.exp(np.interp(shares, [0.0, 0.25, 0.5, 0.75], knots))
        cut = -np.expm1(-(self.max_tokens - self.q75_tokens) / self.tail_tokens)
        beyond = np.clip((shares - 0.75) / 0.25, 0.0, 1.0)
        tail = self.q75_tokens - self.tail_tokens * np.log1p(-beyond * cut)
        return np.where(shares > 0.75, tail, body)

    def ascending(self) -> bool:
        """Whether the knots of the quantile function rise, as they must."""
        knots = (
            self.min_tokens,
            self.q25_tokens,
            self.q50_tokens,
            self.q75_tokens,
            self.max_tokens,
        )
        return list(knots) == sorted(knots)


@dataclass(frozen=True)
class Lengths:
    """Prompt and output lengths and how they go together.

    Attributes:
        correlation: Of the Gaussian copula, -1..1; negative: long outputs go with short prompts.
        total_max_tokens: Prompt and output together are cut here (the output gives way).
        prompt: Law of the prompt's tokens.
        output: Law of the output's tokens.
    """

    correlation: float = number(low=-1, high=1)
    total_max_tokens: float = number(low=2)
    prompt: Marginal = plain()  # noqa: RUF009 - makes a field, as `number` does
    output: Marginal = plain()  # noqa: RUF009 - as above

    def pairs(self, n: int = PAIRS) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A fixed sample of ``n`` (prompt, output) pairs, in tokens, with the profile's own means.

        The same arrays for the same profile, always; they are read-only.
        """
        prompt, output = _sample(self, n)
        return prompt, output

    def kv_tokens_per_request(self, n: int = PAIRS) -> float:
        """KV tokens that a running request holds on average, block rounding aside.

        A request holds prompt + generated for a time in proportion to its output:
        E[output (prompt + output / 2)] / E[output].
        """
        prompt, output = (column.astype(np.float64) for column in self.pairs(n))
        return float((output * (prompt + output / 2)).mean() / output.mean())


def solve(start: Lengths, kv_tokens_per_request: float) -> Lengths:
    """Finds the medians and the correlation that meet the means and the KV held per request.

    Args:
        start: What is known: means, quartiles, cuts, tails; its medians and correlation are
            ignored.
        kv_tokens_per_request: :meth:`Lengths.kv_tokens_per_request` to be met, tokens.

    Raises:
        ValueError: No median between the quartiles gives the mean, or no correlation the KV held.
    """
    from scipy.optimize import brentq  # slow to import, and only a fit needs it

    solved = replace(start, prompt=_with_median(start.prompt), output=_with_median(start.output))

    def excess(correlation: float) -> float:
        held = replace(solved, correlation=correlation).kv_tokens_per_request()
        return held - kv_tokens_per_request

    return replace(solved, correlation=float(brentq(excess, -0.9, 0.9, xtol=1e-6)))


def _with_median(marginal: Marginal) -> Marginal:
    """The marginal whose median makes the quantile function's own mean the one it states."""
    from scipy.optimize import brentq

    shares = (np.arange(PAIRS) + 0.5) / PAIRS

    def excess(median: float) -> float:
        mean = replace(marginal, q50_tokens=median).quantile(shares).mean()
        return float(mean) - marginal.mean_tokens

    median = brentq(excess, marginal.q25_tokens, marginal.q75_tokens, xtol=1e-6)
    return replace(marginal, q50_tokens=float(median))


@functools.lru_cache(maxsize=64)
def _sample(lengths: Lengths, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    index = np.arange(1, n + 1)
    first = _normal((0.5 + index / PLASTIC_NUMBER) % 1.0)
    second = _normal((0.5 + index / PLASTIC_NUMBER**2) % 1.0)
    joined = lengths.correlation * first + np.sqrt(1 - lengths.correlation**2) * second
    prompt = lengths.prompt.quantile(_ranks(first))
    output = lengths.output.quantile(_ranks(joined))
    output = np.minimum(output, lengths.total_max_tokens - prompt)
    return (
        _stretched(prompt, lengths.prompt.mean_tokens),
        _stretched(output, lengths.output.mean_tokens),
    )


def _normal(shares: Floats) -> Floats:
    """The standard normal's quantiles; the standard library's, which needs no slow import."""
    quantile = NormalDist().inv_cdf
    return np.array([quantile(share) for share in shares.tolist()])


def _ranks(values: Floats) -> Floats:
    """The values' ranks as shares in (0, 1): exact marginals whatever the sample."""
    ranks = np.empty(values.size)
    ranks[np.argsort(values, kind="stable")] = (np.arange(values.size) + 0.5) / values.size
    return ranks


def _stretched(values: Floats, mean: float) -> NDArray[np.float32]:
    column: NDArray[np.float32] = (values * (mean / values.mean())).astype(np.float32)
    column.flags.writeable = False
    return column
