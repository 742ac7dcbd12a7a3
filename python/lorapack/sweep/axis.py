"""One key of a SWEEP.toml that varies: a list to choose from, or a range with a scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorapack.errors import InputError, did_you_mean

SCALES = ("linear", "log")
"""How a range is walked: in equal steps, or in equal factors."""

_RANGE_KEYS = ("from", "to", "scale", "n", "focus", "focus_share")


@dataclass(frozen=True)
class Choice:
    """A key that takes one of several values.

    Attributes:
        values: The values, in the order written.
    """

    values: tuple[object, ...]

    def at(self, share: float) -> object:
        """The value at a share (0..1) of the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def grid(self) -> tuple[object, ...]:
        """Every value."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A key that takes any value between two; whole numbers when both ends are.

    Attributes:
        low: Smallest value.
        high: Largest value.
        scale: One of :data:`SCALES`.
        n: Values it takes in a grid; ``None``: it cannot be in a grid.
        focus: Part of the range that is looked at more closely, or ``None``.
        focus_share: Share of the samples that fall into ``focus``, besides those that would anyway.
    """

    low: float
    high: float
    scale: str = "linear"
    n: int | None = None
    focus: tuple[float, float] | None = None
    focus_share: float = 0.5

    def at(self, share: float) -> float:
        """The value at a share (0..1) of the range."""
        if self.focus is None:
            return self._between(self.low, self.high, share)
        if share < self.focus_share:
            return self._between(*self.focus, share / self.focus_share)
        return self._between(
            self.low, self.high, (share - self.focus_share) / (1.0 - self.focus_share)
        )

    def grid(self) -> tuple[float, ...]:
        """:attr:`n` values, both ends among them; whole numbers that coincide are taken once."""
        n = self.n or 1
        ends = (0.5,) if n == 1 else tuple(i / (n - 1) for i in range(n))
        return tuple(dict.fromkeys(self._between(self.low, self.high, end) for end in ends))

    def _between(self, low: float, high: float, share: float) -> float:
        if self.scale == "log":
            value = math.exp(math.log(low) + (math.log(high) - math.log(low)) * share)
        else:
            value = low + (high - low) * share
        value = min(max(value, low), high)
        return round(value) if isinstance(self.low, int) and isinstance(self.high, int) else value


Axis = Choice | Range


def is_range(value: object) -> bool:
    """Whether a TOML value is a range (and not a section)."""
    return isinstance(value, Mapping) and ("from" in value or "to" in value)


def range_of(table: Mapping[str, object], *, file: str, place: str) -> Range:
    """Reads ``{ from = 1, to = 64, scale = "log" }``.

    Args:
        table: What the TOML parser gave.
        file: The file's name, for messages.
        place: The key, for messages.

    Raises:
        InputError: A key is unknown or missing, or a value cannot be used.
    """
    for key in table:
        if key not in _RANGE_KEYS:
            raise InputError(file, f"{place}.{key}", "unknown key", did_you_mean(key, _RANGE_KEYS))
    low, high = (_end(table, key, file, place) for key in ("from", "to"))
    scale = table.get("scale", "linear")
    if scale not in SCALES:
        raise InputError(file, f"{place}.scale", scale, f"give one of {', '.join(SCALES)}")
    if high < low:
        raise InputError(file, f"{place}.to", high, f"give {low} or more, as `from` says")
    if scale == "log" and low <= 0:
        raise InputError(file, f"{place}.from", low, "give more than 0 for a log scale")
    n = table.get("n")
    if n is not None and not (isinstance(n, int) and not isinstance(n, bool) and n >= 1):
        raise InputError(file, f"{place}.n", n, "give a whole number of 1 or more")
    focus, share = _focus(table, low, high, file, place)
    return Range(low, high, str(scale), n, focus, share)


def _end(table: Mapping[str, object], key: str, file: str, place: str) -> float:
    value = table.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(file, f"{place}.{key}", value, "give a finite number")
    return value


def _focus(
    table: Mapping[str, object], low: float, high: float, file: str, place: str
) -> tuple[tuple[float, float] | None, float]:
    share = table.get("focus_share", 0.5)
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(file, f"{place}.focus_share", share, "give a share between 0 and 1")
    ends = table.get("focus")
    if ends is None:
        return None, share
    inside = (
        isinstance(ends, Sequence)
        and len(ends) == 2
        and all(isinstance(end, int | float) for end in ends)
        and low <= ends[0] <= ends[1] <= high
    )
    if not inside:
        raise InputError(file, f"{place}.focus", ends, f"give two numbers from {low} to {high}")
    return (ends[0], ends[1]), share  # type: ignore[index]
