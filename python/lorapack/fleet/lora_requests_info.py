"""``vllm:lora_requests_info``: the one series of vLLM's in which adapters have names.

A gauge whose labels are the message: which adapters run and which wait (in 0.33 both labels list
the same), and how many slots there are. One series stays for every combination ever seen; its value
is when it was last so, a unix time, and the largest is now. Adapters that nobody asks vanish from
it though they are loaded: it can add adapters to a list, never take one away.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

SERIES = "vllm:lora_requests_info"

RUNNING, WAITING, SLOTS = "running_lora_adapters", "waiting_lora_adapters", "max_lora"


def newest(
    series: Iterable[tuple[Mapping[str, str], float]],
) -> tuple[Mapping[str, str], ...]:
    """The labels seen last.

    Args:
        series: Labels and value of each series, of one scrape.

    Returns:
        Those with the largest time: one, or several where servers share a scrape and a time.
    """
    seen = [(labels, time_s) for labels, time_s in series if math.isfinite(time_s)]
    last = max((time_s for _, time_s in seen), default=None)
    return tuple(labels for labels, time_s in seen if time_s == last)


def slots(labels: Mapping[str, str]) -> int | None:
    """The server's LoRA slots, ``None`` where the labels do not say."""
    text = labels.get(SLOTS, "")
    return int(text) if text.isascii() and text.isdigit() else None


def names_in(text: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """The adapters of a label: names with a comma between two.

    A name may hold commas itself. Known names are told apart: of all ways to part the text, the one
    that leaves the fewest pieces unknown counts.

    Args:
        text: The label's value.
        known: Names that there are, such as those of ``/v1/models``.

    Returns:
        Each name once, in the text's order.

    Example:
        >>> names_in("a,b,c"), names_in("a,b,c", ["a,b"])
        (('a', 'b', 'c'), ('a,b', 'c'))
    """
    pieces = text.split(",")
    wanted = frozenset(known)
    lengths = sorted({1, *(name.count(",") + 1 for name in wanted)})
    # best[end]: fewest unknown pieces up to there, then fewest names; where the last name starts.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(pieces) + 1):
        ways = []
        for start in (end - length for length in lengths if length <= end):
            is_known = ",".join(pieces[start:end]) in wanted
            if is_known or start == end - 1:
                unknown, names, _ = best[start]
                ways.append((unknown + (not is_known), names + 1, start))
        best.append(min(ways))
    found: list[str] = []
    end = len(pieces)
    while end > 0:
        start = best[end][2]
        found.append(",".join(pieces[start:end]))
        end = start
    return tuple(dict.fromkeys(name for name in reversed(found) if name.strip()))
