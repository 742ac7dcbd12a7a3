"""A fleet: adapters, each named once, and by which rule they were made."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from lorapack.errors import InputError, did_you_mean
from lorapack.fleet.adapter import (
    COLUMN,
    COLUMNS,
    LARGEST_RATE_RPS,
    Adapter,
    at_rates,
    is_clean_text,
)

if TYPE_CHECKING:
    import polars as pl


@dataclasses.dataclass(frozen=True, init=False)
class Fleet:
    """All the adapters to be served.

    Args:
        adapters: The adapters; no name twice.
        provenance: How the fleet was made (rule, seed, source): single-line texts, written to the
            file's header and read back. Two fleets with the same adapters are equal whatever it is.

    Raises:
        InputError: A name stands twice, or a provenance text cannot stand on one line.

    Example:
        >>> fleet = Fleet([Adapter("a", 8, 0.5), Adapter("b", 16, 1.5)])
        >>> len(fleet), fleet.rate_rps, fleet.largest_rank, [a.adapter for a in fleet]
        (2, 2.0, 16, ['a', 'b'])
    """

    adapters: tuple[Adapter, ...]
    provenance: Mapping[str, str] = dataclasses.field(compare=False)

    def __init__(
        self, adapters: Iterable[Adapter], provenance: Mapping[str, str] | None = None
    ) -> None:
        object.__setattr__(self, "adapters", tuple(adapters))
        object.__setattr__(self, "provenance", MappingProxyType(dict(provenance or {})))
        if len(self._by_name) != len(self.adapters):
            raise InputError("Fleet", "adapters", self._doubled(), "name each adapter once")
        for key, text in self.provenance.items():
            if not (is_clean_text(key) and is_clean_text(text)) or ":" in key:
                raise InputError("Fleet", f"provenance {key!r}", text, "give a single-line text")

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, need_rates: bool = True) -> Fleet:
        r"""Reads a fleet from CSV, Parquet, JSON or TOML, by the file name's suffix.

        Args:
            path: The file.
            need_rates: Whether ``rate_rps`` must be there; with a trace it may be left out (0).

        Returns:
            The fleet, in the file's order.

        Raises:
            InputError: Anything in it cannot be used; file, line, value and mend are named.

        Example:
            >>> import tempfile, pathlib
            >>> path = pathlib.Path(tempfile.mkdtemp(), "fleet.csv")
            >>> _ = path.write_text("adapter,rank,rate_rps\nsummaries,16,0.5\n")
            >>> Fleet.read(path)["summaries"].rank
            16
        """
        from lorapack.fleet.read import read_fleet

        return read_fleet(path, need_rates=need_rates)

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes CSV, Parquet, JSON or TOML, by the file name's suffix; whole or not at all.

        Args:
            path: The file.
            force: Whether a file that exists may be replaced.

        Raises:
            InputError: The suffix is unknown, or the file exists and ``force`` is off.

        Example:
            >>> import tempfile, pathlib
            >>> path = pathlib.Path(tempfile.mkdtemp(), "fleet.toml")
            >>> fleet = Fleet([Adapter("a", 8, 0.5)])
            >>> fleet.write(path)
            >>> Fleet.read(path) == fleet
            True
        """
        from lorapack.fleet.write import write_fleet

        write_fleet(self, path, force=force)

    def __len__(self) -> int:
        return len(self.adapters)

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self.adapters)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Adapter:
        """The adapter of a name.

        Raises:
            InputError: There is none; the nearest name is suggested.
        """
        found = self._by_name.get(name)
        if found is None:
            near = did_you_mean(name, self._by_name) if len(self) <= 10_000 else "see the fleet"
            raise InputError("Fleet", "adapter", name, near)
        return found

    @property
    def rate_rps(self) -> float:
        """The sum of the adapters' rates, requests per second."""
        return sum(adapter.rate_rps for adapter in self.adapters)

    @property
    def largest_rank(self) -> int:
        """The largest LoRA rank; 0 when only the base model is here."""
        return max((adapter.rank for adapter in self.adapters), default=0)

    def scaled(self, factor: float) -> Fleet:
        """The same fleet with every rate multiplied.

        Args:
            factor: At least 0.

        Returns:
            A new fleet; its provenance says the factor.

        Example:
            >>> Fleet([Adapter("a", 8, 0.5)]).scaled(3)["a"].rate_rps
            1.5
        """
        hottest = max((adapter.rate_rps for adapter in self.adapters), default=0.0)
        if not 0 <= factor < math.inf or hottest * factor > LARGEST_RATE_RPS:
            raise InputError("Fleet.scaled", "factor", factor, COLUMN["rate_rps"].mend)
        provenance = {**self.provenance, "rates_scaled_by": repr(float(factor))}
        return Fleet(at_rates(self.adapters, factor), provenance)

    def subset(self, names: Iterable[str]) -> Fleet:
        """The fleet of some of the adapters, in the order named.

        Args:
            names: Their names, each once.

        Returns:
            A new fleet.

        Raises:
            InputError: A name is not in this fleet, or stands twice.

        Example:
            >>> fleet = Fleet([Adapter("a", 8, 0.5), Adapter("b", 16, 1.5)])
            >>> len(fleet.subset(["b"]))
            1
        """
        return Fleet([self[name] for name in names], self.provenance)

    def frame(self) -> pl.DataFrame:
        """The fleet as a Polars frame, one row an adapter, one column each of ``COLUMNS``.

        Returns:
            Strings, ``rank`` as Int64, numbers as Float64; blanks are null.

        Example:
            >>> Fleet([Adapter("a", 8, 0.5)]).frame().select("adapter", "rank", "rate_rps").rows()
            [('a', 8, 0.5)]
        """
        import polars as pl

        kinds = {"integer": pl.Int64, "number": pl.Float64}
        schema = {column.name: kinds.get(column.kind, pl.String) for column in COLUMNS}
        return pl.DataFrame(self._columns(), schema=schema, strict=False)

    def _columns(self) -> dict[str, list[object]]:
        return {c.name: [getattr(a, c.name) for a in self.adapters] for c in COLUMNS}

    @cached_property
    def _by_name(self) -> dict[str, Adapter]:
        return {adapter.adapter: adapter for adapter in self.adapters}

    def _doubled(self) -> str:
        seen: set[str] = set()
        for adapter in self.adapters:
            if adapter.adapter in seen:
                return adapter.adapter
            seen.add(adapter.adapter)
        raise AssertionError("called only when a name stands twice")
