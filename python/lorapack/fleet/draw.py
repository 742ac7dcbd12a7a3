"""Stated rules for what a source does not say: popularity of adapters, ranks, mixes of them.

Each rule is a short text that the command line takes, the error names and the fleet's header
repeats: ``zipf:1.0``, ``lognormal:1.4``, ``8:0.5,16:0.3,32:0.2``.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from lorapack.errors import InputError, did_you_mean
from lorapack.fleet.adapter import COLUMN, well_formed

_LAWS = {"zipf": "zipf:1.0", "lognormal": "lognormal:1.4", "uniform": "uniform"}
_LARGEST_PARAMETER = 10.0


@dataclasses.dataclass(frozen=True)
class Popularity:
    """How unevenly requests fall on adapters.

    Attributes:
        law: ``zipf`` (weight of the k-th adapter k**-parameter), ``lognormal`` (weights drawn with
            sigma = parameter) or ``uniform``.
        parameter: The exponent or the sigma; 0 for uniform.
    """

    law: str
    parameter: float

    @classmethod
    def parse(cls, text: str) -> Popularity:
        """Reads ``zipf:S``, ``lognormal:SIGMA`` or ``uniform``.

        Args:
            text: The rule.

        Returns:
            The popularity.

        Raises:
            InputError: It is none of these.

        Example:
            >>> Popularity.parse("zipf:1.1")
            Popularity(law='zipf', parameter=1.1)
        """
        law, _, rest = text.partition(":")
        if law not in _LAWS:
            mend = f"{did_you_mean(law, _LAWS)} write it as {', '.join(_LAWS.values())}"
            raise InputError(None, "popularity", text, mend)
        parameter = _finite(rest) if law != "uniform" else 0.0 if rest == "" else math.nan
        if not 0 <= parameter <= _LARGEST_PARAMETER:
            raise InputError(None, "popularity", text, f"write it as {_LAWS[law]}")
        return cls(law, parameter)

    def __str__(self) -> str:
        return self.law if self.law == "uniform" else f"{self.law}:{self.parameter:g}"

    def weights(self, n_adapters: int, random: np.random.Generator) -> NDArray[np.float64]:
        """Shares of the requests.

        Args:
            n_adapters: How many.
            random: Where lognormal weights are drawn.

        Returns:
            Shares that sum to 1, not sorted for ``lognormal``, falling for ``zipf``.
        """
        if self.law == "zipf":
            weights = np.arange(1, n_adapters + 1, dtype=np.float64) ** -self.parameter
        elif self.law == "lognormal":
            weights = random.lognormal(sigma=self.parameter, size=n_adapters)
        else:
            weights = np.ones(n_adapters)
        return np.asarray(weights / weights.sum(), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class RankMix:
    """Which ranks adapters have, and in which shares.

    Attributes:
        shares: Rank -> share; the shares sum to 1.
    """

    shares: dict[int, float]

    @classmethod
    def parse(cls, text: str) -> RankMix:
        """Reads ``8:0.5,16:0.3,32:0.2`` or, with equal shares, ``8,16,32``.

        Args:
            text: The rule.

        Returns:
            The mix, its shares scaled to sum to 1.

        Raises:
            InputError: A rank or a share cannot be used.

        Example:
            >>> RankMix.parse("8,16").shares
            {8: 0.5, 16: 0.5}
        """
        shares: dict[int, float] = {}
        for part in text.split(","):
            rank_text, colon, share_text = part.strip().partition(":")
            rank = int(rank_text) if rank_text.isascii() and rank_text.isdecimal() else None
            if rank is None or not well_formed(COLUMN["rank"], rank) or rank == 0:
                raise InputError(None, "ranks", part, COLUMN["rank"].mend)
            share = _finite(share_text) if colon else 1.0
            if not 0 < share < math.inf or rank in shares:
                mend = "give each rank once, with a positive share: 8:0.5,16:0.3,32:0.2"
                raise InputError(None, "ranks", part, mend)
            shares[rank] = share
        total = sum(shares.values())
        return cls({rank: share / total for rank, share in shares.items()})

    def __str__(self) -> str:
        return ",".join(f"{rank}:{share:.4g}" for rank, share in self.shares.items())

    def draw(self, n_adapters: int, random: np.random.Generator) -> list[int]:
        """Draws a rank for each adapter.

        Args:
            n_adapters: How many.
            random: Where from.

        Returns:
            Ranks.
        """
        ranks, shares = list(self.shares), list(self.shares.values())
        return [int(rank) for rank in random.choice(ranks, p=shares, size=n_adapters)]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random stream of a purpose: what one draws moves no other's draws.

    Args:
        seed: The command's seed.
        purpose: A word: ``ranks``, ``popularity``.

    Returns:
        NumPy's generator, the same on every machine.
    """
    return np.random.default_rng([seed, *purpose.encode()])


def significant(value: float, digits: int = 6) -> float:
    """A measured number without digits that mean nothing.

    Args:
        value: Any.
        digits: How many to keep.

    Returns:
        The number, rounded.

    Example:
        >>> significant(0.12345678)
        0.123457
    """
    return float(f"{value:.{digits}g}")


def _finite(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
