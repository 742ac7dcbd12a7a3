"""A profile for a model or GPU that nobody measured: a measured one, scaled by first principles.

What the hardware bounds is scaled by bytes over bandwidth or operations over rate, keeping the
measured profile's *efficiency* (the share of the peak it reached); what the CPU does is kept as it
is. Where the measured GPU's bandwidth is not known (the 64 GB H100), it is taken to have read its
weights at 0.8 of the peak.

====================================  =========================================================
term                                  scaled by
====================================  =========================================================
``weights_ms``                        bytes of the linear layers and lm_head / bandwidth
``token_ms``                          2 operations a linear weight / bf16 rate
``context_token_ms``                  KV bytes a token / bandwidth
``mixed_context_token_ms``            query heads x their size x layers / bf16 rate
``attention_tflops``                  bf16 rate
``adapter_rank_ms``                   LoRA values a unit of rank / bandwidth
``lora_token_ms``                     LoRA values a unit of rank / bandwidth
``lora_block_ns``, ``adapter_block_ns``  nothing: one block's latency
``eager_ms``, ``cuda_graphs_gib``     decoder layers (kernels launched)
``adapter_small_batch_ms``            LoRA matrices (tiles of the shrink kernels)
``adapter_ms``                        tiles of the LoRA expand kernels in all layers
``gpu_fixed_ms``, ``gpu_partial_ms``  LoRA matrices (copies issued)
``gpu_rank_ms``                       LoRA values a unit of rank / host link
``disk_*_ms``                         LoRA values a unit of rank
all others                            nothing: CPU, libraries, the workload
====================================  =========================================================

Context is read at the memory's bandwidth in a step of decodes alone (Qwen2.5-7B reads 0.44 of
Llama-3.1-8B's bytes a token and pays 0.41 of its price); beside prompts a tile of queries is
computed for each decode, whose price follows the query heads (0.77 of Llama's, measured 0.77).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lorapack.errors import InputError
from lorapack.profile.adapter_loading import AdapterLoading
from lorapack.profile.gpu import Gpu
from lorapack.profile.memory import Memory
from lorapack.profile.model_shape import ModelShape
from lorapack.profile.profile import EngineDefaults, Price, Profile, Provenance, Uncertainty
from lorapack.profile.section import write_section
from lorapack.profile.step_time import StepTime

ASSUMED_BANDWIDTH_SHARE = 0.8
"""Share of the peak bandwidth at which a GPU of unknown bandwidth is taken to read weights.

The first guess of ai-dynamo/aiconfigurator; it gives the 64 GB H100 some 2,040 GB/s."""

LARGE_GPU_GIB = 70.0
"""From here on vLLM 0.8.5's API server takes larger batches by default."""

LARGE_GPU_BATCH = (8192, 1024)
SMALL_GPU_BATCH = (2048, 256)
"""Default `max_num_batched_tokens` and `max_num_seqs` by the GPU's memory."""

UTILIZATION = {"vllm-0.8.5": 0.90, "vllm-0.33": 0.92}
"""Default `gpu_memory_utilization` by the engine version's rule set."""

UNCERTAINTY = Uncertainty(
    step_time_fraction=0.2,
    kv_cache_fraction=0.001,
    adapter_loading_fraction=3.0,
    front_end_fraction=0.2,
)
"""How far an estimate may be off, as seen by estimating each measured profile from the other.

Another generation of GPU may be further off in step time: nobody measured."""


@dataclass(frozen=True)
class _Scales:
    """Factors on the measured profile's terms."""

    weights: float
    compute: float
    compute_rate: float
    attention: float
    kv_read: float
    lora_values: float
    lora_read: float
    layers: float
    tiles: float
    copies: float
    host_read: float


