"""A file that is either whole or not there: written under another name, then renamed.

Whatever goes wrong in between (an error, Ctrl-C, a full disk), an older file of that name stays as
it was, and no half-written one is left.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorapack.errors import InputError, OutputExistsError


def refuse_to_overwrite(path: str | os.PathLike[str], *, force: bool) -> None:
    """Refuses early, before any work is done, what :func:`atomic_file` would refuse late.

    Args:
        path: The file to be written.
        force: Whether one that exists may be replaced.

    Raises:
        OutputExistsError: It exists and ``force`` is off.
        InputError: It is a folder, or its folder is not there.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(path, "output", None, "is a folder: name a file")
    if not path.absolute().parent.is_dir():
        raise InputError(path, "output", str(path.parent), "make this folder first")
    if path.is_file() and not force:
        raise OutputExistsError(path)


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Gives a temporary path to write to; renames it to ``path`` when the block ends well.

    Args:
        path: The file wanted. A pipe or a device (``/dev/stdout``) is written to directly.
        force: Whether a file that exists may be replaced.

    Yields:
        The path to write to, in the same folder (so that the rename is one step).

    Raises:
        OutputExistsError: ``path`` exists and ``force`` is off.
        InputError: ``path`` is a folder, or its folder is not there.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_file(folder / "plan.json") as temporary:
        ...     _ = temporary.write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['plan.json']
    """
    path = Path(path)
    refuse_to_overwrite(path, force=force)
    if path.exists() and not path.is_file():
        yield path
        return
    # A link keeps pointing where it did: what it points to is replaced.
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str, *, force: bool = False) -> None:
    """Writes a UTF-8 text file whole, or not at all.

    Args:
        path: The file wanted.
        text: Its contents; newlines are written as they are.
        force: Whether a file that exists may be replaced.
    """
    with atomic_file(path, force=force) as temporary:
        temporary.write_bytes(text.encode())
