"""Mooncake's traces (kvcache-ai/Mooncake, FAST'25, Apache-2.0).

JSONL; ``timestamp`` in milliseconds, ``input_length``, ``output_length`` in tokens, ``hash_ids`` of
512-token blocks (not read: prefix caching is not simulated). No adapter is named.
"""

from __future__ import annotations

from lorapack.trace.generic import trace_of
from lorapack.trace.table import Table
from lorapack.trace.trace import Trace

COLUMNS = ("timestamp", "input_length", "output_length")
"""The columns that tell the source."""


def read(table: Table) -> Trace:
    """Reads the requests; time counts from the first.

    Args:
        table: With :data:`COLUMNS`.

    Returns:
        The trace; requests without an answer are left out and counted.
    """
    milliseconds = table.numbers("timestamp")
    return trace_of(
        table,
        arrival_s=(milliseconds - milliseconds.min()) / 1e3,
        prompt_tokens=table.tokens("input_length", at_least=0),
        output_tokens=table.tokens("output_length", at_least=0),
    )
