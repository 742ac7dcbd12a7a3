"""Lorapack's own trace format, other files with renamed columns, and the way into a trace.

``arrival_s`` (seconds from the start of the scenario, or dates), ``adapter`` (optional),
``prompt_tokens``, ``output_tokens``; CSV, JSONL or Parquet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import polars as pl

from lorapack.errors import InputError, did_you_mean
from lorapack.trace.table import LINE, Table
from lorapack.trace.trace import SCHEMA, Trace

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
"""The columns that tell the source."""


def read(table: Table) -> Trace:
    """Reads the requests; ``arrival_s`` stays as it is, dates count from the first.

    Args:
        table: With :data:`COLUMNS` and perhaps ``adapter``.

    Returns:
        The trace.

    Raises:
        InputError: A time is negative, a length is below 1, or only some rows name an adapter.
    """
    arrival_s = table.seconds("arrival_s")
    table.refuse("arrival_s", arrival_s < 0, "give seconds from the start of the scenario")
    adapter = table.texts("adapter") if "adapter" in table.columns else None
    if adapter is not None and 0 < adapter.null_count() < len(adapter):
        table.refuse("adapter", adapter.is_null(), "name an adapter in every row, or in none")
    return trace_of(
        table,
        arrival_s=arrival_s,
        prompt_tokens=table.tokens("prompt_tokens"),
        output_tokens=table.tokens("output_tokens"),
        adapter=adapter,
    )


def trace_of(
    table: Table,
    *,
    arrival_s: pl.Series,
    prompt_tokens: pl.Series,
    output_tokens: pl.Series,
    adapter: pl.Series | None = None,
) -> Trace:
    """Puts a source's columns together: failures out, ascending in time.

    Args:
        table: Where they are from.
        arrival_s: Seconds.
        prompt_tokens: Tokens; 0 marks a request that never was one.
        output_tokens: Tokens; 0 marks a failure.
        adapter: Names, or ``None`` when the source has none.

    Returns:
        The trace; its notes say how many rows were left out.

    Raises:
        InputError: Nothing is left.
    """
    frame = pl.DataFrame(
        {
            "arrival_s": arrival_s,
            "adapter": pl.Series([None] * len(arrival_s), dtype=pl.String)
            if adapter is None
            else adapter,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
        },
        schema=dict(SCHEMA),
    )
    kept = frame.filter((pl.col("prompt_tokens") > 0) & (pl.col("output_tokens") > 0))
    failed = frame.height - kept.height
    if kept.height == 0:
        raise InputError(table.file, None, None, "holds no request with a prompt and an answer")
    notes = [f"{failed} of {frame.height} requests have 0 tokens and were left out"]
    return Trace(
        kept.sort("arrival_s", maintain_order=True), table.file, tuple(notes if failed else ())
    )


def check_renames(columns: Mapping[str, str]) -> None:
    """Refuses a renaming that names no column of a trace.

    Args:
        columns: A trace's column -> the file's.

    Raises:
        InputError: A key is not one of a trace's columns.
    """
    for name in columns:
        if name not in SCHEMA:
            raise InputError("Trace.read", "columns", name, did_you_mean(name, SCHEMA))


def renamed(table: Table, columns: Mapping[str, str]) -> Table:
    """A table whose columns have a trace's names.

    Args:
        table: The file's.
        columns: A trace's column -> the file's.

    Returns:
        The table; a column of the file that had such a name already gives way.
    """
    table.need(columns.values())
    kept = [name for name in table.columns if name in SCHEMA and name not in columns]
    chosen = [pl.col(theirs).alias(ours) for ours, theirs in columns.items()]
    return dataclasses.replace(table, frame=table.frame.select(LINE, *kept, *chosen))
