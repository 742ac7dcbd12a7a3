"""`lorapack memory`: where each GiB goes, whether the engine starts, and what would mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorapack.cli.output import Printer, Table, common_options
from lorapack.fleet.adapter import MAX_LORA_RANKS

if TYPE_CHECKING:
    from lorapack.profile.memory import MemoryPlan
    from lorapack.profile.profile import Profile

BAR_WIDTH = 40
"""Letters of the bar that stands for the whole card."""

PARTS = {
    "weights": "weights",
    "lora_slots": "LoRA slots",
    "fragmentation": "lost between tensors",
    "activations": "peak of a step",
    "other": "CUDA, libraries, tables",
    "kv_cache": "KV cache",
    "cuda_graphs": "CUDA graphs",
    "unused": "unused",
}
"""A part's key in ``parts_gib``, and what people read."""

POSITIVE = click.IntRange(min=1)


@click.command(
    "memory",
    epilog="Example: lorapack memory --max-loras 256 --max-lora-rank 16",
)
@click.option("--profile", "profile_name", metavar="P", help="A profile's name or file.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="A model's config.json, or its folder."
)
@click.option("--gpu", "gpu_name", metavar="GPU", help="With --model: the GPU, as in h100-80gb.")
@click.option("--max-loras", type=click.IntRange(min=0), required=True, help="LoRA slots; 0: off.")
@click.option("--max-lora-rank", type=POSITIVE, help="Rank of the slots.")
@click.option("--max-model-len", type=POSITIVE, help="Longest sequence, tokens.")
@click.option("--max-num-seqs", type=POSITIVE, help="Requests that may run at once.")
@click.option("--max-num-batched-tokens", type=POSITIVE, help="Tokens a step may hold.")
@click.option(
    "--gpu-memory-utilization",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the GPU's memory for the engine.",
)
@click.option("--block-size", type=POSITIVE, help="Tokens a KV block.")
@click.option(
    "--kv-cache-dtype", metavar="TYPE", help="Type of a KV element, as the engine's flag."
)
@click.option("--max-cpu-loras", type=POSITIVE, help="Adapters in host memory; else --max-loras.")
@click.option("--adapter-rank", type=POSITIVE, help="Their own rank; else --max-lora-rank.")
@common_options
def command(
    profile_name: str | None,
    model: Path | None,
    gpu_name: str | None,
    max_loras: int,
    max_lora_rank: int | None,
    max_cpu_loras: int | None,
    adapter_rank: int | None,
    kv_cache_dtype: str | None,
    out: Printer,
    seed: int,  # noqa: ARG001 - every command has one
    **engine: Any,  # noqa: ANN401 - the settings of the same names, checked by click
) -> None:
    """Say where each GiB goes and whether the engine starts.

    An engine that would refuse is an answer, not an error: `starts` is false, `refusal` says why,
    and `mends` what would start it, cheapest first.
    """
    if max_loras > 0 and max_lora_rank is None:
        raise click.UsageError("give --max-lora-rank: slots are made for one rank")
    rank = max_lora_rank or 0
    _check_rank(rank, max_loras)
    profile = _profile(profile_name, model, gpu_name)
    _check_kv_cache_dtype(kv_cache_dtype)
    plan = profile.memory_plan(
        max_loras,
        rank,
        kv_cache_dtype=kv_cache_dtype,
        **engine,
    )
    held = max_loras if max_cpu_loras is None else max_cpu_loras
    host_gib = plan.host_gib([adapter_rank or rank] * held)
    out.result(_data(profile, plan, host_gib), *_text(profile, plan, host_gib, held))
    if profile.provenance.kind == "estimated":
        out.warn("the profile is an estimate: KV capacity may be some per cent off")


def _check_rank(rank: int, max_loras: int) -> None:
    from lorapack.errors import InputError

    if max_loras > 0 and rank not in MAX_LORA_RANKS:
        up = next((known for known in MAX_LORA_RANKS if known >= rank), None)
        mend = f"round up to {up}" if up else f"the engine takes {MAX_LORA_RANKS[-1]} at most"
        raise InputError("--max-lora-rank", None, rank, mend)


