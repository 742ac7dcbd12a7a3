"""The packing methods by name: each says where items go and with how many slots, nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lorapack.errors import InputError, did_you_mean
from lorapack.packer.greedy import Greedy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lorapack.packer.pack import Settings
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import GpuKind, Problem
    from lorapack.packer.verify import Judges


class Method(Protocol):
    """Places the items of one base model on GPUs of the kinds that serve it."""

    def __call__(
        self,
        problem: Problem,
        kinds: Sequence[GpuKind],
        items: Sequence[Item],
        steer: Judges,
        settings: Settings,
    ) -> list[GpuPlacement]:
        """The GPUs; whether they hold is for `verify` to say."""
        ...


def greedy(
    problem: Problem,
    kinds: Sequence[GpuKind],
    items: Sequence[Item],
    steer: Judges,
    settings: Settings,
) -> list[GpuPlacement]:
    """`greedy` (ours): filled to the limit by the twin, then spread evenly."""
    packer = Greedy(
        kinds,
        steer.level,
        steer.slo,
        advance=lambda done: settings.progress("filling GPUs", done),
    )
    return packer.place(items, problem.n_gpus)


METHODS: Mapping[str, Method] = {
    "greedy": greedy,
}
"""Name -> method."""


def check_method(name: str) -> None:
    """Refuses a name that is no method's.

    Raises:
        InputError: With the nearest name.
    """
    if name not in METHODS:
        raise InputError("pack", "method", name, did_you_mean(name, METHODS))
