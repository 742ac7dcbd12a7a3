"""What a user can have got wrong, as data: the exception tree and the exit codes.

Every error a user can cause is a :class:`LorapackError`. :class:`InputError` says *where* (file and
place), *what was found* (value) and *what would mend it*; :class:`Infeasible` says *which limit*
forbids any answer and *what comes nearest*. Anything else that escapes is a bug of lorapack.

:data:`EXAMPLES` holds one example of every kind; a test fails when a kind has none.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

EXIT_DONE = 0
"""The command did what was asked."""

EXIT_DIFFERS = 1
"""``conform`` found a difference (also what Python returns for a bug)."""

EXIT_BAD_INPUT = 2
"""Bad usage or bad input: stderr names file, place, value and mend."""

EXIT_INFEASIBLE = 3
"""The input is fine, but no answer exists: stderr names the limit."""

EXIT_INTERRUPTED = 130
"""Ctrl-C (128 + SIGINT)."""


class LorapackError(Exception):
    """The base of every error that is not a bug of lorapack itself.

    Attributes:
        exit_code: What the command line returns for it.

    Example:
        >>> try:
        ...     raise Infeasible("90 requests/s exceed one GPU")
        ... except LorapackError as error:
        ...     error.exit_code
        3
    """

    exit_code: int = EXIT_BAD_INPUT


class InputError(LorapackError):
    """Something read or given cannot be used.

    Args:
        file: The file, URL or, for a library call, the function it was given to.
        place: Where in it: ``line 3, column rate_rps``, ``[memory] weights_gib``, an argument.
        value: What was found there, as it was written; ``None`` when something is missing.
        mend: What to write instead, as an imperative clause.

    Example:
        >>> error = InputError("fleet.csv", "line 3, column rate_rps", "-1", "give a rate >= 0")
        >>> print(error)
        fleet.csv: line 3, column rate_rps: found -1; give a rate >= 0
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(
        self,
        file: str | os.PathLike[str] | None = None,
        place: str | None = None,
        value: object = None,
        mend: str = "see the documentation of what was called",
    ) -> None:
        self.file = None if file is None else os.fspath(file)
        self.place = place
        self.value = value
        self.mend = mend
        super().__init__(self.file, place, value, mend)

    def __str__(self) -> str:
        where = [part for part in (self.file, self.place) if part]
        found = "" if self.value is None else f"found {shown(self.value)}; "
        return ": ".join([*where, found + self.mend])


class OutputExistsError(InputError):
    """A file to be written is there already.

    Args:
        file: The path that would have been overwritten.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        super().__init__(file, "output", None, "exists already: pass --force, or name another file")
        self.args = (self.file,)


class MissingPackageError(InputError):
    """An optional part of lorapack needs a package that is not installed.

    Args:
        purpose: What was to be done, as a noun: ``plots``.
        package: The package that could not be imported.
        extra: The extra of lorapack that brings it.
    """

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        self.purpose, self.package, self.extra = purpose, package, extra
        super().__init__(None, purpose, None, f"needs {package}: pip install 'lorapack[{extra}]'")
        self.args = (purpose, package, extra)


class Infeasible(LorapackError):  # noqa: N818 - an answer, not a failure
    """The input is sound, yet no answer exists.

    Args:
        limit: What forbids every answer, with its numbers.
        nearest: What comes nearest, or which change would make one possible.

    Example:
        >>> print(Infeasible("adapter hot: 90 requests/s exceed one GPU", "17.2 requests/s fit"))
        no feasible answer: adapter hot: 90 requests/s exceed one GPU; nearest: 17.2 requests/s fit
    """

    exit_code = EXIT_INFEASIBLE

    def __init__(self, limit: str, nearest: str | None = None) -> None:
        self.limit = limit
        self.nearest = nearest
        super().__init__(limit, nearest)

    def __str__(self) -> str:
        nearest = "" if self.nearest is None else f"; nearest: {self.nearest}"
        return f"no feasible answer: {self.limit}{nearest}"


def shown(value: object) -> str:
    r"""A value as an error shows it: short, on one line, with nothing that could move the cursor.

    Args:
        value: What was found. Text is shown as written when that is safe, else quoted.

    Returns:
        At most 80 or so characters.

    Example:
        >>> shown("-1"), shown(""), shown("a\nb"), shown(float("nan"))
        ('-1', "''", "'a\\nb'", 'nan')
    """
    if not isinstance(value, str):
        return reprlib.repr(value)
    short = value if len(value) <= 80 else f"{value[:60]}... ({len(value)} characters)"
    plain = short.isprintable() and short == short.strip() and short != ""
    return short if plain else ascii(short)


def printable(text: str) -> str:
    r"""A text that cannot move the cursor or colour the terminal, whatever names are in it.

    Args:
        text: Anything; line breaks stay.

    Returns:
        The text, control characters shown as U+FFFD.

    Example:
        >>> printable("a\x1b[2J")
        'a\ufffd[2J'
    """
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() or mark == "\n" else "\ufffd" for mark in text)


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """The known name that an unknown one most resembles, if any does.

    Args:
        name: What was written.
        names: What would have been understood.

    Returns:
        The likeliest of ``names``, or ``None``.

    Example:
        >>> nearest_name("rate_rsp", ["rank", "rate_rps"])
        'rate_rps'
    """
    from difflib import get_close_matches

    by_fold = {known.casefold().replace("-", "_"): known for known in names}
    found = get_close_matches(name.casefold().replace("-", "_"), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, else all of them.

    Args:
        name: What was written.
        names: What would have been understood.

    Returns:
        A clause for :attr:`InputError.mend`.

    Example:
        >>> did_you_mean("rnk", ["rank", "rate_rps"])
        'did you mean rank?'
        >>> did_you_mean("zzz", ["rank", "rate_rps"])
        'known are: rank, rate_rps'
    """
    known = list(names)
    near = nearest_name(name, known)
    return f"did you mean {near}?" if near else f"known are: {', '.join(known)}"


EXAMPLES: Mapping[type[LorapackError], LorapackError] = MappingProxyType(
    {
        InputError: InputError(
            "fleet.csv", "line 3, column rate_rps", "-1", "give a finite rate of 0 or more"
        ),
        OutputExistsError: OutputExistsError("plan.json"),
        MissingPackageError: MissingPackageError("plots", "matplotlib", "plot"),
        Infeasible: Infeasible(
            "adapter hot: 90 requests/s exceed what one GPU serves",
            "17.2 requests/s fit: split the adapter in 6",
        ),
    }
)
"""One example of every kind of error (the tests hold it complete)."""
