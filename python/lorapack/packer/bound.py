"""The fewest GPUs any plan could use: a true bound from step prices, lengths and memory.

A GPU's engine runs one step at a time, so in a second it spends at most one second on steps. A step
of M tokens whose decodes read `ctx` tokens of KV costs at least

    base(M) + request x requests + context_token x ctx          (tables with the fewest slots)

however the engine spreads the work over steps. For a slope b, base(M) >= a(b) + b M with
a(b) = min over M of base(M) - b M, a supporting line. A step's context fits in the KV capacity K,
so the steps number at least context / K. Summed over the steps that serve one request of p prompt
and o output tokens, the engine-seconds it costs are at least

    c = b (p + o - 1) + request o + (context_token + a(b) / K) C,    C = (o - 1) (p + (o - 2) / 2)

A plan need not serve everything: a GPU may leave a share d = 1 - min_served of its tokens. By
weak duality, for any price per token m, what remains costs at least E[min(c, m t)] - m d E[t] a
request (t = p + o). Any pair (b, m) gives a true bound, sum of rate x that, and the best pair is
taken. Rank raises a(b) and lowers K: an adapter is charged at its own rank, since its GPU's rank is
no smaller. Distinct adapters, idle slots, queues and starvation of single adapters are left out, so
the bound is true, and loose.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lorapack.fleet.adapter import MAX_LORA_RANKS
from lorapack.packer.problem import serves
from lorapack.twin.scenario import rounded_up_rank

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.problem import Problem
    from lorapack.profile.profile import Profile
    from lorapack.profile.step_time import StepTables

    Floats = NDArray[np.float64]

N_SLOPES = 32
"""Slopes b tried, evenly from none to the dearest rank's cheapest token."""

TOKEN_PRICES = tuple(0.5 * 1.4**i for i in range(12))
"""Prices per token m tried, as multiples of what the profile's own lengths cost a token."""

N_PAIRS = 512
"""Rows of the sample of lengths over which expectations are taken."""

SECONDS_PER_PICOSECOND = 1e-12


@dataclass(frozen=True)
class Lines:
    """The supporting lines of one profile at one rank.

    Attributes:
        slopes_s: b, seconds a token; never above this rank's cheapest token.
        step_s_per_token: a(b) / K + context_token, seconds per context token read.
        request_s: Seconds a request and step.
    """

    slopes_s: Floats
    context_token_s: Floats
    request_s: float

    def costs_s(self, prompt: Floats, output: Floats) -> Floats:
        """Engine-seconds c of requests: one row a slope, one column a request."""
        context = (output - 1) * (prompt + (output - 2) / 2)
        return (
            np.outer(self.slopes_s, prompt + output - 1)
            + np.outer(self.context_token_s, context)
            + self.request_s * output
        )


def true_bound(problem: Problem, evaluator: Evaluator) -> float:
    """A number of GPUs that no plan goes below, as a float.

    Where several kinds of GPU serve an adapter, it is charged at the cheapest of them.
    """
    bound = 0.0
    for group in _groups(problem):
        by_law: dict[_Law, float] = {}
        for adapter in group:
            law = law_of(adapter)
            by_law[law] = by_law.get(law, 0.0) + adapter.rate_rps
        rates = np.array(list(by_law.values()))
        prices = [
            _stacked(_columns(kind.profile, by_law, evaluator, problem.slo.min_served))
            for kind in problem.kinds_for(group[0])
        ]
        best = [price[int(np.argmax(price @ rates))] for price in prices]
        bound += max(0.0, float(np.min(best, axis=0) @ rates))
    return bound


def request_prices_s(
    profile: Profile, adapters: Sequence[Adapter], evaluator: Evaluator, min_served: float
) -> Floats:
    """Least engine-seconds a request of each adapter costs, unserved share taken off.

    Returns:
        One row a pair (b, m), one column an adapter: every row is a valid list of prices.
        Infinite for an adapter whose rank no engine of this profile starts with.
    """
    keys = [law_of(adapter) for adapter in adapters]
    columns = _columns(profile, keys, evaluator, min_served)
    return np.stack([columns[key] for key in keys], axis=1)


def dearest_prices_s(
    profile: Profile, adapters: Sequence[Adapter], evaluator: Evaluator, min_served: float
) -> Floats:
    """The largest of each adapter's prices of `request_prices_s`."""
    keys = [law_of(adapter) for adapter in adapters]
    columns = _columns(profile, keys, evaluator, min_served)
    dearest = {key: float(column.max()) for key, column in columns.items()}
    return np.array([dearest[key] for key in keys])


def _columns(
    profile: Profile, keys: Iterable[_Law], evaluator: Evaluator, min_served: float
) -> dict[_Law, Floats]:
    """Prices by law, those of equal laws once, in the order in which laws occur."""
    laws = list(dict.fromkeys(keys))
    capacity = {
        rank: _capacity(profile, rank, evaluator) for rank in {0, *(law[0] for law in laws)}
    }
    return {
        key: _prices_of_law(profile, key, (capacity[0], capacity[key[0]]), min_served)
        for key in laws
    }


_Law = tuple[int, str, "float | None", "float | None"]
"""What a request's price depends on: rank class, kind of lengths, their means."""


