"""Small fleets drawn by Hypothesis: any rank, the base model, some adapters to be kept apart."""

from __future__ import annotations

from hypothesis import strategies as st

from lorapack.fleet.adapter import Adapter

RATES = st.floats(0.001, 30.0, allow_nan=False)
RANKS = st.sampled_from([0, 8, 16, 32, 64])


@st.composite
def fleets(draw: st.DrawFn, most: int = 25) -> list[Adapter]:
    n = draw(st.integers(1, most))
    groups = st.sampled_from([None, None, None, "g", "h"])
    return [Adapter(f"a{i}", draw(RANKS), draw(RATES), keep_apart=draw(groups)) for i in range(n)]