def estimate(model: ModelShape, gpu: Gpu, source: Profile, *, name: str | None = None) -> Profile:
    """Builds a profile of an unmeasured model or GPU from a measured profile's efficiencies.

    Args:
        model: The model's shape.
        gpu: The GPU's facts.
        source: The measured profile; its engine version, front end and lengths are kept.
        name: Name of the profile; otherwise ``model/gpu/engine``.

    Raises:
        InputError: The GPU's bf16 rate or, where it is not the source's own, its bandwidth is not
            known; or the source has no ``[memory]``.
    """
    if source.memory is None:
        raise InputError(source.name, "[memory]", None, "missing: estimate from a profile with it")
    engine = source.name.rpartition("/")[2]
    return replace(
        source,
        name=name or f"{model.name}/{gpu.name}/{engine}",
        provenance=Provenance(
            kind="estimated",
            source=f"efficiencies of {source.name}, sizes of {model.name}, facts of {gpu.name}",
            command="lorapack profiles estimate",
            note="nobody measured this engine: believe it as far as the uncertainty says",
            uncertainty=UNCERTAINTY,
        ),
        engine=_engine(model, gpu, source),
        model=model,
        gpu=gpu,
        memory=_memory(source.memory, model, source.model),
        step_time=_step_time(model, gpu, source),
        adapter_loading=_adapter_loading(model, gpu, source),
        price=Price(usd_per_hour=gpu.usd_per_hour, power_watts=gpu.power_watts),
    )


def _engine(model: ModelShape, gpu: Gpu, source: Profile) -> EngineDefaults:
    large = gpu.memory_gib >= LARGE_GPU_GIB
    max_num_batched_tokens, max_num_seqs = LARGE_GPU_BATCH if large else SMALL_GPU_BATCH
    return replace(
        source.engine,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=model.max_position_embeddings,
        gpu_memory_utilization=UTILIZATION[source.rule_set],
    )


def _memory(memory: Memory, model: ModelShape, measured: ModelShape) -> Memory:
    layers = model.num_hidden_layers / measured.num_hidden_layers
    return replace(memory, cuda_graphs_gib=_rounded(memory.cuda_graphs_gib * layers))


def _step_time(model: ModelShape, gpu: Gpu, source: Profile) -> StepTime:
    scales, measured = _scales(model, gpu, source), source.step_time
    return replace(
        measured,
        model=model,
        weights_ms=_rounded(measured.weights_ms * scales.weights),
        token_ms=_rounded(measured.token_ms * scales.compute),
        context_token_ms=_rounded(measured.context_token_ms * scales.kv_read),
        mixed_context_token_ms=_rounded(measured.mixed_context_token_ms * scales.attention),
        attention_tflops=_rounded(measured.attention_tflops * scales.compute_rate),
        adapter_rank_ms=_rounded(measured.adapter_rank_ms * scales.lora_read),
        lora_token_ms=_rounded(measured.lora_token_ms * scales.lora_read),
        adapter_small_batch_ms=_rounded(measured.adapter_small_batch_ms * scales.copies),
        eager_ms=_rounded(measured.eager_ms * scales.layers),
        adapter_ms=_rounded(measured.adapter_ms * scales.tiles),
    )


def _adapter_loading(model: ModelShape, gpu: Gpu, source: Profile) -> AdapterLoading:
    scales, measured = _scales(model, gpu, source), source.adapter_loading
    return AdapterLoading(
        gpu_fixed_ms=_rounded(measured.gpu_fixed_ms * scales.copies),
        gpu_rank_ms=_rounded(measured.gpu_rank_ms * scales.host_read),
        gpu_partial_ms=_rounded(measured.gpu_partial_ms * scales.copies),
        disk_fixed_ms=_rounded(measured.disk_fixed_ms * scales.lora_values),
        disk_rank_ms=_rounded(measured.disk_rank_ms * scales.lora_values),
    )


def _scales(model: ModelShape, gpu: Gpu, source: Profile) -> _Scales:
    measured = source.model
    bandwidth = _bandwidth(gpu, source) / _bandwidth(source.gpu, source)
    rate = _known(gpu.bf16_tflops, gpu) / _known(source.gpu.bf16_tflops, source.gpu)
    lora = _lora_bytes(model) / _lora_bytes(measured)
    return _Scales(
        weights=_read_bytes(model) / _read_bytes(measured) / bandwidth,
        compute=model.linear_parameters / measured.linear_parameters / rate,
        compute_rate=rate,
        attention=_attention(model) / _attention(measured) / rate,
        kv_read=model.kv_bytes_per_token() / measured.kv_bytes_per_token() / bandwidth,
        lora_values=lora,
        lora_read=lora / bandwidth,
        layers=model.num_hidden_layers / measured.num_hidden_layers,
        tiles=_tiles(model) / _tiles(measured),
        copies=_lora_matrices(model) / _lora_matrices(measured),
        host_read=lora * _link(source.gpu) / _link(gpu),
    )


