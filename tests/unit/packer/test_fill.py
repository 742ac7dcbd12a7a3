from __future__ import annotations

from quick_evaluator import QuickEvaluator

from lorapack.fleet.adapter import Adapter
from lorapack.packer.evaluate import SlotRule, SlotSearch, slot_rules
from lorapack.packer.fill import PrefixFill
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

PROFILE = Profile.load()
INTERACTIVE = SERVICE_LEVELS["interactive"]


def adapters(n: int, rate_rps: float, rank: int = 64) -> tuple[Adapter, ...]:
    return tuple(Adapter(f"a{i:04d}", rank, rate_rps) for i in range(n))


def search(evaluator: QuickEvaluator, factor: float = 1.0) -> SlotSearch:
    return SlotSearch(evaluator, PROFILE, list(slot_rules(INTERACTIVE)), factor)


def longest(items: tuple[Adapter, ...], guess: int) -> int:
    fill = PrefixFill(items, search(QuickEvaluator()))
    verdict = fill.longest(guess)
    assert (verdict is None) == (fill.held == 0)
    return fill.held


def test_longest_prefix_is_found_from_any_guess() -> None:
    # Rank 64 doubles the load: each is 0.02, x 1.03 or so for its slots, so 48 hold and 49 do not.
    items = adapters(100, 0.2)
    found = {guess: longest(items, guess) for guess in (1, 5, 40, 48, 49, 60, 100)}
    assert len(set(found.values())) == 1
    assert found[1] == 48


def test_whole_list_is_held_when_it_fits() -> None:
    assert longest(adapters(20, 0.2), 3) == 20


def test_nothing_is_held_when_the_first_item_alone_fails() -> None:
    assert longest(adapters(3, 30.0), 2) == 0


def test_slots_never_exceed_the_adapters_nor_what_memory_allows() -> None:
    for rule in (SlotRule(share=1.0), SlotRule(share=0.7), SlotRule(count=96)):
        for n in (0, 1, 7, 500):
            slots = rule.slots(n, limit=64)
            assert 0 <= slots <= min(n, 64)
            assert (slots > 0) == (n > 0)


def test_best_slots_are_those_with_the_shortest_wait() -> None:
    verdict = search(QuickEvaluator()).best(adapters(40, 0.2))
    assert verdict is not None
    # Fewer slots are cheaper here; 0.7 x 40 is the least of the rules that gives half a slot each.
    assert verdict.trial.max_loras == 28


def test_base_model_alone_takes_no_slot() -> None:
    verdict = search(QuickEvaluator()).first_holding((Adapter("base", 0, 1.0),))
    assert verdict is not None
    assert verdict.trial.max_loras == 0
