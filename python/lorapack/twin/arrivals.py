"""When an adapter's requests come: laws of the gaps between them.

Every law keeps the adapter's mean rate (``rate_rps``); it says how the requests are spread. Without
a law of its own a scenario takes each adapter's ``gaps`` and ``cv``, which at ``cv`` 1 is Poisson.
A law is a frozen dataclass whose fields are the keys of ``[arrivals]`` in a SCENARIO.toml.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from lorapack import _native
from lorapack.errors import InputError
from lorapack.fleet.adapter import LARGEST_CV, SMALLEST_CV, Adapter
from lorapack.profile.section import number

if TYPE_CHECKING:
    from collections.abc import Sequence


class ArrivalLaw(Protocol):
    """How requests are spread around a mean rate."""

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate, as the twin takes it."""
        ...


@dataclass(frozen=True)
class OwnGaps:
    """Each adapter's own ``gaps`` and ``cv``: the law of a scenario that names none."""

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate."""
        if adapter.rate_rps == 0.0:
            return _native.Arrivals.none()
        if adapter.cv == 1.0:
            return _native.Arrivals.poisson(adapter.rate_rps)
        family = {"gamma": _native.Arrivals.gamma, "weibull": _native.Arrivals.weibull}
        return family[adapter.gaps](adapter.rate_rps, adapter.cv)


@dataclass(frozen=True)
class Poisson:
    """Exponential gaps, whatever an adapter's ``cv``."""

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate."""
        return _native.Arrivals.poisson(adapter.rate_rps)


@dataclass(frozen=True)
class Gamma:
    """Gamma gaps.

    Attributes:
        cv: Standard deviation of the gaps over their mean; ``None``: each adapter's own.
    """

    cv: float | None = number(SMALLEST_CV, LARGEST_CV, optional=True)

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate."""
        return _native.Arrivals.gamma(adapter.rate_rps, adapter.cv if self.cv is None else self.cv)


@dataclass(frozen=True)
class Weibull:
    """Weibull gaps.

    Attributes:
        cv: Standard deviation of the gaps over their mean; ``None``: each adapter's own.
    """

    cv: float | None = number(SMALLEST_CV, LARGEST_CV, optional=True)

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate."""
        cv = adapter.cv if self.cv is None else self.cv
        return _native.Arrivals.weibull(adapter.rate_rps, cv)


@dataclass(frozen=True)
class OnOff:
    """Poisson bursts: a rate above the mean in exponential on-periods, silence in between.

    Attributes:
        on_s: Mean length of an on-period, seconds.
        off_s: Mean length of an off-period, seconds.
    """

    on_s: float = number(above=True)
    off_s: float = number()

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate."""
        return _native.Arrivals.on_off(adapter.rate_rps, self.on_s, self.off_s)


@dataclass(frozen=True)
class Diurnal:
    """Poisson at ``rate_rps * (1 + amplitude * sin(2 pi (t / period_s + phase)))``.

    Attributes:
        amplitude: Share of the mean rate by which it swings, 0..1.
        period_s: Length of a period, seconds; a day if not given.
        phase: Where in the period the run begins, 0..1; the mean on its way up if not given.
    """

    amplitude: float = number(high=1.0)
    period_s: float | None = number(above=True, optional=True)
    phase: float | None = number(high=1.0, optional=True)

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate."""
        period_s = 86_400.0 if self.period_s is None else self.period_s
        return _native.Arrivals.diurnal(
            adapter.rate_rps, self.amplitude, period_s, self.phase or 0.0
        )


@dataclass(frozen=True)
class Piecewise:
    """Poisson with a rate that changes at given times.

    Attributes:
        starts_s: When each rate begins, seconds, ascending, the first at 0; the last holds on.
        factors: By which each adapter's ``rate_rps`` is multiplied from then on, each 0 or more.
    """

    starts_s: tuple[float, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.starts_s, self.starts_s[1:], strict=False))
        if not self.starts_s or self.starts_s[0] != 0.0 or not ascending:
            raise InputError(
                "[arrivals]", "starts_s", list(self.starts_s), "begin with 0 and go on ascending"
            )
        usable = all(0.0 <= factor < math.inf for factor in self.factors)
        if len(self.factors) != len(self.starts_s) or not usable:
            mend = f"give {len(self.starts_s)} numbers of 0 or more, one a start"
            raise InputError("[arrivals]", "factors", list(self.factors), mend)

    def native(self, adapter: Adapter) -> _native.Arrivals:
        """The law at one adapter's rate."""
        rates: Sequence[float] = [adapter.rate_rps * factor for factor in self.factors]
        return _native.Arrivals.piecewise(self.starts_s, rates)


ARRIVAL_KINDS: Mapping[str, type[ArrivalLaw]] = MappingProxyType(
    {
        "poisson": Poisson,
        "gamma": Gamma,
        "weibull": Weibull,
        "on-off": OnOff,
        "diurnal": Diurnal,
        "piecewise": Piecewise,
    }
)
"""``kind`` in ``[arrivals]`` -> law. (``trace`` is no law: it is a list of requests.)"""
