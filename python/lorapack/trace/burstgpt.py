"""BurstGPT (HPMLL/BurstGPT, CC-BY-4.0).

CSV; ``Timestamp`` in seconds, ``Model`` (two of them, no adapters: not used), ``Request tokens``,
``Response tokens``, ``Total tokens``, ``Log Type``; later releases add ``Session ID`` and
``Elapsed time``. An answer of 0 tokens is a failure: left out and counted.
"""

from __future__ import annotations

from lorapack.trace.generic import trace_of
from lorapack.trace.table import Table
from lorapack.trace.trace import Trace

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
"""The columns that tell the source."""


def read(table: Table) -> Trace:
    """Reads the requests; time counts from the first.

    Args:
        table: With :data:`COLUMNS`.

    Returns:
        The trace.
    """
    seconds = table.numbers("Timestamp")
    return trace_of(
        table,
        arrival_s=seconds - seconds.min(),
        prompt_tokens=table.tokens("Request tokens", at_least=0),
        output_tokens=table.tokens("Response tokens", at_least=0),
    )
