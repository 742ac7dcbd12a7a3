"""The private native module: what `rust/bindings` exports. Only the twin's own rooms import it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Adapter",
    "Arrivals",
    "Block",
    "CachingAllocator",
    "EngineSettings",
    "FrontEnd",
    "Fullness",
    "GpuPhysics",
    "LengthShape",
    "Network",
    "Outcome",
    "Scenario",
    "StepTime",
    "Table",
    "Trace",
    "Work",
    "WorkList",
    "WorkSums",
    "conform_residency",
    "conform_schedule",
    "physics_features",
    "simulate",
    "simulate_many",
]

@final
class Arrivals:
    """How an adapter's requests arrive; rates in requests per second."""

    @staticmethod
    def none() -> Arrivals: ...
    @staticmethod
    def poisson(rate_rps: float) -> Arrivals: ...
    @staticmethod
    def gamma(rate_rps: float, cv: float) -> Arrivals: ...
    @staticmethod
    def weibull(rate_rps: float, cv: float) -> Arrivals: ...
    @staticmethod
    def on_off(rate_rps: float, on_s: float, off_s: float) -> Arrivals: ...
    @staticmethod
    def diurnal(rate_rps: float, amplitude: float, period_s: float, phase: float) -> Arrivals: ...
    @staticmethod
    def piecewise(starts_s: Sequence[float], rates_rps: Sequence[float]) -> Arrivals: ...

@final
class LengthShape:
    """A joint distribution of prompt and output tokens."""

    @staticmethod
    def constant(prompt_tokens: int, output_tokens: int) -> LengthShape: ...
    @staticmethod
    def lognormal(
        prompt_mean: float,
        prompt_sigma: float,
        output_mean: float,
        output_sigma: float,
        correlation: float,
    ) -> LengthShape: ...
    @staticmethod
    def pairs(
        prompt_tokens: NDArray[np.float32], output_tokens: NDArray[np.float32]
    ) -> LengthShape: ...

@final
class Adapter:
    """One adapter, or the base model."""

    def __new__(
        cls,
        *,
        key: int,
        is_base: bool,
        arrivals: Arrivals,
        length_shape: int,
        prompt_scale: float,
        output_scale: float,
        gpu_load_ps: int,
        disk_load_ps: int,
    ) -> Adapter: ...

@final
class Trace:
    """Recorded requests: columns of equal length, ascending in time."""

    def __new__(
        cls,
        *,
        arrival_ps: NDArray[np.uint64],
        adapter: NDArray[np.uint32],
        prompt_tokens: NDArray[np.uint32],
        output_tokens: NDArray[np.uint32],
    ) -> Trace: ...

@final
class EngineSettings:
    """The engine's own settings."""

    def __new__(
        cls,
        *,
        rule_set: str,
        block_size: int,
        num_blocks: int,
        max_loras: int,
        max_cpu_loras: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        long_prefill_token_threshold: int,
    ) -> EngineSettings: ...

@final
class StepTime:
    """Prices of a step, picoseconds; tables by batched tokens."""

    def __new__(
        cls,
        *,
        base_ps: NDArray[np.uint64],
        distinct_adapter_ps: NDArray[np.uint64],
        request_ps: int,
        context_token_ps: int,
        mixed_context_token_ps: int,
        attention_pair_ps: int,
        skipped_ps: int,
        waiting_ps: int,
        mapping_ps: int,
        mapping_request_ps: int,
    ) -> StepTime: ...

@final
class FrontEnd:
    """What stands between the client and the engine."""

    def __new__(
        cls,
        *,
        request_ps: int,
        first_use_ps: int,
        first_token_fixed_ps: int,
        first_token_request_ps: int,
        first_token_step_ppm: int,
        series_ps: int,
        series_adapter_ps: int,
    ) -> FrontEnd: ...

@final
class Scenario:
    """Everything a run depends on."""

    def __new__(
        cls,
        *,
        adapters: Sequence[Adapter],
        length_shapes: Sequence[LengthShape],
        trace: Trace | None,
        engine: EngineSettings,
        step_time: StepTime,
        front_end: FrontEnd,
        duration_ps: int | None,
        warmup_ps: int,
        judge_until_ps: int,
        seed: int,
        max_in_flight: int | None,
        warm: bool,
        scrape_interval_ps: int | None,
    ) -> Scenario: ...

def conform_schedule(
    settings: EngineSettings, columns: Mapping[str, NDArray[np.uint32]], *, completed: bool
) -> tuple[int, str, str, str] | None: ...
def conform_residency(
    columns: Mapping[str, NDArray[np.uint32]],
    step: NDArray[np.int32],
    *,
    max_loras: int,
    max_cpu_loras: int,
) -> tuple[int, str, str, str] | None: ...

