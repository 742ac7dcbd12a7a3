"""How long requests are: joint laws of prompt and output tokens.

Without a law of its own a scenario takes each adapter's ``lengths`` column: the profile's joint
shape scaled to the adapter's means, or its own constant or lognormal law. A law of the scenario
overrides them for every adapter.

The twin draws from a few shapes that many adapters share, each adapter with two factors of its own;
:class:`Drawn` is such a pair of shape and factors.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np

from lorapack import _native
from lorapack.errors import InputError
from lorapack.profile.lengths import Lengths as ProfileLengths
from lorapack.profile.section import number

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    from lorapack.fleet.adapter import Adapter

    Numbers = NDArray[np.floating[Any]]

SAMPLE_ROWS = 8192
"""Rows to which a weighted histogram is laid out: shares to 0.01 %."""


class Drawn(NamedTuple):
    """A shape of the twin and an adapter's factors on it.

    Attributes:
        shape: What is drawn from.
        prompt_scale: Factor on the prompt's tokens.
        output_scale: Factor on the output's tokens.
    """

    shape: _native.LengthShape
    prompt_scale: float
    output_scale: float


Draw: TypeAlias = "Callable[[Adapter], Drawn]"
"""Says what the twin draws an adapter's lengths from."""


class LengthLaw(Protocol):
    """Prompt and output lengths, drawn together."""

    def bound(self, lengths: ProfileLengths) -> Draw:
        """Says what the twin draws each adapter's lengths from, under a profile's lengths."""
        ...


@dataclass(frozen=True)
class OwnLengths:
    """Each adapter's own ``lengths`` column: the law of a scenario that names none."""

    def bound(self, lengths: ProfileLengths) -> Draw:
        """What the twin draws from."""
        of_profile, constant = OfProfile().bound(lengths), Constant().bound(lengths)

        def draw(adapter: Adapter) -> Drawn:
            if adapter.lengths == "profile":
                return of_profile(adapter)
            if adapter.lengths == "constant":
                return constant(adapter)
            law = Lognormal(
                prompt_sigma=adapter.prompt_sigma or 0.0,
                output_sigma=adapter.output_sigma or 0.0,
                correlation=adapter.correlation,
            )
            return law.bound(lengths)(adapter)

        return draw


@dataclass(frozen=True)
class OfProfile:
    """The profile's joint shape, scaled to each adapter's means."""

    def bound(self, lengths: ProfileLengths) -> Draw:
        """What the twin draws from."""
        prompt, output = lengths.prompt.mean_tokens, lengths.output.mean_tokens
        return _scaled(_profile_shape(lengths), (prompt, output), (prompt, output))


@dataclass(frozen=True)
class Constant:
    """Every request alike.

    Attributes:
        prompt_tokens: Of every prompt; ``None``: each adapter's mean.
        output_tokens: Of every answer; ``None``: each adapter's mean.
    """

    prompt_tokens: float | None = number(low=1, optional=True)
    output_tokens: float | None = number(low=1, optional=True)

    def bound(self, lengths: ProfileLengths) -> Draw:
        """What the twin draws from."""
        return _stretched(_one_token(), lengths, self.prompt_tokens, self.output_tokens)


@dataclass(frozen=True)
class Lognormal:
    """Lognormal prompts and answers.

    Attributes:
        prompt_sigma: Standard deviation of the logarithm of prompt tokens.
        output_sigma: Standard deviation of the logarithm of output tokens.
        correlation: Of the two logarithms, -1..1; ``None``: 0.
        prompt_tokens: Mean of prompts, tokens; ``None``: each adapter's.
        output_tokens: Mean of answers, tokens; ``None``: each adapter's.
    """

    prompt_sigma: float = number(high=5.0)
    output_sigma: float = number(high=5.0)
    correlation: float | None = number(-1.0, 1.0, optional=True)
    prompt_tokens: float | None = number(low=1, optional=True)
    output_tokens: float | None = number(low=1, optional=True)

    def bound(self, lengths: ProfileLengths) -> Draw:
        """What the twin draws from."""
        shape = _lognormal(self.prompt_sigma, self.output_sigma, self.correlation or 0.0)
        return _stretched(shape, lengths, self.prompt_tokens, self.output_tokens)


