"""Rates by the hour: pack for the hour that binds, and see that the plan holds in every other.

The busiest hour by work is packed; a GPU that would be busier in another hour is judged there, and
where it does not hold its adapters are packed at the larger of the two hours' rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorapack.errors import InputError, did_you_mean
from lorapack.packer.evaluate import slot_rules
from lorapack.packer.guide import Guide
from lorapack.packer.placement import Item

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.verify import Judges

BUSIER = 1.02
"""A GPU is judged in another hour when its predicted load there is this much of the packed one."""


@dataclass(frozen=True)
class HourlyRates:
    """Rates of every adapter in every hour.

    Attributes:
        hours: The hours, ascending.
        rates_rps: Adapter -> a rate an hour, requests per second; adapters left out keep theirs.
    """

    hours: tuple[int, ...]
    rates_rps: dict[str, tuple[float, ...]]

    @classmethod
    def read(cls, path: str | os.PathLike[str], fleet: Fleet) -> HourlyRates:
        """Reads a Parquet file with columns `adapter` (or `client`), `hour`, `rate_rps`.

        Raises:
            InputError: A column is missing, or an adapter of the file is not in the fleet.
        """
        import polars as pl

        try:
            frame = pl.read_parquet(Path(path))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(path, None, None, f"is not Parquet: {error}") from error
        frame = frame.rename({"client": "adapter"}, strict=False)
        for column in ("adapter", "hour", "rate_rps"):
            if column not in frame.columns:
                raise InputError(path, "columns", None, f"add the column {column}")
        for name in frame["adapter"].unique().sort():
            if name not in fleet:
                mend = did_you_mean(name, [a.adapter for a in fleet][:10_000])
                raise InputError(path, "adapter", name, mend)
        hours = tuple(int(hour) for hour in frame["hour"].unique().sort())
        index = {hour: i for i, hour in enumerate(hours)}
        table = {name: [0.0] * len(hours) for name in frame["adapter"].unique()}
        for name, hour, rate in frame.select("adapter", "hour", "rate_rps").iter_rows():
            if rate is None or not 0 <= rate < float("inf"):
                raise InputError(path, f"{name}, hour {hour}", rate, "give a rate of 0 or more")
            table[name][index[int(hour)]] = float(rate)
        return cls(hours, {name: tuple(rates) for name, rates in sorted(table.items())})

    def at(self, fleet: Iterable[Adapter], hour: int) -> list[Adapter]:
        """The fleet as it is in an hour."""
        index = self.hours.index(hour)
        return [
            replace(adapter, rate_rps=self.rates_rps[adapter.adapter][index])
            if adapter.adapter in self.rates_rps
            else adapter
            for adapter in fleet
        ]

    def busiest(self, fleet: Fleet) -> int:
        """The hour of the most tokens asked for, by the adapters' means where they state them."""

        def tokens(adapter: Adapter) -> float:
            return (adapter.prompt_tokens or 1.0) + (adapter.output_tokens or 1.0)

        totals = [
            sum(
                self.rates_rps[adapter.adapter][index] * tokens(adapter)
                for adapter in fleet
                if adapter.adapter in self.rates_rps
            )
            for index in range(len(self.hours))
        ]
        return self.hours[totals.index(max(totals))]


def breaking_hours(
    gpus: Sequence[GpuPlacement],
    rates: HourlyRates,
    headroom: float,
    judges: Judges,
) -> dict[int, int]:
    """The GPUs that would not hold in their own busiest hour.

    Args:
        gpus: A placement for some hour.
        rates: Of all hours, as stated.
        headroom: By which stated rates are raised.
        judges: Say whether a GPU holds.

    Returns:
        Place of the GPU in `gpus` -> the hour.
    """
    guides: dict[int, Guide] = {}
    asked: list[tuple[int, int, GpuPlacement]] = []
    for index, gpu in enumerate(gpus):
        guide = guides.setdefault(
            id(gpu.kind), Guide(gpu.kind.profile, judges.level, slot_rules(judges.slo))
        )
        packed = guide.load(gpu.items)
        loads = [(guide.load(_in_hour(gpu, rates, headroom, hour)), hour) for hour in rates.hours]
        worst, hour = max(loads, key=lambda pair: (pair[0], -pair[1]))
        if worst > BUSIER * packed:
            asked.append((index, hour, gpu.with_items(_in_hour(gpu, rates, headroom, hour))))
    return {
        index: hour
        for index, hour, gpu in asked
        if not judges.of(gpu).judge([gpu.trial()])[0].holds
    }


def _in_hour(gpu: GpuPlacement, rates: HourlyRates, headroom: float, hour: int) -> list[Item]:
    index = rates.hours.index(hour)
    items = []
    for item in gpu.items:
        own = rates.rates_rps.get(item.name)
        rate = item.load.rate_rps if own is None else own[index] * (1 + headroom) * item.share
        items.append(Item(replace(item.load, rate_rps=rate), item.share))
    return items


def at_least(
    adapters: Iterable[Adapter], gpu: GpuPlacement, rates: HourlyRates, hour: int
) -> list[Adapter]:
    """The adapters, those of a GPU at no less than their rates of an hour."""
    index = rates.hours.index(hour)
    held = {item.name for item in gpu.items}
    raised = []
    for adapter in adapters:
        own = rates.rates_rps.get(adapter.adapter)
        rate = own[index] if own is not None and adapter.adapter in held else -math.inf
        raised.append(replace(adapter, rate_rps=max(adapter.rate_rps, rate)))
    return raised
