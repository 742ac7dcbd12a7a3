"""Fleets by rule: so many adapters, rates spread so, ranks dealt so: a SWEEP.toml's ``[fleet]``.

A law and a seed make a fleet, always the same. Rates may be given by adapter, in all, or as a
multiple of what the GPU can serve (``load``), which puts a sweep's scenarios around the frontier
between served and starved whatever the profile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lorapack.errors import InputError
from lorapack.fleet.adapter import LARGEST_CV, LARGEST_RANK, assemble
from lorapack.fleet.fleet import Fleet
from lorapack.profile.section import choice, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_LAWS = ("equal", "groups", "zipf", "lognormal", "clients")
"""How a fleet's rates differ between adapters."""

DRAWN_GROUPS = 3
"""Groups whose rates are drawn, under ``group_span``."""

MOST_TOKENS = 16_384.0
"""Longest mean prompt or answer that a law draws, tokens."""


@dataclass(frozen=True)
class ClientPool:
    """Production clients, each with its own rate, burstiness and lengths, as lognormal laws.

    The constants summarise the clients of Alibaba's ServeGen (Apache-2.0, arXiv 2505.09999), the
    three language models together: medians and standard deviations of the logarithm over clients.

    Attributes:
        rate_sigma: Of mean rates at a client's busy hour.
        cv_median: Coefficient of variation of gaps.
        cv_sigma: Of the same.
        weibull_share: Share of the clients whose gaps are Weibull, not Gamma.
        prompt_median: Mean prompt, tokens.
        prompt_sigma: Of the same.
        output_median: Mean answer, tokens.
        output_sigma: Of the same.
        length_correlation: Between clients, of the logarithms of the two means.
        prompt_spread: Within a client: sigma of its prompts, median over clients.
        output_spread: Within a client: sigma of its answers, median over clients.
        spread_sigma: Of the two spreads between clients.
    """

    rate_sigma: float = 1.6
    cv_median: float = 2.5
    cv_sigma: float = 0.9
    weibull_share: float = 0.3
    prompt_median: float = 600.0
    prompt_sigma: float = 1.2
    output_median: float = 65.0
    output_sigma: float = 1.5
    length_correlation: float = 0.5
    prompt_spread: float = 0.35
    output_spread: float = 0.55
    spread_sigma: float = 0.7


CLIENTS = ClientPool()
"""The pool that ``rates = "clients"`` draws from."""


@dataclass(frozen=True)
class FleetLaw:
    """What ``[fleet]`` may say, once every range and list is resolved.

    Exactly one of ``rate_rps``, ``total_rate_rps`` and ``load`` sets the rates' level.

    Attributes:
        n_adapters: Adapters, the base model not counted.
        rates: One of :data:`RATE_LAWS`.
        rate_rps: Mean rate of an adapter, requests per second.
        total_rate_rps: Rate of all, requests per second.
        load: Rate of all over what the GPU can complete of this mix (:mod:`lorapack.twin.physics`).
        group_span: Of ``groups``: the largest rate over the smallest, at most; each of
            :data:`DRAWN_GROUPS` groups has a rate drawn between them, on a logarithmic scale. Not
            given: the rates are those listed as ``groups``.
        zipf_exponent: Of ``zipf``: the i-th adapter's rate goes with 1 / i^exponent.
        rate_sigma: Of ``lognormal``: sigma of the rates' logarithm.
        prompt_tokens: Mean prompt, tokens; the profile's if not given.
        output_tokens: Mean answer, tokens; the profile's if not given.
        length_spread: Sigma of the logarithm of adapters' mean lengths around those; 0: all alike.
        lengths: Of each adapter: ``profile`` (the profile's law with the means above),
            ``lognormal`` (with them), or ``default`` (the profile's law as it is).
        prompt_sigma: Of ``lognormal`` lengths.
        output_sigma: Of ``lognormal`` lengths.
        cv: Coefficient of variation of the gaps; 1: Poisson.
        cv_spread: Sigma of its logarithm between adapters.
        gaps: Family of the gaps: ``gamma``, ``weibull``, or ``mixed``.
        base_share: Share of the requests that go to the base model itself, 0..1; at 1 there are no
            adapters.
        spare_slots: Whether there may be more LoRA slots than adapters; if not, ``max_loras`` is
            lowered to them.
        seed: Of what is drawn; each point its own if not given.
    """

    n_adapters: int = number(low=0)
    rates: str = choice(*RATE_LAWS)
    rate_rps: float | None = number(optional=True)
    total_rate_rps: float | None = number(optional=True)
    load: float | None = number(optional=True)
    group_span: float | None = number(low=1, optional=True)
    zipf_exponent: float | None = number(optional=True)
    rate_sigma: float | None = number(high=10, optional=True)
    prompt_tokens: float | None = number(low=1, optional=True)
    output_tokens: float | None = number(low=1, optional=True)
    length_spread: float | None = number(high=5, optional=True)
    lengths: str | None = None
    prompt_sigma: float | None = number(high=5, optional=True)
    output_sigma: float | None = number(high=5, optional=True)
    cv: float | None = number(low=0.01, high=LARGEST_CV, optional=True)
    cv_spread: float | None = number(high=5, optional=True)
    gaps: str | None = None
    base_share: float | None = number(high=1, optional=True)
    spare_slots: bool | None = None
    seed: int | None = number(optional=True)

    def check(self, file: str) -> None:
        """Refuses what goes against itself.

        Raises:
            InputError: See the class.
        """
        levels = [n for n in ("rate_rps", "total_rate_rps", "load") if getattr(self, n) is not None]
        if len(levels) != 1:
            found = ", ".join(levels) or None
            mend = "give exactly one of rate_rps, total_rate_rps, load"
            raise InputError(file, "[fleet]", found, mend)
        for name, known in (
            ("lengths", (None, "profile", "lognormal", "default")),
            ("gaps", (None, "gamma", "weibull", "mixed")),
        ):
            if getattr(self, name) not in known:
                mend = f"give one of {', '.join(word for word in known if word)}"
                raise InputError(file, f"[fleet] {name}", getattr(self, name), mend)
        if self.n_adapters == 0 and not self.base_share:
            raise InputError(file, "[fleet] n_adapters", 0, "give 1 or more, or a base_share")


