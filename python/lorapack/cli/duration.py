"""A span of time on the command line: ``90``, ``90s``, ``15m``, ``1.5h``, ``2d``."""

from __future__ import annotations

import math

import click

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
"""Suffix -> seconds; a bare number is seconds."""


class Duration(click.ParamType[float]):
    """Seconds, from a number with or without a unit.

    Example:
        >>> Duration().convert("1.5h", None, None)
        5400.0
    """

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds that ``value`` says."""
        text = str(value).strip().lower()
        unit = UNITS_S.get(text[-1:])
        try:
            seconds = float(text if unit is None else text[:-1]) * (unit or 1.0)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            self.fail(f"{value!r}: give seconds, or a number with s, m, h or d", param, ctx)
        return seconds
