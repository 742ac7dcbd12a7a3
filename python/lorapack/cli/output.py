"""The one printer: what every command says, on stdout and stderr, and the options that steer it.

A command is a declaration, a call and a print::

    @click.command()
    @click.argument("fleet_path", type=INPUT_FILE)
    @common_options
    def command(fleet_path: Path, out: Printer, seed: int) -> None:
        '''Say something about a fleet.'''
        with out.progress("simulating", total=10) as advance:
            ...
        out.result({"n_adapters": 3}, Table("adapters", ["adapter", "rank"], rows))

stdout holds the result: one JSON object under ``--json``, else text (rich tables on a terminal,
plain columns in a pipe). Progress, notes and warnings go to stderr.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from lorapack.errors import printable

F = TypeVar("F", bound=Callable[..., Any])

INPUT_FILE: click.Path = click.Path(exists=True, dir_okay=False, path_type=Path)
"""An argument that must be a file there is."""

OUTPUT_FILE: click.Path = click.Path(dir_okay=False, path_type=Path)
"""A file to be written."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows for people.

    Attributes:
        title: What the rows are; may be empty.
        columns: Their headings.
        rows: Cells; numbers are shown short and to the right, ``None`` as a dash.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclasses.dataclass(frozen=True)
class Printer:
    """What a command talks through.

    Attributes:
        json: One JSON object on stdout and nothing else there.
        quiet: No progress, notes or warnings, and no text: errors only (and the JSON object).
    """

    json: bool = False
    quiet: bool = False

    def result(self, data: Mapping[str, object], *text: str | Table) -> None:
        """Prints what the command found.

        Args:
            data: The JSON object, in INTERFACE's keys; numpy values, dataclasses, paths and tuples
                may be in it, and what is not a finite number becomes ``null``.
            text: The same for people: lines and tables.
        """
        if self.json:
            click.echo(json_text(data))
        elif not self.quiet:
            for part in text:
                click.echo(part) if isinstance(part, str) else self._table(part)

    def note(self, message: str) -> None:
        """Says something on stderr that is no part of the result."""
        if not self.quiet:
            click.echo(printable(message), err=True)

    def warn(self, message: str) -> None:
        """Says something on stderr that the user should know before trusting the result."""
        self.note(f"warning: {message}")

    @contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A bar on stderr while the block runs, if that is a terminal.

        Args:
            label: What is being done.
            total: How many units there are, if known.

        Yields:
            A function that is told how many units were just done.
        """
        if self.quiet or not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda done: bars.update(task, advance=done)

    def _table(self, table: Table) -> None:
        if not sys.stdout.isatty():
            click.echo(_plain(table))
            return
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        title = Text(table.title) if table.title else None
        drawn = RichTable(
            title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for index, column in enumerate(table.columns):
            # In a narrow terminal headings break between words, names anywhere, numbers never: what
            # an ellipsis cuts off cannot be read at all.
            words = column.replace("_", " ")
            numeric = _numeric(table, index)
            whole = [cell_text(row[index]) for row in table.rows] if numeric else []
            drawn.add_column(
                Text(words),
                justify="right" if numeric else "left",
                overflow="fold",
                min_width=max(map(len, [*words.split(), *whole]), default=1),
            )
        for row in table.rows:
            # Text, not str: a name such as "[red]" is a name, not markup.
            drawn.add_row(*(Text(cell_text(cell)) for cell in row))
        Console().print(drawn)


def _seed(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """A seed as every random stream takes it."""
    if not 0 <= value < 2**63:
        raise click.BadParameter("give a whole number from 0 to 2^63 - 1", ctx, param)
    return value


def common_options(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command ``--json``, ``--quiet`` and ``--seed``, passed on as ``out`` and ``seed``.

    Args:
        function: A command's function that takes ``out: Printer`` and ``seed: int``.

    Returns:
        The function to decorate with the command's own options.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
    @click.option(
        "--seed",
        type=int,
        metavar="N",
        callback=_seed,
        default=0,
        show_default=True,
        help="Seed of everything drawn.",
    )
    @functools.wraps(function)
    def with_printer(*args: object, as_json: bool, quiet: bool, **kwargs: object) -> None:
        function(*args, out=Printer(as_json, quiet), **kwargs)

    return with_printer


def force_option(function: F) -> F:
    """Gives a command ``--force``: it may replace files that exist."""
    return click.option("--force", is_flag=True, help="Replace files that exist.")(function)


def json_text(data: Mapping[str, object]) -> str:
    """One JSON object on one line, ASCII only, with ``null`` for what JSON has no word for.

    Args:
        data: See :meth:`Printer.result`.

    Returns:
        The text, without a newline at the end.

    Example:
        >>> json_text({"rate_rps": float("nan"), "file": Path("a.csv"), "ranks": (8, 16)})
        '{"rate_rps": null, "file": "a.csv", "ranks": [8, 16]}'
    """
    return json.dumps(_jsonable(data), allow_nan=False)


def _jsonable(value: object) -> object:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Iterable):
        return [_jsonable(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        return _jsonable(value.item())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def cell_text(cell: object) -> str:
    """A cell as people read it.

    Args:
        cell: Anything.

    Returns:
        Numbers with up to four significant digits (counts in full), a dash for nothing.

    Example:
        >>> cell_text(12345), cell_text(0.123456), cell_text(1234.5), cell_text(None)
        ('12,345', '0.1235', '1,234', '-')
    """
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return printable(str(cell)).replace("\n", "\ufffd")


def _numeric(table: Table, index: int) -> bool:
    cells = [row[index] for row in table.rows if row[index] is not None]
    return bool(cells) and all(
        isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in cells
    )


def _plain(table: Table) -> str:
    """Columns of equal width with two spaces between: for pipes, logs and eyes alike."""
    lines = [list(table.columns), *([cell_text(cell) for cell in row] for row in table.rows)]
    right = [_numeric(table, index) for index in range(len(table.columns))]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    texts = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *texts] if table.title else texts)