@final
class Table:
    """Columns of equal length, read through the Arrow PyCapsule interface without a copy."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...
    def __len__(self) -> int: ...

@final
class Outcome:
    """All that a run yields."""

    def summary(self) -> dict[str, Any]: ...
    @property
    def adapters(self) -> Table: ...
    @property
    def requests(self) -> Table | None: ...
    @property
    def steps(self) -> Table | None: ...

def simulate(scenario: Scenario, *, requests: bool = False, steps: bool = False) -> Outcome: ...
def simulate_many(
    scenarios: Sequence[Scenario],
    *,
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]: ...
def physics_features() -> list[tuple[str, str, str, bool]]: ...

@final
class Work:
    """What one adapter asks of a GPU."""

    def __new__(
        cls,
        *,
        is_base: bool,
        rate_rps: float,
        prompt_tokens: float,
        output_tokens: float,
        prompt_output: float,
        output_square: float,
        prompt_square: float,
        gap_cv_square: float,
        rank: float,
        gpu_load_s: float,
        disk_load_s: float,
    ) -> Work: ...
    def sending(self, rate_rps: float) -> Work: ...
    def at_rate(self, factor: float) -> Work: ...

@final
class WorkList:
    """What each of many adapters asks of a GPU: of few kinds, at rates of their own."""

    def __new__(
        cls, kinds: Sequence[Work], kind: NDArray[np.int64], rates_rps: NDArray[np.float64]
    ) -> WorkList: ...
    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Work: ...

@final
class WorkSums:
    """Exact sums over the adapters on a GPU."""

    def __new__(cls) -> WorkSums: ...
    def add(self, work: Work) -> None: ...
    def remove(self, work: Work) -> None: ...
    def add_all(self, works: Sequence[Work], factor: float) -> None: ...
    def add_of(self, works: WorkList, places: Sequence[int]) -> None: ...
    def remove_of(self, works: WorkList, places: Sequence[int]) -> None: ...
    def copy(self) -> WorkSums: ...
    @property
    def rate_rps(self) -> float: ...
    @property
    def n_adapters(self) -> int: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    __hash__: None  # type: ignore[assignment]

@final
class Network:
    """A trained network with its inputs' scaling and its outputs' last steps, for one row."""

    def __new__(
        cls,
        *,
        offset: NDArray[np.float32],
        mean: NDArray[np.float32],
        scale: NDArray[np.float32],
        layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        physics: NDArray[np.float32],
        least: float,
        most: float,
        draw: NDArray[np.float32],
        cap: NDArray[np.float32],
        low: NDArray[np.float32],
        high: NDArray[np.float32],
    ) -> Network: ...
    def row(self, features: NDArray[np.float32]) -> NDArray[np.float32] | None: ...
    def numbers(self, features: NDArray[np.float32]) -> tuple[float, ...] | None: ...

@final
class GpuPhysics:
    """A GPU with its engine: what does not change as adapters come and go."""

    def __new__(
        cls,
        *,
        without_lora_ps: NDArray[np.uint64],
        one_slot_ps: NDArray[np.uint64],
        two_slots_ps: NDArray[np.uint64],
        distinct_adapter_ps: NDArray[np.uint64],
        cpu_lora_ps: float,
        request_ps: int,
        context_token_ps: int,
        mixed_context_token_ps: int,
        attention_pair_ps: int,
        skipped_ps: int,
        waiting_ps: int,
        mapping_ps: int,
        mapping_request_ps: int,
        stretch_s: float,
        front_end_request_s: float,
        first_use_s: float,
        first_token_fixed_s: float,
        first_token_request_s: float,
        first_token_step: float,
        series_s: float,
        series_adapter_s: float,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
    ) -> GpuPhysics: ...
    def features(
        self,
        sums: WorkSums,
        max_loras: float,
        max_lora_rank: float,
        max_cpu_loras: float,
        kv_cache_tokens: float,
        duration_s: float,
        warm: bool,
        max_in_flight: float,
        scrape_interval_s: float,
    ) -> NDArray[np.float32]: ...
    def queued_share(
        self,
        sums: WorkSums,
        max_loras: float,
        max_lora_rank: float,
        kv_cache_tokens: float,
        duration_s: float,
    ) -> float: ...
    def fewest_slots(
        self,
        sums: WorkSums,
        most_queued: float,
        max_loras: float,
        max_lora_rank: float,
        kv_cache_tokens: float,
        duration_s: float,
    ) -> float: ...

@final
class Fullness:
    """How full a GPU is over an hour, warm, with any number of slots of one rank."""

    def __new__(
        cls,
        gpu: GpuPhysics,
        *,
        max_lora_rank: float,
        load: float,
        kv_cache_tokens: NDArray[np.uint32],
    ) -> Fullness: ...
    def of(self, sums: WorkSums, max_loras: int) -> float: ...
    def least(self, sums: WorkSums) -> tuple[float, int]: ...

@final
class Block:
    """What a tensor holds."""

    @property
    def size(self) -> int: ...

@final
class CachingAllocator:
    """PyTorch's CUDA caching allocator, replayed on sizes alone."""

    def __new__(cls) -> CachingAllocator: ...
    def take(self, size: int) -> Block: ...
    def take_all(self, sizes: Sequence[int]) -> None: ...
    def give(self, block: Block) -> None: ...
    def empty_cache(self) -> None: ...
    @property
    def allocated(self) -> int: ...
    @property
    def reserved(self) -> int: ...
