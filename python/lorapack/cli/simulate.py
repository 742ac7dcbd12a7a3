"""``lorapack simulate``: replay one GPU serving one fleet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lorapack.cli.duration import duration, scrape_interval_option
from lorapack.cli.output import (
    INPUT_FILE,
    OUTPUT_FILE,
    Printer,
    Table,
    common_options,
    force_option,
)

if TYPE_CHECKING:
    import polars as pl

    from lorapack.twin.result import Result, Spread
    from lorapack.twin.scenario import Scenario

F = TypeVar("F", bound=Callable[..., Any])

SHOWN_ADAPTERS = 20
"""Rows of the adapters' table for people; ``--json`` has them all."""

QUIET_S = 2.0
"""A run shorter than this shows no progress."""


def engine_options(function: F) -> F:
    """The engine's settings as flags under the engine's names; unset ones arrive as ``None``."""
    counts = {
        "max-loras": "LoRA slots; 0: LoRA off.",
        "max-lora-rank": "Rank the slots are made for.",
        "max-cpu-loras": "Adapters in the CPU cache.",
        "kv-cache-tokens": "KV cache, in place of the memory rule.",
        "max-model-len": "Longest sequence, tokens.",
        "max-num-seqs": "Requests that may run at once.",
        "max-num-batched-tokens": "Tokens a step may hold.",
        "block-size": "Tokens a KV block.",
    }
    options = [
        click.option(f"--{name}", type=click.IntRange(min=0), metavar="N", help=text)
        for name, text in counts.items()
    ]
    options += [
        click.option("--gpu-memory-utilization", type=float, help="Share of memory, 0 to 1."),
        click.option("--rule-set", help="Scheduling rules: vllm-0.8.5 or vllm-0.33."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    epilog="Example: lorapack simulate examples/fleet.csv --max-loras 64 --duration 10m --json"
)
@click.argument("path", metavar="FLEET|SCENARIO.toml", type=INPUT_FILE)
@click.option("--profile", "profile_name", help="Name or path of the engine profile.")
@engine_options
@click.option(
    "--duration", "duration_s", type=duration, metavar="TIME", help="End of the run, such as 1h."
)
@click.option(
    "--warmup", "warmup_s", type=duration, metavar="TIME", help="Nothing is counted before it."
)
@click.option(
    "--max-in-flight", type=click.IntRange(1), metavar="N", help="Arrivals beyond are dropped."
)
@click.option("--warm", is_flag=True, default=None, help="Start with every adapter loaded.")
@scrape_interval_option
@click.option("--trace", "trace_path", type=INPUT_FILE, help="Replay these requests.")
@click.option("--requests-out", type=OUTPUT_FILE, help="Keep every request, as Parquet.")
@click.option("--steps-out", type=OUTPUT_FILE, help="Keep every step, as Parquet.")
@force_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    path: Path,
    profile_name: str | None,
    trace_path: Path | None,
    requests_out: Path | None,
    steps_out: Path | None,
    force: bool,
    out: Printer,
    seed: int,
    **settings: object,
) -> None:
    """Replay one GPU serving one fleet.

    Reads a fleet (CSV, Parquet, JSON, TOML) or a SCENARIO.toml; a flag overrides the file, and what
    neither says is the profile's. It starts cold: first uses of adapters are paid.
    """
    from lorapack.atomic_file import refuse_to_overwrite
    from lorapack.twin.run import run

    outputs = [file for file in (requests_out, steps_out) if file is not None]
    for file in outputs:
        refuse_to_overwrite(file, force=force)
    if ctx.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT:
        settings["seed"] = seed
    settings["records"] = True if outputs else None
    scenario = _scenario(path, profile_name, trace_path, settings)
    with _progress_when_long(out):
        result = run(scenario)
    _write(result.requests, requests_out, force=force)
    _write(result.steps, steps_out, force=force)
    _warn(result, out)
    out.result(result.to_dict(), *_text(result))


def _scenario(
    path: Path,
    profile_name: str | None,
    trace_path: Path | None,
    settings: dict[str, Any],
) -> Scenario:
    from lorapack.profile.profile import Profile
    from lorapack.trace.trace import Trace
    from lorapack.twin.read import read_fleet_or_scenario

    if profile_name is not None:
        settings["profile"] = Profile.load(profile_name)
    if trace_path is not None:
        settings["trace"] = Trace.read(trace_path)
    return read_fleet_or_scenario(path, settings)


@contextmanager
def _progress_when_long(out: Printer) -> Iterator[None]:
    """A bar on stderr from the moment that the block has taken long."""
    with ExitStack() as shown:
        timer = threading.Timer(QUIET_S, lambda: shown.enter_context(out.progress("simulating")))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _write(frame: pl.DataFrame | None, file: Path | None, *, force: bool) -> None:
    from lorapack.atomic_file import atomic_file

    if frame is not None and file is not None:
        with atomic_file(file, force=force) as temporary:
            frame.write_parquet(temporary)


def _warn(result: Result, out: Printer) -> None:
    if result.starved:
        out.warn(f"starved: {result.served_fraction:.1%} of the offered tokens were served")
    if result.dropped:
        out.warn(f"{result.dropped} requests were dropped: max_in_flight was reached")


def _text(result: Result) -> list[str | Table]:
    rows: list[tuple[str, object]] = [
        ("served_fraction", result.served_fraction),
        ("throughput_tps", result.throughput_tps),
        ("offered_tps", result.offered_tps),
        ("requests offered", result.offered),
        ("requests completed", result.completed),
        ("ttft_ms mean / p50 / p90 / p99", _spread(result.ttft_ms)),
        ("tpot_ms mean / p50 / p90 / p99", _spread(result.tpot_ms)),
        ("itl_ms mean / p50 / p90 / p99", _spread(result.itl_ms)),
        ("preemptions", result.preemptions),
        ("adapter_loads", result.adapter_loads),
        ("load_s", result.load_s),
        ("mean_running", result.mean_running),
        ("max_running", result.max_running),
        ("kv_usage mean", result.kv_usage.mean),
        ("kv_usage max", result.kv_usage.max),
        ("starved", result.starved),
    ]
    engine, n_adapters = result.engine, len(result.scenario.fleet)
    head = (
        f"{result.scenario.profile.name}: {n_adapters} adapters, {engine.max_loras} slots of rank "
        f"{engine.max_lora_rank}, {engine.kv_cache_tokens:,} KV tokens; "
        f"{result.simulated_s:,.0f} s in {result.wall_s:.2f} s"
    )
    return [Table(head, ("", "value"), rows), _adapters(result)]


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.1f} / {spread.p50:.1f} / {spread.p90:.1f} / {spread.p99:.1f}"


def _adapters(result: Result) -> Table:
    """The adapters that fare worst."""
    columns = ("adapter", "rank", "offered", "completed", "served_fraction", "ttft_mean_ms")
    frame = result.per_adapter.sort("served_fraction", nulls_last=True, maintain_order=True)
    title = "" if frame.height <= SHOWN_ADAPTERS else f"the {SHOWN_ADAPTERS} served worst"
    return Table(title, columns, frame.select(columns).head(SHOWN_ADAPTERS).rows())
