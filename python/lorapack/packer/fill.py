"""Filling one GPU: the longest start of an ordered list that it serves.

Feasibility is very nearly monotone in the list's length, so the count is found by galloping from a
guess and bisecting; where the favoured slots fail at the very end, all others are tried too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.evaluate import SlotSearch
    from lorapack.twin.trial import Verdict

FAVOURED_RULES = 2
"""Slot rules tried while galloping; the others only where these have failed."""


@dataclass
class PrefixFill:
    """The search for one GPU's share of a list.

    Attributes:
        items: The adapters left, in packing order.
        search: Slots and verdicts.
        least: Prefixes shorter than this are not wanted (what must go together).
        held: The longest prefix known to hold, and its verdict.
        broke: The shortest prefix known not to; one past the list's end if none is.
    """

    items: tuple[Adapter, ...]
    search: SlotSearch
    least: int = 1
    held: int = 0
    verdict: Verdict | None = None
    broke: int = 0

    def longest(self, guess: int, *, all_rules: bool = True) -> Verdict | None:
        """The verdict on the longest prefix that holds; None if not even the least one does.

        Args:
            guess: Where to look first.
            all_rules: Try the slot rules that are out of favour, too, where the others break.
        """
        self.broke = len(self.items) + 1
        self.held = self.least - 1
        self._gallop(max(self.least, min(guess, len(self.items))), FAVOURED_RULES)
        while all_rules and self.broke <= len(self.items) and self._attempt(self.broke, None):
            self.broke = len(self.items) + 1  # other slots hold more: go on from there
            self._gallop(min(self.held + 1, len(self.items)), FAVOURED_RULES)
        return self.verdict

    def _gallop(self, guess: int, n_rules: int) -> None:
        """Brackets the longest prefix by growing steps away from the guess, then bisects."""
        step = max(1, guess // 50)
        count = guess
        while self.held < count < self.broke:
            if self._attempt(count, n_rules):
                count = min(count + step, len(self.items))
            else:
                self.broke = count
                count = max(count - step, self.least)
            step *= 2
        while self.broke - self.held > 1:
            middle = (self.held + self.broke) // 2
            if not self._attempt(middle, n_rules):
                self.broke = middle

    def _attempt(self, count: int, n_rules: int | None) -> bool:
        verdict = self.search.first_holding(self.items[:count], n_rules)
        if verdict is None:
            return False
        self.held, self.verdict = count, verdict
        return True
