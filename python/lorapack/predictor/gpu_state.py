"""One GPU inside a scheduler: adapters come and go in O(1), a prediction at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lorapack.errors import Infeasible, InputError
from lorapack.predictor.targets import Prediction
from lorapack.twin.physics import Asking, Physics, Window, WorkSums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorapack._native import Work
    from lorapack.fleet.adapter import Adapter
    from lorapack.predictor.predictor import Predictor


HOUR = Window()
"""An hour, every adapter used before."""


class GpuState:
    """The adapters on one GPU, and what they come to.

    Args:
        model: Who predicts; its profile is the GPU's.
        max_lora_rank: The rank that LoRA slots are made for.
        max_loras: LoRA slots; ``None``: as many as adapters held, at most what memory allows.
        kv_cache_tokens: KV capacity, tokens; ``None``: by the memory rule, for the slots there are.
        window: How long it is watched, and how it starts; an hour, warm, if not given.

    Example:
        >>> from lorapack import Adapter, GpuState, Predictor
        >>> state = GpuState(Predictor.load("llama-3.1-8b/h100-64gb/vllm-0.8.5"), max_lora_rank=16)
        >>> for i in range(4):
        ...     state.add(Adapter(f"adapter-{i}", rank=8, rate_rps=0.2))
        >>> len(state), state.predict().starved_probability < 0.5
        (4, True)
    """

    def __init__(
        self,
        model: Predictor,
        *,
        max_lora_rank: int,
        max_loras: int | None = None,
        kv_cache_tokens: int | None = None,
        window: Window = HOUR,
    ) -> None:
        self.model = model
        self.max_lora_rank = max_lora_rank
        self.max_loras = max_loras
        self.kv_cache_tokens = kv_cache_tokens
        self.window = window
        self._sums = WorkSums()
        self._works: dict[str, Work] = {}
        self._asking = Asking.of(model.profile, max_lora_rank)
        self._physics = Physics.of(model.profile, max_lora_rank=max_lora_rank)
        self._capacity = _Capacity(model, max_lora_rank)

    def __len__(self) -> int:
        """Adapters held, the base model among them if it is."""
        return len(self._works)

    def __contains__(self, adapter: Adapter) -> bool:
        """Whether an adapter of that name is held."""
        return adapter.adapter in self._works

    def add(self, adapter: Adapter) -> None:
        """Counts an adapter in.

        Raises:
            InputError: One of that name is held, or its rank is above ``max_lora_rank``.
        """
        if adapter.adapter in self._works:
            raise InputError("GpuState.add", "adapter", adapter.adapter, "remove it first")
        work = self._asking.work(adapter)
        self._works[adapter.adapter] = work
        self._sums.add(work)

    def remove(self, adapter: Adapter) -> None:
        """Counts an adapter out, with the figures it was counted in with.

        Raises:
            InputError: None of that name is held.
        """
        work = self._works.pop(adapter.adapter, None)
        if work is None:
            raise InputError("GpuState.remove", "adapter", adapter.adapter, "add it first")
        self._sums.remove(work)

    def copy(self) -> GpuState:
        """An independent state with the same adapters."""
        twin = object.__new__(GpuState)
        twin.__dict__.update(self.__dict__)
        twin._sums, twin._works = self._sums.copy(), dict(self._works)
        return twin

    def features(self, max_loras: int | None = None) -> NDArray[np.float32]:
        """The row that a prediction is made from, shape (1, features).

        Args:
            max_loras: LoRA slots in place of the state's own.

        Raises:
            Infeasible: The engine would not start.
        """
        slots = max_loras if max_loras is not None else self.max_loras
        if slots is None:
            slots = min(self._sums.n_adapters, self._capacity.most_slots)
        tokens = self.kv_cache_tokens
        if tokens is None:
            tokens = self._capacity.tokens(slots)
        return self._physics.features(
            self._sums, max_loras=slots, kv_cache_tokens=tokens, window=self.window
        )

    def predict(self, max_loras: int | None = None) -> Prediction:
        """What these adapters come to on this GPU.

        Args:
            max_loras: LoRA slots in place of the state's own.

        Raises:
            Infeasible: The engine would not start.

        Example:
            >>> from lorapack import Adapter, GpuState, Predictor
            >>> model = Predictor.load("llama-3.1-8b/h100-64gb/vllm-0.8.5")
            >>> state = GpuState(model, max_lora_rank=8)
            >>> newcomer = Adapter("sql", rank=8, rate_rps=0.5)
            >>> tried = state.copy()
            >>> tried.add(newcomer)
            >>> tried.predict().slo_margin > 0, len(state)
            (True, 0)
        """
        return self.model.tell(self.features(max_loras))


class _Capacity:
    """KV capacity by LoRA slots, each worked out once."""

    def __init__(self, model: Predictor, max_lora_rank: int) -> None:
        self._profile = model.profile
        self._rank = max_lora_rank
        self._tokens: dict[int, int] = {}
        self._most: int | None = None

    def tokens(self, max_loras: int) -> int:
        found = self._tokens.get(max_loras)
        if found is not None:
            return found
        plan = self._profile.memory_plan(
            max_loras=max_loras, max_lora_rank=self._rank if max_loras else 0
        )
        if not plan.starts:
            mend = "; ".join(str(mend) for mend in plan.mends)
            raise Infeasible(f"the engine does not start: {plan.refusal}", mend or None)
        self._tokens[max_loras] = plan.kv_cache_tokens
        return plan.kv_cache_tokens

    @property
    def most_slots(self) -> int:
        """The most LoRA slots with which the engine starts."""
        if self._most is None:
            low, high = 0, 1
            while self._starts(high):
                low, high = high, 2 * high
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self._starts(middle) else (low, middle)
            self._most = low
        return self._most

    def _starts(self, max_loras: int) -> bool:
        return self._profile.memory_plan(max_loras=max_loras, max_lora_rank=self._rank).starts