def _check_kv_cache_dtype(kv_cache_dtype: str | None) -> None:
    from lorapack.errors import InputError, did_you_mean
    from lorapack.profile.model_shape import KV_CACHE_DTYPES

    if kv_cache_dtype is not None and kv_cache_dtype not in KV_CACHE_DTYPES:
        mend = did_you_mean(kv_cache_dtype, KV_CACHE_DTYPES)
        raise InputError("--kv-cache-dtype", None, kv_cache_dtype, mend)


def _profile(name: str | None, model: Path | None, gpu_name: str | None) -> Profile:
    from lorapack.profile.estimate import estimate
    from lorapack.profile.gpu import Gpu
    from lorapack.profile.model_shape import ModelShape
    from lorapack.profile.profile import DEFAULT_PROFILE, Profile

    if (model is None) != (gpu_name is None):
        raise click.UsageError("--model and --gpu go together")
    source = Profile.load(name or DEFAULT_PROFILE)
    if model is None or gpu_name is None:
        return source
    return estimate(ModelShape.from_config(model), Gpu.named(gpu_name), source)


def _data(profile: Profile, plan: MemoryPlan, host_gib: float) -> dict[str, object]:
    case = plan.case
    return {
        "profile": profile.name,
        "starts": plan.starts,
        "refusal": plan.refusal,
        "kv_cache_tokens": plan.kv_cache_tokens,
        "num_blocks": plan.num_blocks,
        "gpu_memory_gib": case.gpu_memory_gib,
        "parts_gib": plan.parts_gib,
        "host_gib": host_gib,
        "mends": [
            {
                "setting": mend.setting,
                "value": mend.value,
                "flag": mend.flag,
                "kv_cache_tokens": mend.kv_cache_tokens,
                "words": mend.words,
            }
            for mend in plan.mends
        ],
        "engine": {
            "max_loras": case.max_loras,
            "max_lora_rank": case.max_lora_rank,
            "max_model_len": case.max_model_len,
            "max_num_seqs": case.max_num_seqs,
            "max_num_batched_tokens": case.max_num_batched_tokens,
            "gpu_memory_utilization": case.gpu_memory_utilization,
            "block_size": case.block_size,
            "kv_cache_dtype": case.kv_cache_dtype,
        },
    }


def _text(profile: Profile, plan: MemoryPlan, host_gib: float, held: int) -> list[str | Table]:
    case = plan.case
    rows = [
        (PARTS[part], round(gib, 2), round(100 * gib / case.gpu_memory_gib, 1), _bar(gib, plan))
        for part, gib in plan.parts_gib.items()
    ]
    title = f"{profile.name}: {case.max_loras} slots of rank {case.max_lora_rank}"
    text: list[str | Table] = [
        Table(title, ("part", "GiB", "%", f"of {case.gpu_memory_gib:g} GiB"), rows),
        _verdict(plan),
        f"host memory for {held} adapters: {host_gib:.2f} GiB",
    ]
    if plan.mends:
        mends = [(mend.flag, mend.kv_cache_tokens, mend.words) for mend in plan.mends]
        text.append(Table("each of these starts it", ("setting", "KV tokens", "cost"), mends))
    return text


def _bar(gib: float, plan: MemoryPlan) -> str:
    return "█" * round(BAR_WIDTH * min(1.0, gib / plan.case.gpu_memory_gib))


def _verdict(plan: MemoryPlan) -> str:
    case, tokens = plan.case, plan.kv_cache_tokens
    if plan.starts:
        times = tokens / case.max_model_len
        return f"starts: {tokens:,} KV tokens, {times:.1f} sequences of {case.max_model_len:,}"
    reasons = {
        "cuda_out_of_memory": "CUDA runs out of memory: weights, slots and a step exceed the card",
        "no_cache_blocks": "nothing is left for a single block of KV cache",
        "max_model_len": (
            f"one sequence of {case.max_model_len:,} tokens does not fit in the {tokens:,} left"
        ),
    }
    return f"refuses to start ({plan.refusal}): {reasons[str(plan.refusal)]}"
