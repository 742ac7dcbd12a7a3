"""Makes fleet.csv: 200 adapters of ranks 8, 16 and 32 whose rates are skewed, as real ones are.

    python examples/make_fleet.py            # writes examples/fleet.csv anew, the same bytes

A few adapters are busy and most are not: rates are lognormal (sigma 1.4), scaled to 80 requests a
second in all, which is the work of several GPUs. Half of the adapters have rank 8, three in ten
rank 16, the rest rank 32. Lengths are left to the profile (its own mean and joint shape).
"""

from pathlib import Path

import numpy as np

from lorapack import Adapter, Fleet

SEED = 2024
N_ADAPTERS = 200
TOTAL_RATE_RPS = 80.0
SIGMA = 1.4
RANKS = {8: 0.5, 16: 0.3, 32: 0.2}


def main() -> None:
    """Draws the fleet and writes it."""
    random = np.random.default_rng(SEED)
    weights = random.lognormal(sigma=SIGMA, size=N_ADAPTERS)
    rates = TOTAL_RATE_RPS * weights / weights.sum()
    ranks = random.choice(list(RANKS), p=list(RANKS.values()), size=N_ADAPTERS)
    adapters = [
        Adapter(f"tenant-{number:03d}", int(rank), round(float(rate), 4))
        for number, (rank, rate) in enumerate(zip(ranks, rates, strict=True))
    ]
    provenance = {
        "made by": "examples/make_fleet.py",
        "rule": f"rates lognormal, sigma {SIGMA}, scaled to {TOTAL_RATE_RPS:g} requests/s in all; "
        "ranks 8, 16, 32 drawn with shares 0.5, 0.3, 0.2",
        "seed": str(SEED),
    }
    fleet = Fleet(adapters, provenance)
    fleet.write(Path(__file__).with_name("fleet.csv"), force=True)
    print(f"{len(fleet)} adapters, {fleet.rate_rps:.2f} requests/s")


if __name__ == "__main__":
    main()
