"""One table of a profile's TOML into a frozen dataclass, every key checked, and back again.

A section is a frozen dataclass whose fields are the keys. A field made with :func:`number` carries
the bounds of its value; a field whose default is ``None`` may be left out and then means "unknown".
Nothing else has a default: what a profile does not say, lorapack does not invent.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from lorapack.errors import InputError, did_you_mean

Section = TypeVar("Section")

UNITS: Mapping[str, str] = {
    "ps": "picoseconds",
    "ns": "nanoseconds",
    "us": "microseconds",
    "ms": "milliseconds",
    "s": "seconds",
    "h": "hours",
    "bytes": "bytes",
    "kib": "KiB",
    "mib": "MiB",
    "gib": "GiB",
    "kb": "kB",
    "mb": "MB",
    "gb": "GB",
    "tokens": "tokens",
    "requests": "requests",
    "blocks": "blocks",
    "fraction": "a share of 1",
    "percent": "per cent",
    "ppm": "millionths",
    "tflops": "TFLOP/s",
    "watts": "watts",
}
"""Unit suffixes of keys, and how a message names them."""


def number(
    low: float = 0.0,
    high: float = math.inf,
    *,
    above: bool = False,
    optional: bool = False,
) -> Any:  # noqa: ANN401 - a dataclass field of whatever type its annotation says
    """A field whose value must be finite and within ``low``..``high``.

    Args:
        low: Smallest value allowed, in the key's unit.
        high: Largest value allowed, in the key's unit.
        above: The value must be larger than ``low``, not equal to it.
        optional: The key may be left out; the value is then ``None``.
    """
    metadata = {"low": low, "high": high, "above": above}
    if optional:
        return dataclasses.field(default=None, metadata=metadata)
    return dataclasses.field(metadata=metadata)


def choice(*values: str) -> Any:  # noqa: ANN401 - as in `number`
    """A field whose value is one of ``values``."""
    return dataclasses.field(metadata={"choices": values})


def plain() -> Any:  # noqa: ANN401 - as in `number`
    """A field whose value needs its type only: a text, a switch, a section within this one."""
    return dataclasses.field(metadata={})


def derived() -> Any:  # noqa: ANN401 - as in `number`
    """A field that another section gives: it is neither read from TOML nor written to it."""
    return dataclasses.field(metadata={"derived": True}, repr=False)


def read_section(
    kind: type[Section], table: object, *, file: str, place: str, **given: object
) -> Section:
    """Reads one table into the frozen dataclass ``kind``.

    Args:
        kind: The dataclass; its fields are the table's keys.
        table: What the TOML parser gave for the section.
        file: The file's name, for messages.
        place: The section's name in brackets, for messages.
        **given: Values of the fields that are :func:`derived`.

    Raises:
        InputError: A key that is unknown, missing or in another unit, or a value that is not of
            the field's type, not finite or out of bounds.
    """
    if not isinstance(table, Mapping):
        raise InputError(file, place, table, "make it a table, with its keys below")
    fields = {field.name: field for field in _own_fields(kind)}
    _check_keys(table, fields, file, place)
    hints = typing.get_type_hints(kind)
    values = {
        name: _read_value(hints[name], field, table[name], file, f"{place} {name}")
        for name, field in fields.items()
        if name in table
    }
    return kind(**values, **given)


def write_section(section: object) -> dict[str, object]:
    """The table of a section: its fields in their order, those that are ``None`` left out."""
    table: dict[str, object] = {}
    for field in _own_fields(type(section)):
        value = getattr(section, field.name)
        if value is None:
            continue
        table[field.name] = write_section(value) if dataclasses.is_dataclass(value) else value
    return table


def mend_for_key(key: str, known: Iterable[str]) -> str:
    """What to do about an unknown key: the same quantity in another unit, or the nearest name."""
    known = list(known)
    stem, _, unit = key.rpartition("_")
    for candidate in known:
        candidate_stem, _, candidate_unit = candidate.rpartition("_")
        bare = key == candidate_stem and unit not in UNITS
        other_unit = stem == candidate_stem and unit in UNITS and candidate_unit != unit
        if candidate_unit in UNITS and (bare or other_unit):
            return f"give {candidate}, in {UNITS[candidate_unit]}"
    return did_you_mean(key, known)


def _own_fields(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if not field.metadata.get("derived")]


def _check_keys(
    table: Mapping[str, object],
    fields: Mapping[str, dataclasses.Field[Any]],
    file: str,
    place: str,
) -> None:
    absent = [name for name in fields if name not in table]
    for key in table:
        if key not in fields:
            mend = mend_for_key(key, [*absent, *(name for name in fields if name in table)])
            raise InputError(file, place, key, f"unknown key: {mend}")
    for name in absent:
        if fields[name].default is dataclasses.MISSING:
            raise InputError(file, f"{place} {name}", None, f"missing: add {name}{_in_unit(name)}")


def _read_value(
    hint: Any,  # noqa: ANN401 - a type, as typing spells it
    field: dataclasses.Field[Any],
    value: object,
    file: str,
    place: str,
) -> object:
    kind = _without_none(hint)
    if dataclasses.is_dataclass(kind):
        return read_section(typing.cast("type[object]", kind), value, file=file, place=place)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(file, place, value, f"give {_TYPE_NAMES[kind]}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(value, field.metadata, file, place)
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise InputError(file, place, value, f"give one of {', '.join(choices)}")
    return value


_TYPE_NAMES: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    bool: "true or false",
}


def _check_bounds(value: float, bounds: Mapping[str, Any], file: str, place: str) -> None:
    low, high = bounds.get("low", 0.0), bounds.get("high", math.inf)
    if not math.isfinite(value):
        raise InputError(file, place, value, "give a finite number")
    if value < low or (bounds.get("above") and value == low):
        word = "above" if bounds.get("above") else "at least"
        raise InputError(file, place, value, f"give a number of {word} {low:g}")
    if value > high:
        raise InputError(file, place, value, f"give a number of at most {high:g}")


def _without_none(hint: Any) -> Any:  # noqa: ANN401 - types, as typing spells them
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _in_unit(key: str) -> str:
    unit = key.rpartition("_")[2]
    return f", in {UNITS[unit]}" if unit in UNITS else ""