def check_ranks(ranks: object, file: str) -> tuple[int, ...]:
    """The mix of ranks that is dealt to adapters in turn, ``[8]`` if there is none.

    Raises:
        InputError: It is not a list of ranks.
    """
    if ranks is None:
        return (8,)
    listed = ranks if isinstance(ranks, Sequence) and not isinstance(ranks, str) else [ranks]
    if not listed or not all(type(rank) is int and 1 <= rank <= LARGEST_RANK for rank in listed):
        raise InputError(file, "[fleet] ranks", ranks, f"give ranks from 1 to {LARGEST_RANK}")
    return tuple(listed)


def check_groups(groups: object, file: str) -> tuple[float, ...]:
    """Relative rates that ``groups`` deals to adapters in turn.

    Raises:
        InputError: It is not a list of positive numbers.
    """
    if groups is None:
        return (4.0, 2.0, 1.0)
    listed = groups if isinstance(groups, Sequence) and not isinstance(groups, str) else [groups]
    rates = [float(g) for g in listed if isinstance(g, int | float) and not isinstance(g, bool)]
    if not listed or len(rates) != len(listed) or min(rates) <= 0:
        raise InputError(file, "[fleet] groups", groups, "give relative rates above 0")
    return tuple(rates)


def draw_fleet(
    law: FleetLaw,
    ranks: Sequence[int],
    groups: Sequence[float],
    seed: int,
    means: tuple[float, float],
    capacity_rps: Callable[[Fleet], float],
) -> Fleet:
    """Draws a fleet.

    Args:
        law: The rule.
        ranks: Dealt in turn, then shuffled.
        groups: Relative rates, dealt in turn, then shuffled (``groups`` only).
        seed: Of everything drawn.
        means: The profile's mean prompt and answer, tokens.
        capacity_rps: What the GPU can complete of a fleet's mix (asked only under ``load``).
    """
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x666C6565])))
    if law.base_share == 1.0:
        law = replace(law, n_adapters=0)
    n = law.n_adapters
    rates = _relative_rates(law, groups, draw)
    columns: dict[str, Sequence[object]] = {
        "adapter": [f"a{i}" for i in range(n)],
        "rank": draw.permutation(np.resize(np.array(ranks), n)).tolist(),
    }
    columns |= _clients(n, draw) if law.rates == "clients" else _adapters(law, means, draw)
    if law.base_share:
        rates = np.append(rates * (1.0 - law.base_share), law.base_share)
        columns = _with_base(columns)
    columns["rate_rps"] = rates.tolist()
    fleet = Fleet(assemble(columns))
    return fleet.scaled(_level(law, fleet, capacity_rps))


