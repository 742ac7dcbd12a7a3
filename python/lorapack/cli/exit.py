"""From what went wrong to an exit code and a message on stderr: the only place that decides it."""

from __future__ import annotations

import os
import sys

import click

from lorapack.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    Infeasible,
    InputError,
    LorapackError,
    printable,
    shown,
)


def exit_code_of(error: BaseException) -> int | None:
    """Says what went wrong on stderr and which exit code that is.

    Args:
        error: What a command raised.

    Returns:
        The exit code, or ``None`` when it is a bug that should show its traceback.
    """
    if isinstance(error, BrokenPipeError):
        # Whoever read us (`| head`) has seen enough: that is success, as it is for cat and grep.
        _forget_stdout()
        return EXIT_DONE
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        _say("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, LorapackError):
        _say(message_of(error))
        return error.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        _say(f"error: {shown(str(error.filename))}: {error.strerror}")
        return EXIT_BAD_INPUT
    return None


def message_of(error: LorapackError) -> str:
    """The message of an error, one fact a line.

    Args:
        error: Any of the catalogue.

    Returns:
        Lines for stderr, without a newline at the end.
    """
    if isinstance(error, InputError):
        file = [] if not error.file else [_file(error.file)]
        where = ": ".join([*file, *([shown(error.place)] if error.place else [])])
        lines = [f"error: {where}" if where else "error"]
        if error.value is not None:
            lines.append(f"  found: {shown(error.value)}")
        return "\n".join([*lines, f"  mend:  {error.mend}"])
    if isinstance(error, Infeasible):
        nearest = [] if error.nearest is None else [f"  nearest: {error.nearest}"]
        return "\n".join([f"no feasible answer: {error.limit}", *nearest])
    return f"error: {error}"


def _file(path: str) -> str:
    """A path in full, however long: its end says which file is meant."""
    return path if path.isprintable() and path == path.strip() else ascii(path)


def _say(message: str) -> None:
    click.echo(printable(message), err=True)


def _forget_stdout() -> None:
    """Points stdout at nothing, or Python's own flush at exit would complain once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
