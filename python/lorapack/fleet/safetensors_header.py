"""The header of a safetensors file, and nothing of its data: names, types, shapes, all checked.

Layout: 8 bytes little-endian length, then that many bytes of JSON (name -> ``dtype``, ``shape``,
``data_offsets``; perhaps ``__metadata__``), then the data without holes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard

from lorapack.errors import InputError

BYTES_OF: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
        **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
        **dict.fromkeys(("I32", "U32", "F32"), 4),
        **dict.fromkeys(("I64", "U64", "F64"), 8),
    }
)
"""Bytes of an element, by dtype."""

LARGEST_HEADER = 100_000_000
"""The format's own limit on the header, bytes."""


@dataclass(frozen=True)
class Tensor:
    """One tensor's entry.

    Attributes:
        dtype: As the file says it: ``F32``, ``BF16``.
        shape: Sizes.
        n_bytes: Its span in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    n_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, Tensor]:
    """Reads and checks a safetensors file's header.

    Args:
        file: The file.

    Returns:
        Name -> tensor, in the file's order.

    Raises:
        InputError: The file is cut short, or its header does not describe it.
    """
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                mend = f"fetch it again: it is cut short, its header claims {length} bytes"
                raise InputError(file, "first 8 bytes", f"{size} bytes", mend)
            content = json.loads(stream.read(length), object_pairs_hook=_once_each)
    except OSError as error:
        mend = f"cannot be read: {error.strerror or error}"
        raise InputError(file, None, None, mend) from error
    except (ValueError, RecursionError) as error:
        raise InputError(file, "header", None, f"save it again: {error}") from error
    if not isinstance(content, dict):
        raise InputError(file, "header", content, "save it again: the header is no JSON object")
    content.pop("__metadata__", None)
    return _checked(file, content, data_bytes=size - 8 - length)


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _checked(file: Path, content: dict[str, object], data_bytes: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in content.items():
        dtype, shape, start, end = _entry(file, name, entry)
        n_bytes = math.prod(shape) * BYTES_OF[dtype]
        if end - start != n_bytes:
            mend = f"save it again: {dtype} {list(shape)} takes {n_bytes} bytes"
            raise InputError(file, f"tensor {name}", f"{end - start} bytes", mend)
        tensors[name] = Tensor(dtype, shape, n_bytes)
        spans.append((start, end, name))
    reached = 0
    for start, end, name in sorted(spans):
        if start != reached:
            mend = f"save it again: its data should start at {reached}"
            raise InputError(file, f"tensor {name}", start, mend)
        reached = end
    if reached != data_bytes:
        mend = f"fetch it again: the header describes {reached} bytes of data"
        raise InputError(file, "length", f"{data_bytes} bytes of data", mend)
    return tensors


def _entry(file: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """An entry's dtype, shape, first and last offset, each of the right kind."""
    found = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (found.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise InputError(file, f"tensor {name}", entry, "save it again: no shape and data_offsets")
    if not isinstance(dtype, str) or dtype not in BYTES_OF:
        raise InputError(file, f"tensor {name}", dtype, f"save it as one of {', '.join(BYTES_OF)}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _sizes(found: object) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(type(size) is int and size >= 0 for size in found)