def _relative_rates(
    law: FleetLaw, groups: Sequence[float], draw: np.random.Generator
) -> NDArray[np.float64]:
    """Rates that add up to one request a second."""
    n = law.n_adapters
    if law.rates == "groups":
        if law.group_span is not None:
            groups = tuple(law.group_span ** draw.random(DRAWN_GROUPS))
        rates = draw.permutation(np.resize(np.array(groups), n))
    elif law.rates == "zipf":
        exponent = 1.0 if law.zipf_exponent is None else law.zipf_exponent
        rates = draw.permutation(1.0 / np.arange(1, n + 1) ** exponent)
    elif law.rates == "lognormal":
        sigma = 1.0 if law.rate_sigma is None else law.rate_sigma
        rates = np.exp(sigma * draw.standard_normal(n))
    elif law.rates == "clients":
        rates = np.exp(CLIENTS.rate_sigma * draw.standard_normal(n))
    else:
        rates = np.ones(n)
    return rates / max(float(rates.sum()), 1e-300)


def _level(law: FleetLaw, fleet: Fleet, capacity_rps: Callable[[Fleet], float]) -> float:
    """The factor on rates that add up to one request a second."""
    if law.rate_rps is not None:
        return law.rate_rps * max(law.n_adapters, 1)
    if law.total_rate_rps is not None:
        return law.total_rate_rps
    return (law.load or 0.0) * capacity_rps(fleet)


def _adapters(
    law: FleetLaw, means: tuple[float, float], draw: np.random.Generator
) -> dict[str, Sequence[object]]:
    n, columns = law.n_adapters, {}
    given = (law.prompt_tokens, law.output_tokens)
    spread = law.length_spread or 0.0
    if law.lengths == "default":
        given, spread = (None, None), 0.0
    if spread or law.lengths == "lognormal" or any(mean is not None for mean in given):
        for name, own, profile in zip(
            ("prompt_tokens", "output_tokens"), given, means, strict=True
        ):
            drawn = np.exp(spread * draw.standard_normal(n) - 0.5 * spread * spread)
            columns[name] = np.clip((own or profile) * drawn, 1.0, MOST_TOKENS).tolist()
    if law.lengths == "lognormal":
        columns["lengths"] = ["lognormal"] * n
        columns["prompt_sigma"] = [law.prompt_sigma or 0.0] * n
        columns["output_sigma"] = [law.output_sigma or 0.0] * n
    cv = np.exp((law.cv_spread or 0.0) * draw.standard_normal(n)) * (law.cv or 1.0)
    columns["cv"] = np.clip(cv, 0.1, LARGEST_CV).tolist()
    family = law.gaps or "gamma"
    weibull = draw.random(n) < 0.5 if family == "mixed" else np.full(n, family == "weibull")
    columns["gaps"] = np.where(weibull, "weibull", "gamma").tolist()
    return columns


def _clients(n: int, draw: np.random.Generator) -> dict[str, Sequence[object]]:
    pool = CLIENTS
    joint = draw.standard_normal(n)
    rest = math.sqrt(1.0 - pool.length_correlation**2)
    other = pool.length_correlation * joint + rest * draw.standard_normal(n)
    prompt = pool.prompt_median * np.exp(pool.prompt_sigma * joint)
    output = pool.output_median * np.exp(pool.output_sigma * other)
    spread = np.exp(pool.spread_sigma * draw.standard_normal(n))
    cv = pool.cv_median * np.exp(pool.cv_sigma * draw.standard_normal(n))
    return {
        "prompt_tokens": np.clip(prompt, 1.0, MOST_TOKENS).tolist(),
        "output_tokens": np.clip(output, 1.0, 2048.0).tolist(),
        "lengths": ["lognormal"] * n,
        "prompt_sigma": np.clip(pool.prompt_spread * spread, 0.0, 2.0).tolist(),
        "output_sigma": np.clip(pool.output_spread * spread, 0.0, 2.8).tolist(),
        "cv": np.clip(cv, 0.8, 30.0).tolist(),
        "gaps": np.where(draw.random(n) < pool.weibull_share, "weibull", "gamma").tolist(),
    }


def _with_base(columns: dict[str, Sequence[object]]) -> dict[str, Sequence[object]]:
    """The base model at the end; what is drawn for adapters it takes from the profile."""
    base = {"adapter": "base", "rank": 0, "cv": 1.0, "gaps": "gamma", "lengths": "profile"}
    return {name: [*values, base.get(name)] for name, values in columns.items()}
