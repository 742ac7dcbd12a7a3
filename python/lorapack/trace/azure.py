"""Azure LLM inference traces of 2023 and 2024 (Azure/AzurePublicDataset, CC-BY-4.0).

CSV; ``TIMESTAMP`` as a date with 7 digits of a second (2024: with a zone), ``ContextTokens``,
``GeneratedTokens``. No tenant and no adapter is named.
"""

from __future__ import annotations

from lorapack.trace.generic import trace_of
from lorapack.trace.table import Table
from lorapack.trace.trace import Trace

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""The columns that tell the source."""


def read(table: Table) -> Trace:
    """Reads the requests; time counts from the first.

    Args:
        table: With :data:`COLUMNS`.

    Returns:
        The trace; requests without an answer are left out and counted.
    """
    return trace_of(
        table,
        arrival_s=table.moments("TIMESTAMP"),
        prompt_tokens=table.tokens("ContextTokens", at_least=0),
        output_tokens=table.tokens("GeneratedTokens", at_least=0),
    )
