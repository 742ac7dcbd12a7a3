"""The options that `pack`, `compare` and `maxpack` share: pool, service level, engine settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lorapack.profile.profile import Profile
    from lorapack.twin.service_level import ServiceLevel

F = TypeVar("F", bound=Callable[..., Any])

ENGINE_SETTINGS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
)
"""Engine settings that may be given in place of the profile's."""


def profile_options(function: F) -> F:
    """`--profile`, which may be given again to make a pool."""
    return click.option(
        "--profile",
        "profiles",
        multiple=True,
        help="Profile name or .toml path; again for a pool of several kinds.  "
        "[default: llama-3.1-8b/h100-64gb/vllm-0.8.5]",
    )(function)


def slo_options(function: F) -> F:
    """`--slo` and the parts that override it."""
    options = [
        click.option(
            "--slo",
            "slo_name",
            default="interactive",
            show_default=True,
            help="Service level: interactive, batch or papers.",
        ),
        click.option("--min-served", type=float, help="Least served fraction of a GPU, 0..1."),
        click.option("--ttft-p99-ms", type=float, help="Largest p99 time to first token."),
        click.option("--tpot-ms", type=float, help="Largest mean time per output token."),
        click.option(
            "--adapter-min-served", type=float, help="Least served fraction of an adapter, 0..1."
        ),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


def rate_headroom_option(function: F) -> F:
    """`--rate-headroom`: how far rates are believed."""
    return click.option(
        "--rate-headroom",
        type=float,
        default=0.1,
        show_default=True,
        help="Share by which rates are raised before planning.",
    )(function)


def seeds_option(function: F) -> F:
    """`--seeds`: how many fresh ones a plan is verified on."""
    return click.option(
        "--seeds",
        "n_seeds",
        type=click.IntRange(1, 1000),
        default=3,
        show_default=True,
        help="Fresh seeds on which every GPU is verified.",
    )(function)


def engine_options(function: F) -> F:
    """Engine settings, under the engine's own names."""
    options = [
        click.option("--max-model-len", type=int, help="Longest sequence, tokens."),
        click.option("--max-num-seqs", type=int, help="Requests that may run at once."),
        click.option("--max-num-batched-tokens", type=int, help="Tokens a step may hold."),
        click.option(
            "--gpu-memory-utilization", type=float, help="Share of memory for the engine, 0..1."
        ),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


def jobs_option(function: F) -> F:
    """`--jobs`: threads; no answer depends on it."""
    return click.option("--jobs", type=click.IntRange(1), help="Threads.  [default: all cores]")(
        function
    )


def load_profiles(names: tuple[str, ...]) -> list[Profile]:
    """The profiles named, or the default one."""
    from lorapack.profile.profile import DEFAULT_PROFILE, Profile

    return [Profile.load(name) for name in names or (DEFAULT_PROFILE,)]


def service_level_of(options: dict[str, Any]) -> ServiceLevel:
    """Takes the service level's options out of a command's and makes the level of them."""
    from lorapack.twin.service_level import service_level

    level = service_level(options.pop("slo_name"))
    parts = ("min_served", "ttft_p99_ms", "tpot_ms", "adapter_min_served")
    return level.with_parts(**{part: options.pop(part) for part in parts})


def engine_overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the engine settings that were given out of a command's options."""
    given = {name: options.pop(name) for name in ENGINE_SETTINGS}
    return {name: value for name, value in given.items() if value is not None}
