"""The steady state of one GPU: what the twin would come to, in about a microsecond and roughly.

:class:`Physics` is a GPU with its engine, :func:`work_of` turns an adapter into what it asks for,
:class:`WorkSums` adds adapters up in O(1), and :meth:`Physics.features` solves for the steady state
and lays out the row of :data:`FEATURES`. The formulas, and the only list of the features, are in
``rust/twin/src/physics``; the model of :mod:`lorapack.predictor` learns what they leave out.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lorapack._native import Fullness, GpuPhysics, Work, WorkList, WorkSums, physics_features
from lorapack.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lorapack.fleet.adapter import Adapter
    from lorapack.profile.adapter_loading import AdapterLoading
    from lorapack.profile.lengths import Lengths
    from lorapack.profile.profile import Profile
    from lorapack.twin.scenario import Scenario

__all__ = [
    "FEATURES",
    "Feature",
    "Fullness",
    "Physics",
    "Window",
    "WorkList",
    "WorkSums",
    "capacity_rps",
    "work_of",
]

TAIL = 3.3
"""Standard scores up to which a lognormal length counts: one request in 2,000 is longer."""

UNLIMITED = 1e9
"""Requests in flight that stand for no cap."""


@dataclass(frozen=True)
class Feature:
    """One number that a prediction is made from.

    Attributes:
        name: Its name, the unit last.
        unit: ``s``, ``tokens``, ``requests/s``, ``count``, or ``1`` when it has none.
        meaning: One line for people.
        raw: Whether it describes the question (what is asked of the GPU, how it is set), not what
            physics answers; raw features are held against the range a model was trained on.
    """

    name: str
    unit: str
    meaning: str
    raw: bool


FEATURES: tuple[Feature, ...] = tuple(Feature(*row) for row in physics_features())
"""Every feature, in the order of a row."""

FEATURE_INDEX: dict[str, int] = {feature.name: i for i, feature in enumerate(FEATURES)}
"""Name -> place in a row."""


@dataclass(frozen=True)
class Window:
    """How long a GPU is watched, and how it starts.

    Attributes:
        duration_s: Length of the window, seconds.
        warm: Whether every adapter was used before.
        max_in_flight: Requests that clients keep in the system at most; ``None``: no cap.
        scrape_interval_s: From the answer to one scrape of the engine's metrics to the next;
            ``None``: none.
    """

    duration_s: float = 3600.0
    warm: bool = True
    max_in_flight: int | None = None
    scrape_interval_s: float | None = None


@dataclass(frozen=True)
class Physics:
    """A GPU with its engine: all that does not change as adapters come and go.

    Attributes:
        native: Its prices, in Rust.
        max_lora_rank: The rank that LoRA slots are made for.
    """

    native: GpuPhysics
    max_lora_rank: int

    @classmethod
    def of(
        cls,
        profile: Profile,
        *,
        max_lora_rank: int,
        block_size: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
    ) -> Physics:
        """The physics of a profile.

        Args:
            profile: Model, GPU and engine.
            max_lora_rank: The rank that LoRA slots are made for.
            block_size: Tokens a KV block; ``None``: the profile's.
            max_num_seqs: Requests that may run at once; ``None``: the profile's.
            max_num_batched_tokens: Tokens a step may hold; ``None``: the profile's.
        """
        engine = profile.engine
        native = _native_physics(
            profile,
            max_lora_rank,
            block_size or engine.block_size,
            max_num_seqs or engine.max_num_seqs,
            max_num_batched_tokens or engine.max_num_batched_tokens,
        )
        return cls(native, max_lora_rank)

    def features(
        self,
        sums: WorkSums,
        *,
        max_loras: int,
        kv_cache_tokens: int,
        max_cpu_loras: int | None = None,
        window: Window = Window(),
    ) -> NDArray[np.float32]:
        """The row of :data:`FEATURES` for these adapters on this GPU.

        Args:
            sums: What the adapters ask for.
            max_loras: LoRA slots; 0: LoRA is off.
            kv_cache_tokens: KV capacity, tokens, the null block counted.
            max_cpu_loras: Adapters in the CPU cache; ``None``: all.
            window: How long it is watched, and how it starts.

        Returns:
            float32 of shape (1, features).
        """
        return self.native.features(
            sums,
            max_loras,
            self.max_lora_rank,
            sums.n_adapters if max_cpu_loras is None else max_cpu_loras,
            kv_cache_tokens,
            window.duration_s,
            window.warm,
            UNLIMITED if window.max_in_flight is None else window.max_in_flight,
            math.inf if window.scrape_interval_s is None else window.scrape_interval_s,
        )

    def fullness(self, *, load: float, kv_cache_tokens: NDArray[np.uint32]) -> Fullness:
        """How full such GPUs are over an hour, warm, by their engine's time or by their slots.

        Args:
            load: Of a full GPU.
            kv_cache_tokens: KV capacity by slots, from none to the most, tokens.
        """
        return Fullness(
            self.native,
            max_lora_rank=self.max_lora_rank,
            load=load,
            kv_cache_tokens=kv_cache_tokens,
        )

    def queued_share(
        self,
        sums: WorkSums,
        *,
        max_loras: int,
        kv_cache_tokens: int,
        duration_s: float = Window.duration_s,
    ) -> float:
        """Share of the requests that find all slots in use when their adapter comes for one.

        At most so many, warm: an upper limit, where an adapter each for itself comes and goes. One
        that finds none waits, and a queue for slots, once there, may never end.

        Args:
            sums: What the adapters ask for.
            max_loras: LoRA slots.
            kv_cache_tokens: KV capacity, tokens, the null block counted.
            duration_s: Length of the window, seconds.
        """
        return self.native.queued_share(
            sums, max_loras, self.max_lora_rank, kv_cache_tokens, duration_s
        )

    def fewest_slots(
        self,
        sums: WorkSums,
        most_queued: float,
        *,
        max_loras: int,
        kv_cache_tokens: int,
        duration_s: float = Window.duration_s,
    ) -> int:
        """The fewest slots with which no larger share finds all in use; else as many as there are.

        Args:
            sums: What the adapters ask for.
            most_queued: The share.
            max_loras: LoRA slots at most.
            kv_cache_tokens: KV capacity, tokens, the null block counted.
            duration_s: Length of the window, seconds.
        """
        return int(
            self.native.fewest_slots(
                sums, most_queued, max_loras, self.max_lora_rank, kv_cache_tokens, duration_s
            )
        )


def sums_of(adapters: Iterable[Adapter], profile: Profile, max_lora_rank: int) -> WorkSums:
    """Sums over adapters.

    Args:
        adapters: Any order gives the same bits.
        profile: Its lengths stand in where an adapter has none; its loading prices count.
        max_lora_rank: The rank that LoRA slots are made for.
    """
    sums, asking = WorkSums(), Asking.of(profile, max_lora_rank)
    for adapter in adapters:
        sums.add(asking.work(adapter))
    return sums


def work_of(adapter: Adapter, profile: Profile, max_lora_rank: int) -> Work:
    """What one adapter asks of a GPU; see :meth:`Asking.work`.

    Args:
        adapter: The adapter, or the base model.
        profile: Its lengths stand in where the adapter has none; its loading prices count.
        max_lora_rank: The rank that LoRA slots are made for.

    Raises:
        InputError: The adapter's rank is above ``max_lora_rank``.
    """
    return Asking.of(profile, max_lora_rank).work(adapter)


@dataclass(frozen=True, eq=False)
class Asking:
    """What adapters ask of the GPUs of one profile: all that does not depend on the adapter.

    Attributes:
        max_lora_rank: The rank that LoRA slots are made for.
        max_model_len: Tokens at which the engine cuts a request.
        loading: Prices of loading an adapter.
        moments: Of the profile's lengths, which stand in where an adapter has none.
    """

    max_lora_rank: int
    max_model_len: int
    loading: AdapterLoading
    moments: _Moments

    @classmethod
    def of(cls, profile: Profile, max_lora_rank: int) -> Asking:
        """Of a profile, with slots made for a rank."""
        moments = _moments_of(profile.lengths)
        return cls(max_lora_rank, profile.engine.max_model_len, profile.adapter_loading, moments)

    def work(self, adapter: Adapter) -> Work:
        """What one adapter, or the base model, asks of a GPU.

        Raises:
            InputError: The adapter's rank is above ``max_lora_rank``.
        """
        rank = adapter.rank
        if rank > self.max_lora_rank:
            mend = f"give max_lora_rank {rank} or more, or leave the adapter out"
            raise InputError(f"adapter {adapter.adapter}", "rank", rank, mend)
        moments = self.moments
        if adapter.lengths == "lognormal":
            moments = _lognormal_moments(adapter, self.max_model_len)
        elif adapter.lengths == "constant":
            moments = _Moments(1.0, 1.0, 1.0, 1.0, 1.0)
        prompt = adapter.prompt_tokens or moments.prompt
        output = adapter.output_tokens or moments.output
        if adapter.lengths == "lognormal":
            prompt, output = moments.prompt, moments.output
        return Work(
            is_base=adapter.is_base,
            rate_rps=adapter.rate_rps,
            prompt_tokens=prompt,
            output_tokens=output,
            prompt_square=moments.prompt_square * prompt * prompt,
            output_square=moments.output_square * output * output,
            prompt_output=moments.prompt_output * prompt * output,
            gap_cv_square=adapter.cv * adapter.cv,
            rank=rank,
            gpu_load_s=self.loading.gpu_load_ms(rank, self.max_lora_rank) * 1e-3,
            disk_load_s=self.loading.disk_load_ms(rank) * 1e-3,
        )


def features_of(scenario: Scenario) -> NDArray[np.float32]:
    """The row of :data:`FEATURES` for a scenario that the twin could run.

    Scenario-wide laws of arrivals and lengths are not seen: what the adapters say counts.

    Raises:
        Infeasible: The engine would not start.
    """
    engine = scenario.engine
    # With LoRA off there is no rank, and nothing that would depend on one.
    rank = max(engine.max_lora_rank, scenario.fleet.largest_rank)
    physics = Physics.of(
        scenario.profile,
        max_lora_rank=rank,
        block_size=engine.block_size,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
    )
    return physics.features(
        sums_of(scenario.fleet, scenario.profile, rank),
        max_loras=engine.max_loras,
        kv_cache_tokens=engine.kv_cache_tokens,
        max_cpu_loras=engine.max_cpu_loras,
        window=Window(
            scenario.duration_s or math.inf,
            scenario.warm,
            scenario.max_in_flight,
            scenario.scrape_interval_s,
        ),
    )


def capacity_rps(scenario: Scenario) -> float:
    """Requests a second that physics says the GPU can complete of this scenario's mix."""
    return float(features_of(scenario)[0, FEATURE_INDEX["capacity_rps"]])


