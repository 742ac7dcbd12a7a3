"""The one memory rule: how many KV tokens an engine is left with, or why it does not start."""

from __future__ import annotations

from dataclasses import dataclass

from lorapack.profile.section import number


@dataclass(frozen=True)
class Memory:
    """What memory cannot be had from first principles.

    Attributes:
        other_gib: Taken besides weights, slots, logits and KV: CUDA context, libraries, workspaces,
            activations that live on. The one fitted constant.
        cuda_graphs_gib: Taken by CUDA graphs, captured once the KV pool is made.
    """

    other_gib: float = number()
    cuda_graphs_gib: float = number()
