"""What is to be packed: the fleet at the rates to be believed, the GPUs to be had, the promise.

Frozen, checked once when made, then trusted by every method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from lorapack.errors import Infeasible, InputError
from lorapack.fleet.adapter import at_rates
from lorapack.twin.service_level import SERVICE_LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.profile.profile import Profile
    from lorapack.twin.service_level import ServiceLevel

Objective = Literal["gpus", "latency", "cost"]
"""Fewest GPUs; lowest latency on a given number of GPUs; lowest price of a pool of GPUs."""


@dataclass(frozen=True)
class GpuKind:
    """One kind of GPU in the pool: a profile, how many there are, and what one costs.

    Attributes:
        profile: What was measured of this model on this GPU with this engine.
        count: How many can be had; None: as many as needed.
        price_per_hour: Price of one GPU-hour, in the pool's currency.
        watts: Power one GPU draws under load.
    """

    profile: Profile
    count: int | None = None
    price_per_hour: float | None = None
    watts: float | None = None


@dataclass(frozen=True)
class Problem:
    """A fleet, a pool of GPUs and a promise.

    Attributes:
        fleet: The adapters, at the rates placement, verification and bound all use: as stated,
            times one plus the headroom. In a canonical order, whatever the order given.
        stated: The adapters as the user stated them, in the same order.
        pool: The kinds of GPU, cheapest first where prices are known.
        slo: The promise.
        rate_headroom: Share by which rates are raised before planning, 0.1 for 10 %.
        objective: What to make small.
        n_gpus: GPUs to use at most (`latency`: exactly as many as help); None: as few as do.
        spare_gpus: GPUs that may be lost without the rest starving.
        host_memory_gib: Host memory of a GPU for the CPU tier of adapters, GiB; None: ample.
        strict: Refuse a client whose own clumps break the promise, in place of exempting it.
        seed: Of everything random.
    """

    fleet: tuple[Adapter, ...]
    stated: tuple[Adapter, ...]
    pool: tuple[GpuKind, ...]
    slo: ServiceLevel
    rate_headroom: float = 0.1
    objective: Objective = "gpus"
    n_gpus: int | None = None
    spare_gpus: int = 0
    host_memory_gib: float | None = None
    strict: bool = False
    seed: int = 0

    @classmethod
    def build(
        cls,
        fleet: Fleet | Iterable[Adapter],
        pool: Sequence[GpuKind],
        slo: ServiceLevel,
        *,
        rate_headroom: float = 0.1,
        objective: Objective = "gpus",
        n_gpus: int | None = None,
        spare_gpus: int = 0,
        host_memory_gib: float | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> Problem:
        """Checks the request and puts the fleet in canonical order with headroom applied.

        Raises:
            InputError: A limit is out of its range, the fleet is empty, or no GPU of the pool
                serves an adapter's base model.
        """
        _check_limits(pool, rate_headroom, n_gpus, spare_gpus)
        if objective == "latency" and n_gpus is None:
            raise InputError("pack", "gpus", None, "give the number of GPUs to spread over")
        if objective == "cost" and any(kind.price_per_hour is None for kind in pool):
            unpriced = next(k.profile.name for k in pool if k.price_per_hour is None)
            raise InputError("pool", "price", unpriced, "give its price per hour in the pool file")
        stated = tuple(sorted(fleet, key=packing_order))
        if not stated:
            raise InputError("fleet", "rows", "0", "give at least one adapter")
        for adapter in {adapter.model: adapter for adapter in stated}.values():
            _check_model(adapter, pool)
        factor = 1.0 + rate_headroom
        return cls(
            fleet=tuple(_raised(stated, factor)),
            stated=stated,
            pool=tuple(pool),
            slo=slo,
            rate_headroom=rate_headroom,
            objective=objective,
            n_gpus=n_gpus,
            spare_gpus=spare_gpus,
            host_memory_gib=host_memory_gib,
            strict=strict,
            seed=seed,
        )

    def kinds_for(self, adapter: Adapter) -> tuple[GpuKind, ...]:
        """The GPUs of the pool that serve this adapter's base model."""
        return tuple(kind for kind in self.pool if serves(kind, adapter))

    def rate_stated_rps(self, name: str) -> float:
        """The rate the user stated for an adapter, requests per second."""
        return self._rates_stated[name]

    @property
    def batch_slo(self) -> ServiceLevel:
        """What exempt clients are held to: `batch`, served as much as the promise says."""
        return replace(SERVICE_LEVELS["batch"], min_served=self.slo.min_served)

    @cached_property
    def _rates_stated(self) -> dict[str, float]:
        return {a.adapter: a.rate_rps for a in self.stated}


def packing_order(adapter: Adapter) -> tuple[int, float, str]:
    """Rank, then rate, both descending; the name breaks ties, so the order is total."""
    return (-adapter.rank, -adapter.rate_rps, adapter.adapter)


def _raised(stated: Sequence[Adapter], factor: float) -> Sequence[Adapter]:
    """The adapters at the rates to be believed, whose limits hold for them, too."""
    hottest = max(stated, key=lambda adapter: adapter.rate_rps)
    replace(hottest, rate_rps=hottest.rate_rps * factor)  # raises where it is past the limit
    return at_rates(stated, factor)


def serves(kind: GpuKind, adapter: Adapter) -> bool:
    """Whether this GPU runs the adapter's base model; an adapter that names none goes anywhere."""
    return adapter.model is None or adapter.model == base_model(kind.profile)


def base_model(profile: Profile) -> str:
    """The base model a profile serves, as fleets name it in their `model` column."""
    return profile.model.name


def _check_limits(
    pool: Sequence[GpuKind], rate_headroom: float, n_gpus: int | None, spare_gpus: int
) -> None:
    if not pool:
        raise InputError("pool", "profiles", "none", "name at least one profile")
    if not (math.isfinite(rate_headroom) and rate_headroom >= 0):
        raise InputError("pack", "rate_headroom", rate_headroom, "give 0 or more, 0.1 for 10 %")
    if n_gpus is not None and n_gpus < 1:
        raise InputError("pack", "gpus", n_gpus, "give 1 or more")
    if spare_gpus < 0:
        raise InputError("pack", "spare_gpus", spare_gpus, "give 0 or more")


def _check_model(adapter: Adapter, pool: Sequence[GpuKind]) -> None:
    if any(serves(kind, adapter) for kind in pool):
        return
    served = ", ".join(sorted({base_model(kind.profile) for kind in pool}))
    raise Infeasible(
        f"adapter {adapter.adapter} needs base model {adapter.model}, the pool serves {served}",
        "add a profile of that model with --profile",
    )
