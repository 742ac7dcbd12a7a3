"""What a plan promises, and whether a simulated run kept it.

Three named levels (`interactive`, `batch`, `papers`), each part of which can be overridden. What a
run breaks is listed as data; an empty list is the only way to pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapack.errors import InputError

if TYPE_CHECKING:
    from lorapack.twin.result import Result


@dataclass(frozen=True)
class ServiceLevel:
    """A promise to clients, held against one GPU at a time.

    Attributes:
        name: What the level is called in plans; `custom` parts keep the name they started from.
        min_served: Least served / offered tokens of the GPU, 0..1.
        ttft_p99_ms: Largest 99th percentile of time to first token, milliseconds, unserved
            requests counted; None: no promise.
        tpot_ms: Largest mean time per output token, milliseconds; None: no promise.
        adapter_min_served: Least share of its own requests that every adapter has served, 0..1;
            None: no promise.
        adapter_min_requests: An adapter with fewer judged requests than this is not judged.
    """

    name: str
    min_served: float
    ttft_p99_ms: float | None = None
    tpot_ms: float | None = None
    adapter_min_served: float | None = None
    adapter_min_requests: int = 8

    def __post_init__(self) -> None:
        _check_fraction("min_served", self.min_served)
        if self.adapter_min_served is not None:
            _check_fraction("adapter_min_served", self.adapter_min_served)
        for name in ("ttft_p99_ms", "tpot_ms"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(
                    "service level", name, str(value), "give a positive number of milliseconds"
                )

    def with_parts(
        self,
        *,
        min_served: float | None = None,
        ttft_p99_ms: float | None = None,
        tpot_ms: float | None = None,
        adapter_min_served: float | None = None,
    ) -> ServiceLevel:
        """The same level with the given parts in place of its own; None keeps a part.

        >>> SERVICE_LEVELS["interactive"].with_parts(ttft_p99_ms=500.0).ttft_p99_ms
        500.0
        """
        parts = {
            "min_served": min_served,
            "ttft_p99_ms": ttft_p99_ms,
            "tpot_ms": tpot_ms,
            "adapter_min_served": adapter_min_served,
        }
        return replace(self, **{name: part for name, part in parts.items() if part is not None})  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """The level as plans write it, in JSON's types."""
        return {
            "name": self.name,
            "min_served": self.min_served,
            "ttft_p99_ms": self.ttft_p99_ms,
            "tpot_ms": self.tpot_ms,
            "adapter_min_served": self.adapter_min_served,
            "adapter_min_requests": self.adapter_min_requests,
        }


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InputError("service level", name, str(value), "give a fraction from 0 to 1")


SERVICE_LEVELS: dict[str, ServiceLevel] = {
    "interactive": ServiceLevel(
        "interactive", min_served=0.98, ttft_p99_ms=2000.0, adapter_min_served=0.9
    ),
    "batch": ServiceLevel("batch", min_served=0.98, adapter_min_served=0.9),
    "papers": ServiceLevel("papers", min_served=0.9),
}
"""The named levels. `papers` is the rule of arXiv 2508.08343 and 2602.24044: a GPU is starved when
it serves less than 90 % of what is offered."""


def service_level(name: str) -> ServiceLevel:
    """The level of that name.

    Raises:
        InputError: No level has that name.
    """
    try:
        return SERVICE_LEVELS[name]
    except KeyError:
        known = ", ".join(SERVICE_LEVELS)
        raise InputError("service level", "slo", name, f"choose one of {known}") from None


@dataclass(frozen=True)
class Violation:
    """One part of a service level that a run broke.

    Attributes:
        part: The part's name in `ServiceLevel`.
        limit: What was promised.
        value: What the run came to.
        adapter: The adapter that suffered, for the promise made to each; else None.
    """

    part: str
    limit: float
    value: float
    adapter: str | None = None

    def __str__(self) -> str:
        where = "" if self.adapter is None else f" of {self.adapter}"
        return f"{self.part}{where} is {self.value:.4g}, the limit is {self.limit:.4g}"


def judge(level: ServiceLevel, result: Result) -> tuple[Violation, ...]:
    """Lists what of `level` the run broke, in the order of the level's parts.

    A run that was offered nothing breaks nothing.
    """
    if result.offered == 0:
        return ()
    return (
        *_too_low("min_served", level.min_served, result.served_fraction),
        *_too_high("ttft_p99_ms", level.ttft_p99_ms, result.ttft_with_unserved_p99_ms),
        *_too_high("tpot_ms", level.tpot_ms, result.tpot_ms.mean),
        *_starved_adapters(level, result),
    )


def _too_low(part: str, limit: float, value: float) -> tuple[Violation, ...]:
    return () if value >= limit else (Violation(part, limit, value),)


def _too_high(part: str, limit: float | None, value: float) -> tuple[Violation, ...]:
    """Not a number (no second token anywhere) breaks nothing: `min_served` sees to that."""
    if limit is None or not value > limit:
        return ()
    return (Violation(part, limit, value),)


def _starved_adapters(level: ServiceLevel, result: Result) -> tuple[Violation, ...]:
    limit = level.adapter_min_served
    if limit is None:
        return ()
    frame = result.per_adapter
    rows = zip(
        frame["adapter"].to_list(),
        frame["judged_offered"].to_list(),
        frame["judged_completed"].to_list(),
        strict=True,
    )
    return tuple(
        Violation("adapter_min_served", limit, completed / offered, adapter)
        for adapter, offered, completed in rows
        if offered >= level.adapter_min_requests and completed < limit * offered
    )
