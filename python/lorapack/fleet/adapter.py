"""One adapter: its rank, its load, its lengths; and the only list of a fleet's columns.

:data:`COLUMNS` is the one place where a column's name, kind, limits and meaning stand. The
dataclass checks itself against it, the readers build their errors from it, and the tests draw
their bad values from it.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import repeat
from types import MappingProxyType

from lorapack.errors import InputError

MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of ``max_lora_rank`` that every vLLM takes (config.py of 0.8.5, config/lora.py of
0.33, which takes 1 as well)."""

LARGEST_RANK = MAX_LORA_RANKS[-1]
"""No adapter may have a larger one."""

LARGEST_RATE_RPS = 1e6
"""Above this a rate is taken for a mistake in the unit."""

LARGEST_TOKENS = 1e7
"""Above this a mean length is taken for a mistake: no model's context comes near."""

SMALLEST_CV, LARGEST_CV = 0.01, 100.0
"""Limits of the gaps' coefficient of variation that the arrival laws are made for."""

GAPS = ("gamma", "weibull")
"""Families of the gaps between requests; at ``cv`` 1 both are Poisson's exponential gaps."""

LENGTHS = ("profile", "constant", "lognormal")
"""Shapes of the lengths: the profile's joint one, all alike, or lognormal with given sigmas."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a fleet, as data.

    Attributes:
        name: As in files and as the attribute of :class:`Adapter`.
        kind: ``name``, ``integer``, ``number``, ``choice`` or ``text``.
        meaning: What it holds, with its unit.
        default: What stands where it is blank; ``...`` when it must be given.
        low: Smallest value of a number.
        high: Largest value of a number.
        choices: The words a ``choice`` knows.
    """

    name: str
    kind: str
    meaning: str
    default: object = None
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether a fleet must have it."""
        return self.default is ...

    @property
    def mend(self) -> str:
        """What to write there, as a clause of an error."""
        return _MENDS.get(self.name) or _mend_of(self)


def _mend_of(column: Column) -> str:
    if column.kind == "choice":
        return f"give one of {', '.join(column.choices)}"
    if column.kind == "number":
        return f"give a finite number from {column.low:g} to {column.high:g} ({column.meaning})"
    return f"give {column.meaning} without line breaks, control characters or outer blanks"


_MENDS: Mapping[str, str] = MappingProxyType(
    {
        "rank": f"give a whole number from 1 to {LARGEST_RANK}, the largest max_lora_rank that "
        "vLLM takes, or 0 for the base model itself",
        "rate_rps": f"give a finite rate from 0 to {LARGEST_RATE_RPS:.0f} requests per second",
        "adapter": "give the adapter's name, without line breaks, control characters or outer "
        "blanks",
    }
)

_TOKENS = {"kind": "number", "low": 1.0, "high": LARGEST_TOKENS}

COLUMNS: tuple[Column, ...] = (
    Column("adapter", "name", "the adapter's name, as requests say it", ...),
    Column("rank", "integer", "LoRA rank, 0 for the base model", ..., 0, LARGEST_RANK),
    Column("rate_rps", "number", "mean rate, requests per second", ..., 0.0, LARGEST_RATE_RPS),
    Column("prompt_tokens", meaning="mean length of a prompt, tokens", **_TOKENS),  # type: ignore[arg-type]
    Column("output_tokens", meaning="mean length of an answer, tokens", **_TOKENS),  # type: ignore[arg-type]
    Column(
        "cv", "number", "standard deviation of gaps over their mean", 1.0, SMALLEST_CV, LARGEST_CV
    ),
    Column("gaps", "choice", "family of the gaps between requests", "gamma", choices=GAPS),
    Column("model", "text", "the base model the adapter belongs to"),
    Column("pin", "text", "the GPU it must be placed on"),
    Column("path", "text", "its PEFT folder or URI"),
    Column("keep_apart", "text", "a group of which no two share a GPU"),
    Column("lengths", "choice", "shape of the lengths", "profile", choices=LENGTHS),
    Column("prompt_sigma", "number", "sigma of the prompt's logarithm", None, 0.0, 5.0),
    Column("output_sigma", "number", "sigma of the answer's logarithm", None, 0.0, 5.0),
    Column("correlation", "number", "correlation of the two logarithms", None, -1.0, 1.0),
)
"""Every column of a fleet, in the order written."""

COLUMN: Mapping[str, Column] = MappingProxyType({column.name: column for column in COLUMNS})
"""The same by name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter (or, with rank 0, the base model) and the load it must bear.

    Args:
        adapter: Its name, as requests say it in ``model``.
        rank: LoRA rank, 1 to 512; 0 means the base model itself.
        rate_rps: Mean rate of its requests, requests per second.
        prompt_tokens: Mean prompt length, tokens; ``None`` takes the profile's mean.
        output_tokens: Mean answer length, tokens; ``None`` takes the profile's mean.
        cv: Coefficient of variation of the gaps between requests; 1 is Poisson.
        gaps: Family of the gaps: ``gamma`` or ``weibull``.
        model: The base model it belongs to, when a fleet has several.
        pin: The GPU it must be placed on.
        path: Its PEFT folder or URI.
        keep_apart: A group name: no two adapters of a group share a GPU.
        lengths: ``profile`` (the profile's joint shape, scaled to the means), ``constant`` or
            ``lognormal``; the latter two need both means.
        prompt_sigma: Sigma of the prompt lengths' logarithm (``lognormal`` only).
        output_sigma: Sigma of the answer lengths' logarithm (``lognormal`` only).
        correlation: Correlation of the two logarithms, -1 to 1 (``lognormal`` only; blank is 0).

    Raises:
        InputError: A value is out of its column's limits.

    Example:
        >>> Adapter("summaries", rank=16, rate_rps=0.5).cv
        1.0
    """

    adapter: str
    rank: int
    rate_rps: float
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    cv: float = 1.0
    gaps: str = "gamma"
    model: str | None = None
    pin: str | None = None
    path: str | None = None
    keep_apart: str | None = None
    lengths: str = "profile"
    prompt_sigma: float | None = None
    output_sigma: float | None = None
    correlation: float | None = None

    def __post_init__(self) -> None:
        found = first_fault(self)
        if found is not None:
            column, value, mend = found
            name = self.adapter if column != "adapter" else "Adapter"
            raise InputError(f"adapter {name}", column, value, mend)

    @property
    def is_base(self) -> bool:
        """Whether this is the base model: no slot, never loaded."""
        return self.rank == 0


def assemble(columns: Mapping[str, Sequence[object]]) -> list[Adapter]:
    """Adapters from columns that were checked already: ten times as fast as one by one.

    Args:
        columns: Name -> values, all of one length; columns left out take their defaults.

    Returns:
        The adapters, in order.
    """
    n_rows = len(columns["adapter"])
    adapters = [_new_adapter(Adapter) for _ in range(n_rows)]
    for field in dataclasses.fields(Adapter):
        values = columns.get(field.name)
        # A slot's own setter: the frozen class refuses assignment, its slots do not.
        fill = map(
            Adapter.__dict__[field.name].__set__,
            adapters,
            repeat(field.default) if values is None else values,
        )
        deque(fill, maxlen=0)
    return adapters


def at_rates(adapters: Sequence[Adapter], factor: float) -> Sequence[Adapter]:
    """The same adapters with every rate multiplied, unchecked."""
    if factor == 1.0 or not adapters:
        return adapters
    rows = map(operator.attrgetter(*COLUMN), adapters)
    columns: dict[str, Sequence[object]] = dict(zip(COLUMN, zip(*rows, strict=True), strict=True))
    columns["rate_rps"] = [adapter.rate_rps * factor for adapter in adapters]
    return assemble(columns)


_new_adapter = object.__new__


def first_fault(adapter: Adapter) -> tuple[str, object, str] | None:
    """The first thing wrong with an adapter's values.

    Args:
        adapter: Any, checked or not.

    Returns:
        Column, value and mend, or ``None`` when all is well.
    """
    for column in COLUMNS:
        value = getattr(adapter, column.name)
        if value is None and column.default is None:
            continue
        if not well_formed(column, value):
            return column.name, value, column.mend
    return fault_of_lengths(adapter)


def well_formed(column: Column, value: object) -> bool:
    """Whether a value is one that its column takes.

    Args:
        column: One of :data:`COLUMNS`.
        value: The value, already of Python's own type.

    Returns:
        Whether it may stand there (blanks are the caller's affair).
    """
    if column.kind == "choice":
        return value in column.choices
    if column.kind in ("name", "text"):
        return isinstance(value, str) and is_clean_text(value)
    if column.kind == "integer":
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and column.low <= value <= column.high  # type: ignore[operator]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and column.low <= value <= column.high  # type: ignore[operator]


def is_clean_text(text: str) -> bool:
    """Whether a name can be written to any file and read back the same.

    Args:
        text: A name.

    Returns:
        False for an empty one, outer blanks, control characters, line breaks, lone surrogates.
    """
    if text.isascii() and text.isprintable():
        return text != "" and text[0] != " " and text[-1] != " "
    if text == "" or text != text.strip():
        return False
    return not any(_breaks(letter) for letter in text)


def _breaks(letter: str) -> bool:
    point = ord(letter)
    control = point < 0x20 or 0x7F <= point < 0xA0
    return control or letter in "\u2028\u2029\ufeff" or 0xD800 <= point < 0xE000


def fault_of_lengths(adapter: Adapter) -> tuple[str, object, str] | None:
    """What is wrong between an adapter's length columns, each being well formed by itself.

    Args:
        adapter: Any.

    Returns:
        Column, value and mend, or ``None`` when they go together.
    """
    sigmas = ("prompt_sigma", "output_sigma", "correlation")
    if adapter.lengths != "lognormal":
        for name in sigmas:
            if getattr(adapter, name) is not None:
                return name, getattr(adapter, name), "leave it blank, or give lengths lognormal"
    if adapter.lengths == "profile":
        return None
    needed = ("prompt_tokens", "output_tokens")
    for name in needed if adapter.lengths == "constant" else (*needed, *sigmas[:2]):
        if getattr(adapter, name) is None:
            return name, None, f"give it: lengths {adapter.lengths} needs it"
    return None
