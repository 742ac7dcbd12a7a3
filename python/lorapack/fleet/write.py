"""A fleet to CSV, Parquet, JSON or TOML: the columns that say something, and the header's rule."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

from lorapack.atomic_file import atomic_file
from lorapack.errors import InputError
from lorapack.fleet.adapter import COLUMNS, Column
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.read import FORMATS, PROVENANCE_KEY


def write_fleet(fleet: Fleet, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Writes a fleet in the format of the file name's suffix, whole or not at all.

    Args:
        fleet: What to write; what is read back equals it.
        path: ``.csv``, ``.parquet``, ``.json`` or ``.toml``.
        force: Whether a file that exists may be replaced.

    Raises:
        InputError: The suffix is none of these, or the file exists and ``force`` is off.
    """
    form = _FORMS.get(Path(path).suffix.lower())
    if form is None:
        raise InputError(path, "output", Path(path).suffix, f"name it {', '.join(FORMATS)}")
    content = form(fleet)
    with atomic_file(path, force=force) as temporary:
        temporary.write_bytes(content)


def csv_text(fleet: Fleet) -> str:
    """A fleet as CSV: its provenance as ``# key: value`` lines, then the telling columns.

    Args:
        fleet: What to write.

    Returns:
        The whole file, lines ending in a newline.

    Example:
        >>> from lorapack.fleet.adapter import Adapter
        >>> print(csv_text(Fleet([Adapter("a", 8, 0.5)], {"seed": "1"})), end="")
        # seed: 1
        adapter,rank,rate_rps
        a,8,0.5
    """
    file = io.StringIO()
    file.writelines(f"# {key}: {text}\n" for key, text in fleet.provenance.items())
    columns = telling_columns(fleet)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows(
        ["" if cell is None else cell for cell in row]
        for row in zip(*_cells(fleet, columns), strict=True)
    )
    return file.getvalue()


def telling_columns(fleet: Fleet) -> list[Column]:
    """The columns worth writing: the required ones, and those where not all is default.

    Args:
        fleet: Any.

    Returns:
        Columns in the order of ``COLUMNS``.
    """
    return [
        column
        for column in COLUMNS
        if column.required or any(getattr(a, column.name) != column.default for a in fleet)
    ]


def _cells(fleet: Fleet, columns: list[Column]) -> list[list[object]]:
    return [[getattr(adapter, column.name) for adapter in fleet] for column in columns]


def rows_of(fleet: Fleet) -> list[dict[str, object]]:
    """A fleet as JSON and TOML hold it: rows without the cells that say nothing.

    Args:
        fleet: Any.

    Returns:
        One mapping an adapter (TOML has no null, so blanks are left out).
    """
    names = telling_columns(fleet)
    return [
        {c.name: getattr(a, c.name) for c in names if getattr(a, c.name) is not None} for a in fleet
    ]


def _csv(fleet: Fleet) -> bytes:
    return csv_text(fleet).encode()


def _json(fleet: Fleet) -> bytes:
    head = json.dumps(dict(fleet.provenance), ensure_ascii=False)
    rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows_of(fleet))
    return f'{{\n  "provenance": {head},\n  "adapters": [\n{rows}\n  ]\n}}\n'.encode()


def _toml(fleet: Fleet) -> bytes:
    import tomli_w

    content = {"provenance": dict(fleet.provenance)} if fleet.provenance else {}
    return tomli_w.dumps({**content, "adapter": rows_of(fleet)}).encode()


def _parquet(fleet: Fleet) -> bytes:
    file = io.BytesIO()
    frame = fleet.frame().select([column.name for column in telling_columns(fleet)])
    frame.write_parquet(file, metadata={PROVENANCE_KEY: json.dumps(dict(fleet.provenance))})
    return file.getvalue()


_FORMS: dict[str, Callable[[Fleet], bytes]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".json": _json,
    ".toml": _toml,
}
