"""`max-backbone`: each server filled until its load reaches what the bare model serves.

A baseline of arXiv 2508.08343 and 2602.24044. It knows nothing of what adapters cost, and takes as
many GPUs as it takes.
"""

from __future__ import annotations

from lorapack.fleet.adapter import Adapter
from lorapack.packer.baselines.ground import Baseline, Ground, Groups
from lorapack.packer.placement import compatible
from lorapack.twin.trial import Trial

OVERLOAD_RPS = 200.0
"""A rate no single GPU serves: what is served of it is the model's most."""


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Fills GPU after GPU; `n_gpus` is what `n_gpus_of` said."""
    filled: Groups = [[]]
    room = most = bare_throughput_tps(ground)
    for item in ground.items:
        load = ground.load_tps(item)
        if filled[-1] and (load > room or not compatible(filled[-1], [item])):
            filled.append([])
            room = most
        filled[-1].append(item)
        room -= load
    assert len(filled) <= max(n_gpus, len(filled))
    return filled


def bare_throughput_tps(ground: Ground) -> float:
    """Tokens per second that the model serves without adapters, overloaded."""
    base = Adapter("base", 0, OVERLOAD_RPS)
    verdict = ground.evaluator.judge([Trial(ground.kind.profile, (base,), 0, 8)])[0]
    return verdict.throughput_tps


def n_gpus_of(ground: Ground) -> int:
    """As many as it fills."""
    return len(groups(ground, 0))


BASELINE = Baseline("max-backbone", groups, lambda n: n, n_gpus_of)
