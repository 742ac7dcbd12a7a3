"""A pool of GPUs as a file: `[[gpu]]` tables with a profile, how many there are, what one costs."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapack.errors import InputError, did_you_mean
from lorapack.packer.problem import GpuKind
from lorapack.profile.profile import Profile

if TYPE_CHECKING:
    import os

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("profile", "count", "price_per_hour", "watts")
"""Keys of a `[[gpu]]` table; all but `profile` may be left out."""


def kind_of(profile: Profile) -> GpuKind:
    """A profile as a kind of GPU, at the profile's own price and power."""
    watts = profile.price.power_watts or profile.gpu.power_watts
    price = profile.price.usd_per_hour or profile.gpu.usd_per_hour
    return GpuKind(profile, price_per_hour=price, watts=watts)


def read_pool(path: str | os.PathLike[str]) -> list[GpuKind]:
    """Reads a pool; what a table leaves out is the profile's own.

    Raises:
        InputError: It is not such a file, with the place of what is wrong.
    """
    file = str(path)
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(file, None, None, f"is not TOML: {error}") from error
    tables = document.get("gpu")
    if not isinstance(tables, list) or not tables or set(document) != {"gpu"}:
        raise InputError(file, "top level", None, "give [[gpu]] tables and nothing else")
    return [_kind(table, f"[[gpu]] {number}", file) for number, table in enumerate(tables, 1)]


def _kind(table: dict[str, Any], place: str, file: str) -> GpuKind:
    for key in table:
        if key not in KEYS:
            raise InputError(file, f"{place} {key}", table[key], did_you_mean(key, KEYS))
    if not isinstance(table.get("profile"), str):
        raise InputError(file, f"{place} profile", table.get("profile"), "name a profile")
    own = kind_of(Profile.load(table["profile"]))
    count = table.get("count")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InputError(file, f"{place} count", count, "give a whole number of 1 or more")
    return GpuKind(
        own.profile,
        count=count,
        price_per_hour=_number(table, "price_per_hour", place, file) or own.price_per_hour,
        watts=_number(table, "watts", place, file) or own.watts,
    )


def _number(table: dict[str, Any], key: str, place: str, file: str) -> float | None:
    value = table.get(key)
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and value > 0):
        raise InputError(file, f"{place} {key}", value, "give a number above 0")
    return float(value)
