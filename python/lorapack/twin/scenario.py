"""One GPU, one fleet, one engine setting, one seed: what :func:`simulate` runs.

:class:`Scenario` joins a fleet, a profile and settings. What is left out takes the profile's value;
:attr:`Scenario.engine` says what came of it, or that such an engine would not start.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorapack.errors import Infeasible, InputError
from lorapack.fleet.adapter import MAX_LORA_RANKS
from lorapack.profile.memory import CUDA_OUT_OF_MEMORY, MAX_MODEL_LEN, NO_CACHE_BLOCKS
from lorapack.profile.profile import RULE_SETS

if TYPE_CHECKING:
    from lorapack.fleet.fleet import Fleet
    from lorapack.profile.memory import MemoryPlan
    from lorapack.profile.profile import Profile
    from lorapack.trace.trace import Trace
    from lorapack.twin.arrivals import ArrivalLaw
    from lorapack.twin.lengths import LengthLaw

LONGEST_S = 200 * 86_400.0
"""Longest run, seconds: picoseconds in 64 bits end at 213 days."""

STARVED_BELOW = 0.9
"""What serves less than this share of its load is starved (the rule of arXiv 2508.08343)."""

JUDGED_REQUESTS = 8
"""An adapter with fewer judged requests than this is never called starved."""


@dataclass(frozen=True)
class Engine:
    """Every engine setting of a scenario, defaults filled in, under the engine's names.

    Attributes:
        rule_set: Scheduling rules: ``vllm-0.8.5`` or ``vllm-0.33``.
        block_size: Tokens a KV block.
        kv_cache_tokens: KV cache in tokens, the null block counted.
        max_loras: LoRA slots on the GPU; 0 switches LoRA off.
        max_lora_rank: The rank slots are made for; 0 with LoRA off.
        max_cpu_loras: Adapters the CPU cache holds.
        max_num_seqs: Requests that may run at once.
        max_num_batched_tokens: Tokens a step may hold.
        max_model_len: A request ends when prompt + generated tokens reach this.
        long_prefill_token_threshold: Cap on the tokens of a prefill chunk; 0: none.
        gpu_memory_utilization: Share of the GPU's memory that the engine may take.
        enable_prefix_caching: Always off: the twin does not model it.
    """

    rule_set: str
    block_size: int
    kv_cache_tokens: int
    max_loras: int
    max_lora_rank: int
    max_cpu_loras: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    long_prefill_token_threshold: int
    gpu_memory_utilization: float
    enable_prefix_caching: bool = False

    @property
    def usable_tokens(self) -> int:
        """KV tokens that requests can hold: without the null block and a last, partial block."""
        return (self.kv_cache_tokens // self.block_size - 1) * self.block_size


@dataclass(frozen=True, eq=False)
class Scenario:
    """Everything a simulated run depends on.

    Args:
        profile: Model, GPU and engine.
        fleet: The adapters on this GPU.
        max_loras: LoRA slots; ``None``: one an adapter, at most what memory allows; 0: LoRA off.
        max_lora_rank: The rank slots are made for; ``None``: the fleet's largest, rounded up to one
            that vLLM takes.
        max_cpu_loras: Adapters in the CPU cache; ``None``: all of the fleet's.
        kv_cache_tokens: KV cache, tokens, the null block counted; ``None``: by the memory rule.
        max_model_len: Longest sequence, tokens; ``None``: the profile's, or what a given
            ``kv_cache_tokens`` holds, if that is less.
        max_num_seqs: Requests that may run at once; ``None``: the profile's.
        max_num_batched_tokens: Tokens a step may hold; ``None``: the profile's.
        block_size: Tokens a KV block; ``None``: the profile's.
        gpu_memory_utilization: Share of memory for the engine; ``None``: the profile's.
        long_prefill_token_threshold: Cap on a prefill chunk, tokens; 0: none.
        rule_set: Scheduling rules; ``None``: the profile's.
        duration_s: End of arrivals and of the window, seconds; ``None``: until every request of the
            trace is done.
        warmup_s: Start of the window in which things are counted, seconds.
        judge_until_s: Requests that arrive later do not count towards an adapter's judged share,
            seconds; ``None``: three minutes before the end.
        seed: Of every random stream.
        max_in_flight: An arrival that finds so many requests in the system is dropped; ``None``: no
            cap.
        warm: Start with every adapter added once and no first use to pay; else caches are empty.
        scrape_interval_s: Somebody scrapes the engine's metrics so many seconds after the last
            answer, which holds up the API server; ``None``: nobody does.
        records: Keep a row for each request and each step.
        arrivals: How requests are spread; ``None``: each adapter's ``gaps`` and ``cv``, or, with a
            trace, the trace alone.
        lengths: How long they are; ``None``: each adapter's own.
        trace: Recorded requests.

    Raises:
        InputError: A value cannot be used, alone or with the others.
        Infeasible: The engine would not start; raised by :attr:`engine` and all that needs it.

    Example:
        >>> from lorapack import Adapter, Fleet, Profile
        >>> fleet = Fleet([Adapter("summaries", rank=16, rate_rps=0.5)])
        >>> scenario = Scenario(Profile.load(), fleet, max_loras=4, kv_cache_tokens=65_536)
        >>> scenario.engine.max_lora_rank, scenario.engine.max_model_len
        (16, 65520)
    """

    profile: Profile
    fleet: Fleet
    max_loras: int | None = None
    max_lora_rank: int | None = None
    max_cpu_loras: int | None = None
    kv_cache_tokens: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    gpu_memory_utilization: float | None = None
    long_prefill_token_threshold: int = 0
    rule_set: str | None = None
    duration_s: float | None = 3600.0
    warmup_s: float = 0.0
    judge_until_s: float | None = None
    seed: int = 0
    max_in_flight: int | None = None
    warm: bool = False
    scrape_interval_s: float | None = None
    records: bool = False
    arrivals: ArrivalLaw | None = None
    lengths: LengthLaw | None = None
    trace: Trace | None = None

    def __post_init__(self) -> None:
        for name, low, high in _COUNTS:
            _check_count(name, getattr(self, name), low, high)
        if self.rule_set is not None and self.rule_set not in RULE_SETS:
            raise _wrong("rule_set", self.rule_set, f"give one of {', '.join(RULE_SETS)}")
        _check_times(self)
        _check_adapters(self)
        _check_engine(self)

    @functools.cached_property
    def engine(self) -> Engine:
        """Every engine setting, defaults filled in.

        Raises:
            Infeasible: The engine would not start.
        """
        return _engine(self)

    @property
    def window_s(self) -> float | None:
        """Length of the window in which things are counted, seconds; ``None``: open-ended."""
        return None if self.duration_s is None else self.duration_s - self.warmup_s


_COUNTS = (
    ("max_loras", 0, 2**20),
    ("max_lora_rank", 1, MAX_LORA_RANKS[-1]),
    ("max_cpu_loras", 0, 2**31),
    ("kv_cache_tokens", 2, 2**40),
    ("max_model_len", 2, 2**31),
    ("max_num_seqs", 1, 2**20),
    ("max_num_batched_tokens", 1, 2**20),
    ("block_size", 1, 2**16),
    ("long_prefill_token_threshold", 0, 2**31),
    ("seed", 0, 2**64 - 1),
    ("max_in_flight", 1, 2**32 - 1),
)
"""Whole numbers of a scenario: name, smallest, largest."""


def _wrong(place: str, value: object, mend: str) -> InputError:
    return InputError("scenario", place, value, mend)


def _check_count(name: str, value: object, low: int, high: int) -> None:
    if value is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:  # type: ignore[operator]
        raise _wrong(name, value, f"give a whole number from {low} to {high}")


def _check_times(scenario: Scenario) -> None:
    duration_s, warmup_s = scenario.duration_s, scenario.warmup_s
    if duration_s is not None and not 0 < duration_s <= LONGEST_S:
        raise _wrong("duration_s", duration_s, f"give seconds above 0, at most {LONGEST_S:.0f}")
    if not 0 <= warmup_s < (LONGEST_S if duration_s is None else duration_s):
        raise _wrong("warmup_s", warmup_s, "give seconds of 0 or more, less than duration_s")
    judge_until_s = scenario.judge_until_s
    if judge_until_s is not None and not 0 <= judge_until_s <= LONGEST_S:
        raise _wrong("judge_until_s", judge_until_s, "give seconds of 0 or more")
    if duration_s is None and scenario.trace is None:
        raise _wrong("duration_s", None, "give a duration: only a trace ends by itself")
    if duration_s is None and scenario.arrivals is not None:
        raise _wrong("duration_s", None, "give a duration: generated arrivals have no end")
    interval_s = scenario.scrape_interval_s
    if interval_s is not None and not 1e-3 <= interval_s <= LONGEST_S:
        raise _wrong("scrape_interval_s", interval_s, "give seconds of 0.001 or more")
    share = scenario.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        raise _wrong("gpu_memory_utilization", share, "give a share above 0, at most 1")


def _check_adapters(scenario: Scenario) -> None:
    fleet, max_loras = scenario.fleet, scenario.max_loras
    if len(fleet) == 0:
        raise _wrong("fleet", "no adapter", "give at least one adapter")
    if max_loras == 0 and fleet.largest_rank > 0:
        raise _wrong(
            "max_loras", 0, "give 1 or more: the fleet holds adapters, 0 switches LoRA off"
        )
    rank = scenario.max_lora_rank
    if rank is None:
        return
    if rank not in MAX_LORA_RANKS:
        raise _wrong("max_lora_rank", rank, f"vLLM takes {', '.join(map(str, MAX_LORA_RANKS))}")
    for adapter in fleet:
        if adapter.rank > rank:
            found = f"{rank}, below rank {adapter.rank} of adapter {adapter.adapter}"
            raise _wrong("max_lora_rank", found, f"give {rounded_up_rank(fleet.largest_rank)}")


def _check_engine(scenario: Scenario) -> None:
    """What the engine demands of its settings, before memory comes into it."""
    defaults = scenario.profile.engine
    max_num_seqs = scenario.max_num_seqs or defaults.max_num_seqs
    max_num_batched_tokens = scenario.max_num_batched_tokens or defaults.max_num_batched_tokens
    if max_num_batched_tokens < max_num_seqs:
        mend = f"give at least max_num_seqs = {max_num_seqs}, as the engine demands"
        raise _wrong("max_num_batched_tokens", max_num_batched_tokens, mend)
    max_loras, max_cpu_loras = scenario.max_loras or 0, scenario.max_cpu_loras
    if max_cpu_loras is not None and max_cpu_loras < max(max_loras, 1):
        mend = f"give at least max_loras = {max(max_loras, 1)}, as the engine demands"
        raise _wrong("max_cpu_loras", max_cpu_loras, mend)
    given, block_size = scenario.kv_cache_tokens, _block_size(scenario)
    if given is not None and given < 2 * block_size:
        mend = f"give at least {2 * block_size}: the null block and one more of {block_size} tokens"
        raise _wrong("kv_cache_tokens", given, mend)


def rounded_up_rank(rank: int) -> int:
    """The smallest ``max_lora_rank`` that vLLM takes and that holds an adapter of ``rank``.

    Example:
        >>> rounded_up_rank(9), rounded_up_rank(64)
        (16, 64)
    """
    return next(allowed for allowed in MAX_LORA_RANKS if allowed >= rank)


def _engine(scenario: Scenario) -> Engine:
    defaults = scenario.profile.engine
    n_adapters = sum(not adapter.is_base for adapter in scenario.fleet)
    max_loras = _max_loras(scenario, n_adapters)
    max_cpu_loras = scenario.max_cpu_loras
    kv_cache_tokens, max_model_len = _kv_cache(scenario, max_loras)
    return Engine(
        rule_set=scenario.rule_set or scenario.profile.rule_set,
        block_size=_block_size(scenario),
        kv_cache_tokens=kv_cache_tokens,
        max_loras=max_loras,
        max_lora_rank=_slot_rank(scenario) if max_loras else 0,
        max_cpu_loras=max(n_adapters, max_loras) if max_cpu_loras is None else max_cpu_loras,
        max_num_seqs=scenario.max_num_seqs or defaults.max_num_seqs,
        max_num_batched_tokens=scenario.max_num_batched_tokens or defaults.max_num_batched_tokens,
        max_model_len=max_model_len,
        long_prefill_token_threshold=scenario.long_prefill_token_threshold,
        gpu_memory_utilization=scenario.gpu_memory_utilization or defaults.gpu_memory_utilization,
    )


def _block_size(scenario: Scenario) -> int:
    return scenario.block_size or scenario.profile.engine.block_size


def _slot_rank(scenario: Scenario) -> int:
    return scenario.max_lora_rank or rounded_up_rank(scenario.fleet.largest_rank)


def _max_loras(scenario: Scenario, n_adapters: int) -> int:
    """Those given, or one an adapter, fewer where memory does not allow as many."""
    if scenario.max_loras is not None:
        return scenario.max_loras
    if (
        n_adapters == 0
        or scenario.kv_cache_tokens is not None
        or _plan(scenario, n_adapters).starts
    ):
        return n_adapters
    # Memory falls with every slot: the most that start is found by halving.
    low, high = 1, n_adapters
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _plan(scenario, middle).starts else (low, middle)
    return low


def _plan(scenario: Scenario, max_loras: int) -> MemoryPlan:
    return scenario.profile.memory_plan(
        max_loras=max_loras,
        max_lora_rank=_slot_rank(scenario) if max_loras else 0,
        max_model_len=scenario.max_model_len,
        max_num_seqs=scenario.max_num_seqs,
        max_num_batched_tokens=scenario.max_num_batched_tokens,
        gpu_memory_utilization=scenario.gpu_memory_utilization,
        block_size=scenario.block_size,
    )


_REFUSALS = {
    CUDA_OUT_OF_MEMORY: "{plan.case.max_loras} slots of rank {plan.case.max_lora_rank} and all "
    "else exceed the card's {plan.case.gpu_memory_gib:.2f} GiB",
    NO_CACHE_BLOCKS: "nothing is left for KV beside {plan.case.max_loras} slots of rank "
    "{plan.case.max_lora_rank}",
    MAX_MODEL_LEN: "one sequence of {plan.case.max_model_len} tokens exceeds the "
    "{plan.kv_cache_tokens} KV tokens left",
}
"""The memory rule's refusals in words."""


def _kv_cache(scenario: Scenario, max_loras: int) -> tuple[int, int]:
    """KV cache and longest sequence, tokens.

    Raises:
        Infeasible: The engine would not start.
    """
    longest = scenario.max_model_len or scenario.profile.engine.max_model_len
    given = scenario.kv_cache_tokens
    if given is None:
        plan = _plan(scenario, max_loras)
        if not plan.starts:
            mends = "; ".join(f"{mend.flag} ({mend.words})" for mend in plan.mends)
            limit = f"the engine does not start ({plan.refusal}): {_REFUSALS[plan.refusal or '']}"
            raise Infeasible(limit.format(plan=plan), mends or None)
        return plan.kv_cache_tokens, longest
    block_size = _block_size(scenario)
    usable = (given // block_size - 1) * block_size
    if scenario.max_model_len is None:
        return given, min(longest, usable)
    if longest > usable:
        limit = f"the engine does not start: max_model_len {longest} exceeds the KV cache"
        raise Infeasible(f"{limit} of {usable} usable tokens", f"max_model_len {usable}")
    return given, longest
