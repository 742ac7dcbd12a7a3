"""Which source a trace file is from, told by its columns; and what all sources share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

from lorapack.errors import InputError, did_you_mean
from lorapack.trace import azure, burstgpt, generic, mooncake
from lorapack.trace.table import Table, read_table
from lorapack.trace.trace import Trace

_READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Table], Trace]]] = MappingProxyType(
    {
        "generic": (generic.COLUMNS, generic.read),
        "azure": (azure.COLUMNS, azure.read),
        "burstgpt": (burstgpt.COLUMNS, burstgpt.read),
        "mooncake": (mooncake.COLUMNS, mooncake.read),
    }
)
"""Source -> the columns that tell it, and its reader."""

SOURCES = ("auto", *_READERS)
"""The sources :func:`read_trace` knows."""


def read_trace(
    path: str | os.PathLike[str],
    *,
    source: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> Trace:
    """Reads a trace; see :meth:`Trace.read`.

    Args:
        path: The file.
        source: One of :data:`SOURCES`.
        columns: Which column of the file holds which of a trace's; implies ``generic``.

    Returns:
        The requests.

    Raises:
        InputError: The file, the source or the columns cannot be used.
    """
    if source not in SOURCES:
        raise InputError("Trace.read", "source", source, did_you_mean(source, SOURCES))
    if columns:
        source = "generic"
        generic.check_renames(columns)
    wanted = {name for names, _ in _READERS.values() for name in names}
    table = read_table(path, [*wanted, "adapter", *(columns or {}).values()])
    if columns:
        table = generic.renamed(table, columns)
    if source == "auto":
        source = _source_of(table)
    names, reader = _READERS[source]
    table.need(names)
    return reader(table)


def _source_of(table: Table) -> str:
    present = set(table.columns)
    for source, (names, _) in _READERS.items():
        if present >= set(names):
            return source
    known = "; ".join(f"{source}: {', '.join(names)}" for source, (names, _) in _READERS.items())
    mend = f"known are {known}; for others say which column is which (--column)"
    raise InputError(table.file, "columns", ", ".join(table.columns), mend)
