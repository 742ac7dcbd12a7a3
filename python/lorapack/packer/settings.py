"""How to pack, as opposed to what; and the few numbers of the procedure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from lorapack.predictor.predictor import Predictor

Slots = Literal["own", "ours"]
"""Whose choice of slots a baseline runs with."""

SEED_MARGIN = 0.03
"""Trials while placing are made at rates this much higher, at first."""

VERIFYING_SEEDS = 3
"""Fresh seeds on which every GPU is verified."""


@dataclass(frozen=True)
class Settings:
    """How to pack, as opposed to what: no answer may depend on `jobs` or on who listens.

    Attributes:
        method: Name of the method.
        slots: `own`: a baseline's own; `ours`: chosen per GPU as `greedy` chooses them.
        more_gpus: GPUs taken beyond the fewest that hold on the placing seed.
        n_seeds: Verifying seeds.
        seed_margin: Trials while placing are made at rates this much higher; `greedy` raises it
            where that proves too little.
        jobs: Threads; None: all cores.
        verify: Off: predictions only, no twin; the plan says that nothing was verified.
        predictors: Without `verify`: models asked in place of those that come with a profile.
        progress: Told what is going on and how many of how many adapters are done.
    """

    method: str = "greedy"
    slots: Slots = "own"
    more_gpus: int = 0
    n_seeds: int = VERIFYING_SEEDS
    seed_margin: float = SEED_MARGIN
    jobs: int | None = None
    verify: bool = True
    predictors: tuple[Predictor, ...] = ()
    progress: Callable[[str, int], None] = lambda _label, _done: None
