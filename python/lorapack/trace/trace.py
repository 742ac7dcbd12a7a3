"""A trace: columns of requests, ascending in time."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import polars as pl

from lorapack.atomic_file import atomic_file
from lorapack.errors import InputError

SCHEMA: Mapping[str, type[pl.DataType]] = MappingProxyType(
    {
        "arrival_s": pl.Float64,
        "adapter": pl.String,
        "prompt_tokens": pl.Int64,
        "output_tokens": pl.Int64,
    }
)
"""A trace's columns: seconds from the start, the adapter's name (null when the source names none),
tokens of the prompt and of the answer (both at least 1)."""

FORMATS = (".csv", ".parquet")
"""Suffixes of the files a trace is written to."""

PROVENANCE_KEY = "lorapack.provenance"
"""Where a Parquet file keeps the provenance, as JSON."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Recorded requests, ascending in time.

    Attributes:
        frame: One row a request, columns :data:`SCHEMA`.
        source: The file it was read from, or how it was made.
        notes: What the reader left out or changed, one sentence each.

    Example:
        >>> frame = pl.DataFrame({"arrival_s": [1.0], "adapter": ["a"], "prompt_tokens": [9],
        ...     "output_tokens": [3]}, schema=dict(SCHEMA))
        >>> len(Trace(frame, "by hand"))
        1
    """

    frame: pl.DataFrame
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert dict(self.frame.schema) == {name: kind() for name, kind in SCHEMA.items()}
        assert self.frame["arrival_s"].is_sorted()

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        source: str = "auto",
        columns: Mapping[str, str] | None = None,
    ) -> Trace:
        r"""Reads a trace: lorapack's own, or one of the public ones, by its columns.

        Args:
            path: ``.csv``, ``.parquet`` or ``.jsonl``, plain or gzipped.
            source: ``auto``, ``azure``, ``burstgpt``, ``mooncake`` or ``generic``.
            columns: For other files, which column holds what: ``{"arrival_s": "when", ...}``.

        Returns:
            The requests, sorted by time; its notes say what was left out.

        Raises:
            InputError: Anything in it cannot be used; file, line, value and mend are named.

        Example:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp(), "trace.csv")
            >>> _ = path.write_text("arrival_s,adapter,prompt_tokens,output_tokens\n0.5,a,9,3\n")
            >>> Trace.read(path).frame.row(0)
            (0.5, 'a', 9, 3)
        """
        from lorapack.trace.read import read_trace

        return read_trace(path, source=source, columns=columns)

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        provenance: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> None:
        """Writes lorapack's own trace format, whole or not at all.

        Args:
            path: ``.csv`` or ``.parquet``.
            provenance: How it was made: ``# key: value`` lines, or Parquet's own metadata.
            force: Whether a file that exists may be replaced.

        Raises:
            InputError: The suffix is neither, or the file exists and ``force`` is off.

        Example:
            >>> import tempfile
            >>> rows = {"arrival_s": [0.5], "adapter": ["a"], "prompt_tokens": [9],
            ...     "output_tokens": [3]}
            >>> path = Path(tempfile.mkdtemp(), "trace.parquet")
            >>> Trace(pl.DataFrame(rows, schema=dict(SCHEMA)), "by hand").write(path)
            >>> len(Trace.read(path))
            1
        """
        content = self._content(Path(path).suffix.lower(), dict(provenance or {}))
        if content is None:
            raise InputError(path, "output", Path(path).suffix, f"name it {' or '.join(FORMATS)}")
        with atomic_file(path, force=force) as temporary:
            temporary.write_bytes(content)

    def _content(self, suffix: str, provenance: dict[str, str]) -> bytes | None:
        file = io.BytesIO()
        if suffix == ".csv":
            file.write("".join(f"# {key}: {text}\n" for key, text in provenance.items()).encode())
            self.frame.write_csv(file)
            return file.getvalue()
        if suffix == ".parquet":
            self.frame.write_parquet(file, metadata={PROVENANCE_KEY: json.dumps(provenance)})
            return file.getvalue()
        return None

    def __len__(self) -> int:
        return self.frame.height

    @property
    def names_adapters(self) -> bool:
        """Whether every request says its adapter."""
        return self.frame["adapter"].null_count() == 0

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last arrival."""
        if len(self) == 0:
            return 0.0
        arrivals = self.frame["arrival_s"]
        return float(arrivals[-1]) - float(arrivals[0])