@functools.lru_cache(maxsize=4096)
def _prices_of_law(
    profile: Profile, law: _Law, capacities: tuple[int, int], min_served: float
) -> Floats:
    """One column of prices; capacities without LoRA and at the law's rank, tokens."""
    rank, kind, prompt_mean, output_mean = law
    bare_capacity, capacity = capacities
    if not capacity:
        return np.full(N_SLOPES * len(TOKEN_PRICES), np.inf)
    scale = _token_price_scale_s(profile, bare_capacity)
    prompt, output = lengths_of(profile, kind, prompt_mean, output_mean)
    costs = supporting_lines(profile, rank, capacity).costs_s(prompt, output)
    tokens = prompt + output
    rows = []
    for multiple in TOKEN_PRICES:
        price = multiple * scale
        kept = np.minimum(costs, np.outer(price, tokens)).mean(axis=1)
        rows.append(kept - price * (1.0 - min_served) * tokens.mean())
    return np.concatenate(rows)


def _capacity(profile: Profile, rank: int, evaluator: Evaluator) -> int:
    """KV tokens with the fewest slots of a rank (0: LoRA off); 0 if no engine starts."""
    return evaluator.kv_cache_tokens(profile, 1 if rank else 0, rank or MAX_LORA_RANKS[0])


@functools.lru_cache(maxsize=64)
def supporting_lines(profile: Profile, rank: int, capacity: int) -> Lines:
    """The lines at a rank (0: LoRA off) with the fewest slots.

    Args:
        profile: Its step table.
        rank: A `max_lora_rank`.
        capacity: KV tokens.
    """
    budget = profile.engine.max_num_batched_tokens
    tokens = np.arange(1, budget + 1, dtype=np.float64)
    # What a GPU of this rank or a larger one pays at least: fitted prices need not rise with rank.
    larger = [_tables(profile, other) for other in (0, *MAX_LORA_RANKS) if other >= rank]
    base = np.min([tables.base[1:] for tables in larger], axis=0) * SECONDS_PER_PICOSECOND
    dearest = _tables(profile, MAX_LORA_RANKS[-1]).base[1:]
    # One grid of slopes for all ranks, each cut where its intercept would be negative: so a GPU of
    # a larger rank pays no less in slope and in intercept, and charging each adapter at its own
    # rank stays true.
    grid = np.linspace(0.0, (dearest / tokens).min() * SECONDS_PER_PICOSECOND, N_SLOPES)
    slopes = np.minimum(grid, (base / tokens).min())
    intercepts = (base[None, :] - np.outer(slopes, tokens)).min(axis=1).clip(min=0.0)
    context_ps = min(
        min(tables.context_token_ps, tables.mixed_context_token_ps) for tables in larger
    )
    return Lines(
        slopes,
        intercepts / capacity + context_ps * SECONDS_PER_PICOSECOND,
        min(tables.request_ps for tables in larger) * SECONDS_PER_PICOSECOND,
    )


def _tables(profile: Profile, rank: int) -> StepTables:
    """A step's prices with the fewest slots of a rank (0: LoRA off)."""
    budget = profile.engine.max_num_batched_tokens
    return profile.step_time.tables(1 if rank else 0, rank or MAX_LORA_RANKS[0], budget)


def lengths_of(
    profile: Profile, kind: str, prompt_mean: float | None, output_mean: float | None
) -> tuple[Floats, Floats]:
    """A sample of lengths, tokens: the profile's shape at the given means, cut as the twin cuts.

    Lengths of a law of their own are taken at their means: less context than is read, so the bound
    stays true.
    """
    longest = float(profile.engine.max_model_len)
    own = profile.lengths
    if kind == "profile":
        prompt, output = (column.astype(np.float64) for column in own.pairs(N_PAIRS))
        if prompt_mean is not None:
            prompt = prompt * (prompt_mean / own.prompt.mean_tokens)
        if output_mean is not None:
            output = output * (output_mean / own.output.mean_tokens)
    else:
        prompt = np.array([prompt_mean], dtype=np.float64)
        output = np.array([output_mean], dtype=np.float64)
    prompt = np.clip(prompt, 1.0, longest - 1.0)
    return prompt, np.clip(output, 1.0, longest - prompt)


@functools.lru_cache(maxsize=64)
def _token_price_scale_s(profile: Profile, capacity: int) -> Floats:
    """What a token of the profile's own lengths costs, by slope, seconds: the unit of m."""
    lines = supporting_lines(profile, 0, capacity)
    prompt, output = (column.astype(np.float64) for column in profile.lengths.pairs(N_PAIRS))
    mean: Floats = lines.costs_s(prompt, output).mean(axis=1) / (prompt + output).mean()
    return mean


def _stacked(columns: Mapping[_Law, Floats]) -> Floats:
    return np.stack(list(columns.values()), axis=1)


def law_of(adapter: Adapter) -> _Law:
    """What the price of an adapter's requests depends on."""
    rank = adapter.rank
    return (
        _rank_class(rank) if rank else 0,
        adapter.lengths,
        adapter.prompt_tokens,
        adapter.output_tokens,
    )


@functools.lru_cache(maxsize=1024)
def _rank_class(rank: int) -> int:
    return rounded_up_rank(rank)


def _groups(problem: Problem) -> list[list[Adapter]]:
    """The fleet in groups that the same kinds of GPU serve."""
    groups: dict[tuple[bool, ...], list[Adapter]] = {}
    for adapter in problem.fleet:
        served = tuple(serves(kind, adapter) for kind in problem.pool)
        groups.setdefault(served, []).append(adapter)
    return list(groups.values())
