"""`lorapack pack`: a fleet in, a verified plan out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorapack.cli.output import (
    INPUT_FILE,
    OUTPUT_FILE,
    Printer,
    Table,
    common_options,
    force_option,
)
from lorapack.cli.pack_options import (
    engine_options,
    engine_overrides_of,
    jobs_option,
    load_profiles,
    profile_options,
    service_level_of,
    slo_options,
)

if TYPE_CHECKING:
    from lorapack.packer.plan import Plan, PlannedGpu


@click.command(epilog="Example: lorapack pack examples/fleet.csv -o plan.json")
@click.argument("fleet_path", metavar="FLEET", type=INPUT_FILE)
@profile_options
@click.option("--gpus", type=click.IntRange(1), help="GPUs to use at most.")
@slo_options
@click.option(
    "--rate-headroom",
    type=float,
    default=0.1,
    show_default=True,
    help="Share by which rates are raised before planning.",
)
@click.option(
    "--objective",
    type=click.Choice(["gpus", "latency", "cost"]),
    default="gpus",
    show_default=True,
    help="Fewest GPUs, lowest latency on --gpus of them, or lowest price of a pool.",
)
@click.option("--method", default="greedy", show_default=True, help="Who places.")
@click.option(
    "--slots",
    type=click.Choice(["own", "ours"]),
    default="own",
    show_default=True,
    help="Slots of a baseline: its own, or chosen as greedy chooses.",
)
@click.option("--strict", is_flag=True, help="Refuse clients whose own clumps break the level.")
@click.option(
    "--seeds",
    "n_seeds",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Fresh seeds on which every GPU is verified.",
)
@engine_options
@jobs_option
@click.option("-o", "--output", type=OUTPUT_FILE, help="Write plan.json here.")
@force_option
@common_options
def command(
    out: Printer,
    seed: int,
    fleet_path: Path,
    output: Path | None,
    force: bool,
    **options: Any,  # noqa: ANN401 - passed on by name
) -> None:
    """Place a fleet on the fewest GPUs.

    Chooses LoRA slots per GPU, re-simulates every GPU for an hour on fresh seeds, and repairs what
    fails: a plan that says `verified` keeps the service level on all of them.
    """
    import time

    from lorapack.atomic_file import refuse_to_overwrite

    started = time.perf_counter()
    if output is not None:
        refuse_to_overwrite(output, force=force)
    plan = _pack(out, seed, fleet_path, options)
    if output is not None:
        plan.write(output, force=force)
    wall_s = time.perf_counter() - started
    _report(out, plan, output, wall_s)


def _pack(out: Printer, seed: int, fleet_path: Path, options: dict[str, Any]) -> Plan:
    from lorapack.fleet.fleet import Fleet
    from lorapack.packer.pack import Settings, kind_of, solve, with_engine
    from lorapack.packer.problem import Problem

    fleet = Fleet.read(fleet_path)
    engine = engine_overrides_of(options)
    problem = Problem.build(
        fleet,
        [kind_of(with_engine(p, engine)) for p in load_profiles(options["profiles"])],
        service_level_of(options),
        rate_headroom=options["rate_headroom"],
        objective=options["objective"],
        n_gpus=options["gpus"],
        strict=options["strict"],
        seed=seed,
    )
    with out.progress("packing", total=len(fleet)) as advance:
        settings = Settings(
            method=options["method"],
            slots=options["slots"],
            n_seeds=options["n_seeds"],
            jobs=options["jobs"],
            progress=lambda _label, done: advance(done),
        )
        return solve(problem, settings)


def _report(out: Printer, plan: Plan, output: Path | None, wall_s: float) -> None:
    if not plan.verified:
        out.warn("not verified: see the violations of the GPUs marked `no`")
    if plan.exempt:
        names = ", ".join(f"{row['adapter']} ({_seconds(row)})" for row in plan.exempt[:8])
        more = f" and {len(plan.exempt) - 8} more" if len(plan.exempt) > 8 else ""
        out.warn(
            f"{len(plan.exempt)} clients are exempt from slo {plan.slo}, held to batch: their own "
            f"clumps break it alone on a GPU (own p99 TTFT): {names}{more}"
        )
    money = "" if plan.cost_per_hour is None else f", {plan.cost_per_hour:.2f} USD/h"
    energy = "" if plan.kwh_per_hour is None else f", {plan.kwh_per_hour:.2f} kWh/h"
    written = "" if output is None else f"\nwritten to {output}"
    out.result(
        {**plan.to_dict(), "wall_s": wall_s},
        Table("", _COLUMNS, [_row(gpu) for gpu in plan.gpus]),
        f"{plan.n_gpus} GPUs (lower bound {plan.lower_bound:.2f}), slo {plan.slo}, "
        f"{'verified' if plan.verified else 'NOT verified'}{money}{energy}, "
        f"{wall_s:.1f} s{written}",
    )


def _seconds(entry: Mapping[str, Any]) -> str:
    p99_ms = entry["ttft_p99_ms"]
    return "unserved" if p99_ms is None or not math.isfinite(p99_ms) else f"{p99_ms / 1e3:.1f} s"


_COLUMNS = [
    "gpu",
    "profile",
    "adapters",
    "rate_rps",
    "max_loras",
    "max_lora_rank",
    "served",
    "ttft_p99_ms",
    "margin",
    "holds",
]


def _row(gpu: PlannedGpu) -> list[object]:
    return [
        gpu.gpu,
        gpu.profile,
        len(gpu.adapters),
        sum(row.rate_rps for row in gpu.adapters),
        gpu.engine["max_loras"],
        gpu.engine["max_lora_rank"],
        gpu.twin["served_fraction"],
        gpu.twin["ttft_p99_ms"],
        gpu.margin,
        not gpu.twin["violations"],
    ]
