"""`ffd-load`: first fit decreasing by tokens per second, into bins just large enough.

The bin's size is the smallest with which first fit needs no more than the GPUs given: the size that
a user of this method would have to find by trial.
"""

from __future__ import annotations

from lorapack.packer.baselines.ground import Baseline, Ground, Groups, deal

HALVINGS = 30
"""Steps to the smallest bin: to a billionth of the total load."""


def groups(ground: Ground, n_gpus: int) -> Groups:
    """First fit into the smallest bins that do."""
    loaded = sorted(
        ((ground.load_tps(item), item) for item in ground.items),
        key=lambda pair: (-pair[0], pair[1].name),
    )
    loads = [load for load, _ in loaded]
    low, high = sum(loads) / n_gpus, sum(loads) + max(loads)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if max(_first_fit(loads, middle)) < n_gpus else (middle, high)
    return deal([item for _, item in loaded], _first_fit(loads, high), n_gpus)


def _first_fit(loads: list[float], size: float) -> list[int]:
    """The bin of each load: the first with room, else a new one."""
    filled: list[float] = []
    places = []
    for load in loads:
        place = next((i for i, total in enumerate(filled) if total + load <= size), len(filled))
        if place == len(filled):
            filled.append(0.0)
        filled[place] += load
        places.append(place)
    return places


BASELINE = Baseline("ffd-load", groups, lambda n: n)
