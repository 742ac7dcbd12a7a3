"""Fleets for benches of packing: the papers' mixes, Zipf and lognormal rates, real clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lorapack import Adapter
from lorapack.fleet.draw import RankMix
from lorapack.fleet.from_clients import Drawing, fleet_from_clients
from lorapack.trace.servegen import read_clients

PROFILES = ("llama-3.1-8b/h100-64gb/vllm-0.8.5", "qwen-2.5-7b/h100-64gb/vllm-0.8.5")
"""The GPUs that they are packed for."""

LEAST_RPS, MOST_RPS = 0.08, 0.16
"""Mean rate of an adapter of a large fleet; small ones are busier, so as to need some GPUs."""

FEWEST_RPS = 50.0
"""Requests per second that a large fleet sends at least."""

PAPER_RATES_RPS = (3.2, 1.6, 0.8, 0.4, 0.1, 0.05, 0.025, 0.0125)
"""Rates of arXiv 2508.08343; a fleet has three in a row of them."""

PAPER_RANKS = (8, 16, 32)
RANKS, RANK_SHARES = (8, 16, 32, 64), (0.4, 0.3, 0.2, 0.1)

KINDS = ("mixes", "zipf", "lognormal")
"""Poisson fleets; `clients` are the fourth kind, where a file of them is given."""


def poisson_fleet(kind: str, n: int, requests_per_s: float, seed: int) -> list[Adapter]:
    """A fleet of Poisson adapters with the profile's own lengths.

    Args:
        kind: One of `KINDS`.
        n: Adapters.
        requests_per_s: In all.
        seed: Of everything drawn.
    """
    draw = np.random.default_rng([seed, n, KINDS.index(kind)])
    if kind == "mixes":
        first = int(draw.integers(len(PAPER_RATES_RPS) - 2))
        rates = draw.choice(PAPER_RATES_RPS[first : first + 3], n)
        chosen = draw.choice(PAPER_RANKS, int(draw.integers(1, 4)), replace=False)
        ranks = draw.choice(chosen, n)
    else:
        spread = 1.0 / np.arange(1, n + 1) if kind == "zipf" else draw.lognormal(0.0, 1.4, n)
        rates, ranks = spread, draw.choice(RANKS, n, p=RANK_SHARES)
    rates = rates * (requests_per_s / rates.sum())
    return [
        Adapter(f"a{i:06d}", int(rank), float(rate))
        for i, (rank, rate) in enumerate(zip(ranks, rates, strict=True))
    ]


def large_fleet(kind: str, n: int, seed: int) -> list[Adapter]:
    """A Poisson fleet with as much traffic as so many adapters may be expected to have.

    Args:
        kind: One of `KINDS`.
        n: Adapters.
        seed: Of everything drawn.
    """
    mean = np.random.default_rng([seed, n]).uniform(LEAST_RPS, MOST_RPS)
    return poisson_fleet(kind, n, max(FEWEST_RPS, mean * n), seed)


def client_fleet(path: Path, n: int, seed: int) -> list[Adapter]:
    """Production clients, the busiest scaled to what one GPU holds.

    Args:
        path: A file or folder that `lorapack fleet from-clients` reads.
        n: Adapters; past the file's last client they are drawn again.
        seed: Of everything drawn.
    """
    mix = RankMix(dict(zip(RANKS, RANK_SHARES, strict=True)))
    return list(fleet_from_clients(read_clients(path), Drawing(n, mix, seed=seed))[0])
