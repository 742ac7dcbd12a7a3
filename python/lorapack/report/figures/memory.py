"""Where each GPU's memory goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import altair as alt

from lorapack.report.figures.style import EMPTY, SERIES, Figure, chart_of, spec_of

if TYPE_CHECKING:
    from lorapack.packer.plan import PlannedGpu

MEMORY_PARTS = {
    "weights": "weights",
    "lora_slots": "LoRA slots",
    "activations": "activations",
    "cuda_graphs": "CUDA graphs",
    "fragmentation": "fragmentation",
    "other": "other",
    "kv_cache": "KV cache",
    "unused": "unused",
}
"""Keys of the memory rule's parts -> what the page calls them, in stacking order."""


def memory(gpus: Sequence[PlannedGpu]) -> Figure | None:
    """Where each GPU's memory goes.

    Args:
        gpus: The GPUs of a plan.

    Returns:
        The figure, or None where the plan says nothing of memory.
    """
    rows = [
        {"gpu": gpu.gpu, "part": label, "gib": round(float(value), 3), "order": order}
        for gpu in gpus
        for order, (key, label) in enumerate(MEMORY_PARTS.items())
        if (value := _parts(gpu).get(key)) is not None
    ]
    if not rows:
        return None
    labels = list(MEMORY_PARTS.values())
    chart = (
        chart_of(rows)
        .mark_bar(height={"band": 0.72})
        .encode(
            x=alt.X("gib:Q", title="GiB", stack="zero", axis=alt.Axis(tickCount=10)),
            y=alt.Y("gpu:N", title=None, sort=[gpu.gpu for gpu in gpus]),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=labels, range=[*SERIES[:7], EMPTY]),
            ),
            order="order:Q",
            tooltip=["gpu:N", "part:N", alt.Tooltip("gib:Q", title="GiB", format=".2f")],
        )
    )
    table = [
        [gpu.gpu, *(_parts(gpu).get(key) for key in MEMORY_PARTS)] for gpu in gpus if _parts(gpu)
    ]
    return Figure(
        "memory",
        "Memory of each GPU",
        "Slots are paid in full whether used or not; what is left is KV cache.",
        spec_of(chart, height=max(60, 24 * len(gpus))),
        ["GPU", *labels],
        table,
    )


def _parts(gpu: PlannedGpu) -> Mapping[str, float]:
    parts = gpu.memory.get("parts_gib")
    return parts if isinstance(parts, Mapping) else {}