@dataclass(frozen=True)
class _Moments:
    """Means of a joint law of lengths, tokens, and its second moments over the means' products."""

    prompt: float
    output: float
    prompt_square: float
    output_square: float
    prompt_output: float


@functools.lru_cache(maxsize=64)
def _moments_of(lengths: Lengths) -> _Moments:
    prompt, output = (column.astype(np.float64) for column in lengths.pairs())
    means = float(prompt.mean()), float(output.mean())
    return _Moments(
        *means,
        prompt_square=float((prompt * prompt).mean()) / means[0] ** 2,
        output_square=float((output * output).mean()) / means[1] ** 2,
        prompt_output=float((prompt * output).mean()) / (means[0] * means[1]),
    )


def _lognormal_moments(adapter: Adapter, max_model_len: int) -> _Moments:
    """Moments of an adapter's own lognormal law, as a window sees them.

    A wide lognormal's moments live in a tail that no window of some thousand requests meets (at a
    sigma of 3 nearly all of its mean does): lengths count up to their :data:`TAIL` quantile, and up
    to the engine's cut.
    """
    prompt, prompt_square = _cut_moments(adapter.prompt_tokens, adapter.prompt_sigma, max_model_len)
    output, output_square = _cut_moments(adapter.output_tokens, adapter.output_sigma, max_model_len)
    joint = (adapter.correlation or 0.0) * (adapter.prompt_sigma or 0.0)
    most = math.sqrt(prompt_square * output_square)
    prompt_output = min(math.exp(joint * (adapter.output_sigma or 0.0)), most)
    return _Moments(prompt, output, prompt_square, output_square, prompt_output)


