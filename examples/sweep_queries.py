"""Questions to a sweep, a few lines each.

lorapack sweep examples/sweep.toml -o rows
python examples/sweep_queries.py rows
"""

import sys

import polars as pl

from lorapack import scan_sweep


def maxpack(rows: pl.LazyFrame) -> pl.DataFrame:
    """The most adapters that one GPU serves, by rate and rank, over all slots tried."""
    kept = (pl.col("served_fraction") >= 0.98) & (pl.col("ttft_with_unserved_p99_ms") <= 2000.0)
    return (
        rows.filter(kept)
        .group_by("fleet.rate_rps", "fleet.ranks")
        .agg(pl.col("n_adapters").max(), pl.col("max_loras").min().alias("fewest_max_loras"))
        .sort("fleet.rate_rps", "fleet.ranks")
        .collect()
    )


def frontier(rows: pl.LazyFrame) -> pl.DataFrame:
    """By slots: the lowest offered load that starved, and the highest that did not."""
    return (
        rows.group_by("max_loras", "starved")
        .agg(
            pl.col("offered_tps").min().alias("least_tps"),
            pl.col("offered_tps").max().alias("most_tps"),
        )
        .sort("max_loras", "starved")
        .collect()
    )


if __name__ == "__main__":
    sweep = scan_sweep(sys.argv[1])
    print("Maxpack by rate and rank:", maxpack(sweep))
    print("Starvation frontier:", frontier(sweep))