def _bandwidth(gpu: Gpu, source: Profile) -> float:
    """Bandwidth in GB/s; the measured GPU's from its own weights' time where no one states it."""
    if gpu.bandwidth_gb_per_s is not None:
        return gpu.bandwidth_gb_per_s
    if gpu.name != source.gpu.name:
        mend = f"its bandwidth is not known: estimate from a profile measured on {gpu.name}"
        raise InputError("--gpu", "bandwidth_gb_per_s", gpu.name, mend)
    reached = _read_bytes(source.model) / (source.step_time.weights_ms * 1e6)
    return reached / ASSUMED_BANDWIDTH_SHARE


def _known(tflops: float | None, gpu: Gpu) -> float:
    if tflops is None:
        raise InputError("--gpu", "bf16_tflops", gpu.name, "its bf16 rate is not known: add it")
    return tflops


def _link(gpu: Gpu) -> float:
    """Host link in GB/s; where no one states it, one PCIe 4 x16."""
    return gpu.host_link_gb_per_s or 32.0


def _read_bytes(model: ModelShape) -> float:
    """Bytes of weights that a step reads: linear layers and lm_head, not the whole embedding."""
    head = model.vocab_size * model.hidden_size * model.dtype_bytes
    return model.linear_parameters * model.linear_weight_bits / 8 + head


def _lora_bytes(model: ModelShape) -> int:
    return model.lora_parameters_per_rank * model.dtype_bytes


def _attention(model: ModelShape) -> int:
    """Values that the query heads of all layers combine with one context token."""
    return model.num_hidden_layers * model.query_size


def _tiles(model: ModelShape) -> int:
    return model.num_hidden_layers * model.lora_expand_blocks


def _lora_matrices(model: ModelShape) -> int:
    return 2 * model.num_hidden_layers * model.lora_slices


@dataclass(frozen=True)
class Batch:
    """A step to compare two profiles by.

    Attributes:
        max_loras: LoRA slots; 0: LoRA is off.
        max_lora_rank: Rank for which they are made.
        batched_tokens: Tokens in the step.
        scheduled: Requests in the step.
        distinct_adapters: Adapters in the step.
        context_tokens: KV tokens read.
    """

    max_loras: int
    max_lora_rank: int
    batched_tokens: int
    scheduled: int
    distinct_adapters: int
    context_tokens: int

    def ms(self, profile: Profile) -> float:
        """What the step costs under a profile."""
        tables = profile.step_time.tables(self.max_loras, self.max_lora_rank, self.batched_tokens)
        mixed = self.batched_tokens > self.scheduled
        context_ps = tables.mixed_context_token_ps if mixed else tables.context_token_ps
        picoseconds = (
            int(tables.base[-1])
            + int(tables.distinct_adapter[-1]) * self.distinct_adapters
            + tables.request_ps * self.scheduled
            + context_ps * self.context_tokens
        )
        return picoseconds * 1e-9


REFERENCE_BATCHES = (
    Batch(0, 0, 32, 32, 0, 11_000),
    Batch(0, 0, 1024, 512, 0, 180_000),
    Batch(16, 8, 1, 1, 1, 350),
    Batch(16, 8, 32, 32, 16, 11_000),
    Batch(64, 8, 128, 128, 64, 45_000),
    Batch(64, 16, 256, 250, 64, 90_000),
    Batch(128, 16, 900, 450, 128, 160_000),
    Batch(384, 8, 512, 400, 200, 140_000),
)
"""From one request to a full KV cache, LoRA off to 384 slots."""


def step_errors(estimated: Profile, measured: Profile) -> dict[str, float]:
    """Relative error of an estimated profile's step time on each of :data:`REFERENCE_BATCHES`."""
    return {
        f"{batch.max_loras} slots of rank {batch.max_lora_rank}, {batch.batched_tokens} tokens": (
            batch.ms(estimated) / batch.ms(measured) - 1
        )
        for batch in REFERENCE_BATCHES
    }


def term_errors(estimated: Profile, measured: Profile) -> dict[str, float | None]:
    """Relative error of each term of step time, loading and memory; none where it measured zero."""
    errors: dict[str, float | None] = {}
    for section in ("step_time", "adapter_loading", "memory"):
        guesses = write_section(getattr(estimated, section))
        for key, truth in write_section(getattr(measured, section)).items():
            guess = guesses[key]
            assert isinstance(truth, int | float)
            assert isinstance(guess, int | float)
            errors[f"{section}.{key}"] = guess / truth - 1 if truth else None
    return errors


def _rounded(value: float) -> float:
    """Four significant digits: an estimate has no more."""
    return float(f"{value:.4g}")
