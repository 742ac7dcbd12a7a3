"""From one plan to another, in an order that never leaves a request without its adapter.

GPUs of the two plans are paired so that the most traffic stays where it is. Then, in phases: start
new engines, load adapters where they will be, shift the routes, drain where they were, unload,
stop engines that hold nothing any more. An engine whose settings change must be restarted, and
serves nothing meanwhile: its adapters are served elsewhere first where the new plan has them
elsewhere, and the step says so where it does not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lorapack.packer.plan import Plan, PlannedAdapter, PlannedGpu

PHASES = ("start", "restart", "load", "route", "drain", "unload", "stop")
"""The order of the phases."""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        phase: One of `PHASES`.
        gpu: The GPU's name in the old plan, or in the new one if it is new.
        adapter: The adapter; None for steps about a whole GPU.
        call: The engine's HTTP call, where there is one.
        body: Its JSON.
        share: For `route`: the share of the adapter's requests that this GPU gets from now on.
        note: What to mind.
    """

    phase: str
    gpu: str
    adapter: str | None = None
    call: str | None = None
    body: Mapping[str, str] | None = None
    share: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Difference:
    """All that leads from one plan to another.

    Attributes:
        steps: In the order to be done.
        pairs: Name of each new plan's GPU -> name of the old plan's it goes on as; None: new.
        moves: Adapters that are loaded on a GPU that did not hold them, new ones not counted.
        added: Adapters that the old plan did not know.
        removed: Adapters that the new plan does not know.
    """

    steps: tuple[Step, ...]
    pairs: Mapping[str, str | None]
    moves: int
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `lorapack diff --json` prints it."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "pairs": dict(self.pairs),
            "moves": self.moves,
            "added": list(self.added),
            "removed": list(self.removed),
        }


def diff(old: Plan, new: Plan) -> Difference:
    """Lists what to do to get from `old` to `new`.

    Example:
        >>> import lorapack as lp
        >>> fleet = [lp.Adapter("summaries", rank=16, rate_rps=0.5)]
        >>> plan = lp.pack(lp.Profile.load(), fleet)
        >>> diff(plan, plan).steps
        ()
    """
    pairs = pair(old, new)
    by_name = {gpu.gpu: gpu for gpu in old.gpus}
    steps: list[Step] = []
    for gpu in new.gpus:
        before = by_name.get(pairs[gpu.gpu] or "")
        steps += _changes(before, gpu)
    gone = [gpu for gpu in old.gpus if gpu.gpu not in pairs.values()]
    for gpu in gone:
        steps += [step for row in gpu.adapters for step in _leave(gpu, row)]
        steps.append(Step("stop", gpu.gpu))
    known, wanted = _names(old), _names(new)
    moves = sum(step.phase == "load" and step.adapter in known for step in steps)
    return Difference(
        steps=tuple(sorted(steps, key=lambda step: PHASES.index(step.phase))),
        pairs=pairs,
        moves=moves,
        added=tuple(sorted(wanted - known)),
        removed=tuple(sorted(known - wanted)),
    )


def pair(old: Plan, new: Plan) -> dict[str, str | None]:
    """Pairs GPUs so that the most traffic stays; only GPUs of one profile go on as each other."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and only this needs it

    if not old.gpus or not new.gpus:
        return {gpu.gpu: None for gpu in new.gpus}
    stays = np.array([[_stays(before, after) for before in old.gpus] for after in new.gpus])
    rows, columns = linear_sum_assignment(-stays)
    found: dict[str, str | None] = {gpu.gpu: None for gpu in new.gpus}
    for row, column in zip(rows, columns, strict=True):
        if stays[row, column] > 0:
            found[new.gpus[row].gpu] = old.gpus[column].gpu
    return found


def _stays(before: PlannedGpu, after: PlannedGpu) -> float:
    """What a pair is worth: traffic that stays, a little for the name, nothing across kinds."""
    if before.profile != after.profile:
        return 0.0
    held = {row.adapter: row.rate_rps for row in before.adapters}
    stays = sum(min(row.rate_rps, held.get(row.adapter, 0.0)) for row in after.adapters)
    kept = sum(row.adapter in held for row in after.adapters)
    restart = 0.5 if _engine_changes(before, after) else 1.0
    return restart * (stays + 1e-3 * kept) + 1e-6 * (before.gpu == after.gpu) + 1e-9


def _engine_changes(before: PlannedGpu, after: PlannedGpu) -> list[str]:
    """Settings that only a restart changes; fewer adapters than slots need none."""
    return [key for key in after.engine if before.engine[key] != after.engine[key]]


def _changes(before: PlannedGpu | None, after: PlannedGpu) -> list[Step]:
    if before is None:
        start = Step("start", after.gpu, note=_settings(after))
        return [start, *(step for row in after.adapters for step in _come(after.gpu, row))]
    steps: list[Step] = []
    changed = _engine_changes(before, after)
    if changed:
        note = f"changes {', '.join(changed)}; serves nothing meanwhile, drain it first"
        steps.append(Step("restart", before.gpu, note=f"{note}: {_settings(after)}"))
    held = {row.adapter: row for row in before.adapters}
    stay = {row.adapter for row in after.adapters}
    for row in after.adapters:
        if row.adapter not in held:
            steps += _come(before.gpu, row)
        elif held[row.adapter].share != row.share:
            steps.append(Step("route", before.gpu, row.adapter, share=row.share))
    for row in before.adapters:
        if row.adapter not in stay:
            steps += _leave(before, row)
    return steps


def _come(gpu: str, row: PlannedAdapter) -> list[Step]:
    route = Step("route", gpu, row.adapter, share=row.share)
    if row.rank == 0:
        return [route]
    body = {"lora_name": row.adapter, "lora_path": row.path or f"$LORA_ROOT/{row.adapter}"}
    return [Step("load", gpu, row.adapter, "POST /v1/load_lora_adapter", body), route]


def _leave(gpu: PlannedGpu, row: PlannedAdapter) -> list[Step]:
    drain = Step(
        "drain", gpu.gpu, row.adapter, share=0.0, note="wait until its last request is done"
    )
    if row.rank == 0:
        return [drain]
    body = {"lora_name": row.adapter}
    return [drain, Step("unload", gpu.gpu, row.adapter, "POST /v1/unload_lora_adapter", body)]


def _settings(gpu: PlannedGpu) -> str:
    return " ".join(f"{key}={gpu.engine[key]}" for key in gpu.engine)


def _names(plan: Plan) -> set[str]:
    return {row.adapter for gpu in plan.gpus for row in gpu.adapters}
