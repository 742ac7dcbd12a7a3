"""Spans of time on the command line: ``90``, ``90s``, ``15m``, ``1.5h``, ``2d``; shared options."""

from __future__ import annotations

import math

import click

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
"""Suffix -> seconds; a bare number is seconds."""


def duration(text: str) -> float:
    """Seconds, from a number with or without a unit: the ``type`` of an option.

    Args:
        text: As written.

    Raises:
        click.BadParameter: It is no such span.

    Example:
        >>> duration("1.5h")
        5400.0
    """
    written = text.strip().lower()
    unit = UNITS_S.get(written[-1:])
    try:
        seconds = float(written if unit is None else written[:-1]) * (unit or 1.0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise click.BadParameter(f"{text!r}: give seconds, or a number with s, m, h or d")
    return seconds


scrape_interval_option = click.option(
    "--scrape-interval",
    "scrape_interval_s",
    type=duration,
    metavar="TIME",
    help="The engine's metrics are scraped so often.",
)
