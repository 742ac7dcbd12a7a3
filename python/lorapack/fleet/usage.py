"""What each adapter was asked in a window: requests and tokens; and the fleet made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter, is_clean_text
from lorapack.fleet.draw import RankMix, significant, stream
from lorapack.fleet.fleet import Fleet


@dataclass(frozen=True)
class Usage:
    """One adapter's share of a window.

    Attributes:
        requests: How many.
        prompt_tokens: Their sum; ``None`` when it is not counted.
        output_tokens: Their sum; ``None`` when it is not counted.
    """

    requests: float
    prompt_tokens: float | None = None
    output_tokens: float | None = None


@dataclass(frozen=True)
class Ranks:
    """Where ranks come from when a source does not say them.

    Attributes:
        mix: What is drawn for adapters not known otherwise.
        known: A fleet whose ranks (and paths) are taken over by name, such as one from-peft made.
    """

    mix: RankMix
    known: Fleet | None = None


def fleet_of_usage(
    usage: Mapping[str, Usage],
    window_s: float,
    ranks: Ranks,
    provenance: Mapping[str, str],
    *,
    seed: int = 0,
    base: Sequence[str] = (),
) -> tuple[Fleet, tuple[str, ...]]:
    """Makes a fleet of what was counted.

    Args:
        usage: Adapter -> its share.
        window_s: Length of the window, seconds.
        ranks: Where ranks come from.
        provenance: ``made by``, ``source`` and ``rule``; the ranks' rule is added.
        seed: Of the ranks drawn.
        base: Names that are the base model itself (rank 0).

    Returns:
        The fleet, adapters by name, and notes.

    Raises:
        InputError: Nothing was counted, or a name cannot be one.
    """
    if not usage:
        raise InputError(provenance.get("source"), None, None, "counts no request of any adapter")
    names = sorted(usage)
    for name in names:
        if not is_clean_text(name):
            raise InputError(provenance.get("source"), "adapter", name, "is no usable name")
    drawn = dict(zip(names, ranks.mix.draw(len(names), stream(seed, "ranks")), strict=True))
    known = {} if ranks.known is None else {adapter.adapter: adapter for adapter in ranks.known}
    adapters = []
    for name in names:
        like = known.get(name)
        rank = 0 if name in base else like.rank if like is not None else drawn[name]
        adapters.append(_adapter(name, rank, usage[name], window_s, like))
    unknown = [name for name in names if name not in known and name not in base]
    notes = [f"ranks of {len(unknown)} of {len(names)} adapters drawn {ranks.mix}"]
    text = f"{provenance['rule']}; ranks: {len(names) - len(unknown)} known, the rest {ranks.mix}"
    stated = {**provenance, "rule": text, "seed": str(seed)}
    return Fleet(adapters, stated), tuple(notes if unknown else ())


def _adapter(name: str, rank: int, usage: Usage, window_s: float, like: Adapter | None) -> Adapter:
    def mean(total: float | None) -> float | None:
        if total is None or usage.requests <= 0:
            return None
        return significant(max(total / usage.requests, 1.0))

    return Adapter(
        name,
        rank,
        significant(usage.requests / window_s),
        prompt_tokens=mean(usage.prompt_tokens),
        output_tokens=mean(usage.output_tokens),
        path=None if like is None else like.path,
    )