@dataclass(frozen=True, eq=False)
class Empirical:
    """Observed lengths, drawn row by row; adapters' means do not matter.

    Attributes:
        prompt_tokens: Prompt tokens, one entry a row.
        output_tokens: Output tokens, one entry a row.
    """

    prompt_tokens: NDArray[np.float32]
    output_tokens: NDArray[np.float32]

    @classmethod
    def joint(
        cls,
        prompt_tokens: Numbers,
        output_tokens: Numbers,
        weights: Numbers | None = None,
    ) -> Empirical:
        """Rows of a prompt and its output, each as likely as its weight says.

        Args:
            prompt_tokens: Tokens.
            output_tokens: Tokens, as many.
            weights: Likelihood of each row, of any sum; ``None``: all alike.
        """
        if len(prompt_tokens) != len(output_tokens):
            found = f"{len(prompt_tokens)} prompts, {len(output_tokens)} outputs"
            raise InputError("[lengths]", "output_tokens", found, "give as many as prompt_tokens")
        if weights is None:
            return cls(_tokens(prompt_tokens, "prompt"), _tokens(output_tokens, "output"))
        rows = _laid_out(len(prompt_tokens), weights, "weights")
        return cls(_tokens(prompt_tokens[rows], "prompt"), _tokens(output_tokens[rows], "output"))

    @classmethod
    def independent(
        cls,
        prompt_tokens: Numbers,
        output_tokens: Numbers,
        prompt_weights: Numbers | None = None,
        output_weights: Numbers | None = None,
    ) -> Empirical:
        """Two histograms, drawn one without regard to the other.

        Args:
            prompt_tokens: Values of prompts, tokens.
            output_tokens: Values of outputs, tokens.
            prompt_weights: Likelihood of each value; ``None``: all alike.
            output_weights: Likelihood of each value; ``None``: all alike.
        """
        prompt_rows = _laid_out(len(prompt_tokens), prompt_weights, "prompt_weights")
        output_rows = _laid_out(len(output_tokens), output_weights, "output_weights")
        # A fixed shuffle: both marginals stay exact, and the two have no more in common than
        # 8192 random pairs have.
        shuffle = np.random.Generator(np.random.PCG64(0)).permutation(SAMPLE_ROWS)
        return cls(
            _tokens(prompt_tokens[prompt_rows], "prompt"),
            _tokens(output_tokens[output_rows[shuffle]], "output"),
        )

    @functools.cached_property
    def _shape(self) -> _native.LengthShape:
        return _native.LengthShape.pairs(self.prompt_tokens, self.output_tokens)

    def bound(self, lengths: ProfileLengths) -> Draw:  # noqa: ARG002 - every law's
        """What the twin draws from."""
        drawn = Drawn(self._shape, 1.0, 1.0)
        return lambda _: drawn


def _stretched(
    shape: _native.LengthShape,
    lengths: ProfileLengths,
    prompt_tokens: float | None,
    output_tokens: float | None,
) -> Draw:
    """A shape of mean 1, stretched to the means given, else the adapter's, else the profile's."""
    means = (lengths.prompt.mean_tokens, lengths.output.mean_tokens)
    if prompt_tokens is not None and output_tokens is not None:
        drawn = Drawn(shape, prompt_tokens, output_tokens)
        return lambda _: drawn
    draw = _scaled(shape, (1.0, 1.0), means)

    def partly(adapter: Adapter) -> Drawn:
        own = draw(adapter)
        return Drawn(
            shape,
            own.prompt_scale if prompt_tokens is None else prompt_tokens,
            own.output_scale if output_tokens is None else output_tokens,
        )

    return partly


def _scaled(
    shape: _native.LengthShape, of_shape: tuple[float, float], otherwise: tuple[float, float]
) -> Draw:
    """A shape with the means ``of_shape``, scaled to an adapter's means.

    Where an adapter has none, to those of ``otherwise``.
    """
    prompt_mean, output_mean = of_shape
    prompt_otherwise, output_otherwise = otherwise

    def draw(adapter: Adapter) -> Drawn:
        prompt, output = adapter.prompt_tokens, adapter.output_tokens
        return Drawn(
            shape,
            (prompt_otherwise if prompt is None else prompt) / prompt_mean,
            (output_otherwise if output is None else output) / output_mean,
        )

    return draw


def _tokens(values: Numbers, which: str) -> NDArray[np.float32]:
    tokens = np.ascontiguousarray(values, dtype=np.float32)
    wrong = ~(np.isfinite(tokens) & (tokens >= 1))
    if tokens.size == 0 or wrong.any():
        found = tokens[wrong][0].item() if tokens.size else "none"
        raise InputError("[lengths]", f"{which}_tokens", found, "give numbers of 1 or more")
    return tokens


def _laid_out(n: int, weights: Numbers | None, place: str) -> NDArray[np.int64]:
    """Row numbers, :data:`SAMPLE_ROWS` of them, each as often as its weight says."""
    shares = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    usable = shares.size == n and np.isfinite(shares).all() and (shares >= 0).all()
    if n == 0 or not usable or shares.sum() == 0:
        mend = f"give {n} numbers of 0 or more, not all 0" if n else "give at least one value"
        raise InputError("[lengths]", place, shares.tolist()[:8], mend)
    ends = np.cumsum(shares) / shares.sum()
    middles = (np.arange(SAMPLE_ROWS) + 0.5) / SAMPLE_ROWS
    return np.minimum(np.searchsorted(ends, middles), n - 1)


@functools.lru_cache(maxsize=64)
def _profile_shape(lengths: ProfileLengths) -> _native.LengthShape:
    return _native.LengthShape.pairs(*lengths.pairs())


@functools.lru_cache(maxsize=1)
def _one_token() -> _native.LengthShape:
    return _native.LengthShape.constant(1, 1)


@functools.lru_cache(maxsize=256)
def _lognormal(prompt_sigma: float, output_sigma: float, correlation: float) -> _native.LengthShape:
    return _native.LengthShape.lognormal(1.0, prompt_sigma, 1.0, output_sigma, correlation)