def _cut_moments(mean: float | None, sigma: float | None, most: float) -> tuple[float, float]:
    """Mean of a lognormal that is cut, tokens, and its mean square over the squared mean."""
    mean, sigma = mean or 1.0, sigma or 0.0
    if sigma < 1e-3:
        return min(mean, most), 1.0
    middle = math.log(mean) - 0.5 * sigma * sigma
    score = min(TAIL, (math.log(most) - middle) / sigma)
    end, beyond = math.exp(middle + score * sigma), 1.0 - _normal(score)
    first = mean * _normal(score - sigma) + beyond * end
    second = mean * mean * math.exp(sigma * sigma) * _normal(score - 2 * sigma) + beyond * end * end
    return max(first, 1.0), second / (first * first)


def _normal(score: float) -> float:
    """The standard normal's distribution function."""
    return 0.5 * math.erfc(-score / math.sqrt(2.0))


_CPU_LORAS = 1000
"""Adapters in the CPU cache, at which the price of one is taken."""


@functools.lru_cache(maxsize=256)
def _native_physics(
    profile: Profile,
    max_lora_rank: int,
    block_size: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
) -> GpuPhysics:
    step, front = profile.step_time, profile.front_end
    # The price of a step is affine in the slots, that of a distinct adapter in the adapters of the
    # CPU cache: two settings of them give the whole line.
    off, one, two = (
        step.tables(slots, max_lora_rank, max_num_batched_tokens) for slots in (0, 1, 2)
    )
    cached = step.tables(1, max_lora_rank, max_num_batched_tokens, cpu_loras=_CPU_LORAS)
    lookups = cached.distinct_adapter[1:] - one.distinct_adapter[1:]
    return GpuPhysics(
        without_lora_ps=off.base,
        one_slot_ps=one.base,
        two_slots_ps=two.base,
        distinct_adapter_ps=one.distinct_adapter,
        cpu_lora_ps=float(lookups.mean()) / _CPU_LORAS,
        request_ps=one.request_ps,
        context_token_ps=one.context_token_ps,
        mixed_context_token_ps=one.mixed_context_token_ps,
        attention_pair_ps=one.attention_pair_ps,
        skipped_ps=one.skipped_ps,
        waiting_ps=one.waiting_ps,
        mapping_ps=one.mapping_ps,
        mapping_request_ps=one.mapping_request_ps,
        stretch_s=step.stretch(1.0) - 1.0,
        front_end_request_s=front.request_ms * 1e-3,
        first_use_s=front.first_use_ms * 1e-3,
        first_token_fixed_s=front.first_token_fixed_ms * 1e-3,
        first_token_request_s=front.first_token_request_ms * 1e-3,
        first_token_step=front.first_token_step_fraction,
        series_s=(front.series_us or 0.0) * 1e-6,
        series_adapter_s=(front.series_adapter_us or 0.0) * 1e-6,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )
