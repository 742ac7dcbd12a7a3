"""`lorapack pack`: a fleet in, a verified plan out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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
    rate_headroom_option,
    seeds_option,
    service_level_of,
    slo_options,
)

if TYPE_CHECKING:
    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.plan import Plan, PlannedGpu
    from lorapack.packer.problem import Problem


@click.command(epilog="Example: lorapack pack examples/fleet.csv -o plan.json")
@click.argument("fleet_path", metavar="FLEET", type=INPUT_FILE)
@profile_options
@click.option("--gpus", type=click.IntRange(1), help="GPUs to use at most.")
@click.option(
    "--spare-gpus",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="GPUs that may be lost without the rest starving.",
)
@click.option("--pool", "pool_path", type=INPUT_FILE, help="GPUs to be had: [[gpu]] tables.")
@click.option("--host-memory-gib", type=float, help="Host memory a GPU has for adapters.")
@slo_options
@rate_headroom_option
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
@seeds_option
@click.option(
    "--no-verify",
    is_flag=True,
    help="Predictions only: milliseconds in place of seconds, and no proof.",
)
@click.option(
    "--predictor",
    "predictor_paths",
    type=INPUT_FILE,
    multiple=True,
    help="With --no-verify: a model of `lorapack train`, for a profile that comes with none.",
)
@click.option(
    "--rates", "rates_path", type=INPUT_FILE, help="Rates by the hour (Parquet): pack for the peak."
)
@click.option("--from", "old_path", type=INPUT_FILE, help="Carry this plan over, with few moves.")
@click.option("--max-moves", type=click.IntRange(0), help="With --from: adapters moved at most.")
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
    fails: a plan that says `verified` keeps the service level on all of them. With --no-verify
    nothing is simulated: quick, and a GPU of such a plan may break the level.
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
    from lorapack.packer.hourly import HourlyRates
    from lorapack.packer.plan import Plan
    from lorapack.packer.settings import Settings
    from lorapack.packer.solve import solve, solve_from, solve_hourly
    from lorapack.predictor.predictor import Predictor

    rates_path, old_path = options["rates_path"], options["old_path"]
    if rates_path is not None and old_path is not None:
        raise click.UsageError("give --rates or --from, not both")
    fleet = Fleet.read(fleet_path, need_rates=rates_path is None)
    build = _problem_maker(seed, options)
    with out.progress("packing", total=len(fleet)) as advance:
        settings = Settings(
            method=options["method"],
            slots=options["slots"],
            n_seeds=options["n_seeds"],
            jobs=options["jobs"],
            verify=not options["no_verify"],
            predictors=tuple(Predictor.load(path) for path in options["predictor_paths"]),
            progress=lambda _label, done: advance(done),
        )
        if rates_path is not None:
            return solve_hourly(build, fleet, HourlyRates.read(rates_path, fleet), settings)
        if old_path is not None:
            return solve_from(build(fleet), settings, Plan.read(old_path), options["max_moves"])
        return solve(build(fleet), settings)


def _problem_maker(seed: int, options: dict[str, Any]) -> Callable[[Iterable[Adapter]], Problem]:
    """What a problem is made of, but for the fleet."""
    from lorapack.packer.pack import with_engine
    from lorapack.packer.pool import kind_of, read_pool
    from lorapack.packer.problem import Problem

    engine = engine_overrides_of(options)
    if options["pool_path"] is not None:
        if options["profiles"]:
            raise click.UsageError("give --pool or --profile, not both")
        pool = read_pool(options["pool_path"])
    else:
        pool = [kind_of(profile) for profile in load_profiles(options["profiles"])]
    pool = [replace(kind, profile=with_engine(kind.profile, engine)) for kind in pool]
    slo = service_level_of(options)

    def build(fleet: Iterable[Adapter]) -> Problem:
        return Problem.build(
            fleet,
            pool,
            slo,
            rate_headroom=options["rate_headroom"],
            objective=options["objective"],
            n_gpus=options["gpus"],
            spare_gpus=options["spare_gpus"],
            host_memory_gib=options["host_memory_gib"],
            strict=options["strict"],
            seed=seed,
        )

    return build


def _report(out: Printer, plan: Plan, output: Path | None, wall_s: float) -> None:
    from lorapack.packer.placement import counted

    if not plan.simulated:
        _warn_of_predictions(out, plan)
    elif not plan.verified:
        out.warn("not verified: see the violations of the GPUs marked `no`")
    if plan.exempt:
        named = _first([f"{row['adapter']} ({_own_wait(plan, row)})" for row in plan.exempt])
        out.warn(
            f"{len(plan.exempt)} clients are exempt from slo {plan.slo}, held to batch: their own "
            f"clumps break it alone on a GPU (own p99 TTFT): {named}"
        )
    money = "" if plan.cost_per_hour is None else f", {plan.cost_per_hour:.2f} USD/h"
    energy = "" if plan.kwh_per_hour is None else f", {plan.kwh_per_hour:.2f} kWh/h"
    moved = plan.notes.get("replan")
    if moved is not None:
        out.note(
            f"{moved['moves']} moves from {counted(moved['from_n_gpus'])}; with any number of "
            f"moves {counted(moved['n_gpus_with_any_moves'])} would do"
        )
    hours = plan.notes.get("rates")
    if hours is not None:
        out.note(f"hour {hours['binding_hour']} binds, of {hours['hours']}")
    written = "" if output is None else f"\nwritten to {output}"
    out.result(
        {**plan.to_dict(), "wall_s": wall_s},
        Table("", _COLUMNS, [_row(gpu) for gpu in plan.gpus]),
        f"{counted(plan.n_gpus)} (lower bound {_bound(plan)}), slo {plan.slo}, "
        f"{'verified' if plan.verified else 'NOT verified'}{money}{energy}, "
        f"{wall_s:.1f} s{written}",
    )


def _warn_of_predictions(out: Printer, plan: Plan) -> None:
    out.warn("predicted, not verified: no GPU of this plan was simulated")
    for flag, why in (
        ("out_of_range", "lie outside what the model was trained on"),
        ("wide_interval", "have a wide interval of p99 TTFT"),
    ):
        names = plan.notes[flag]
        if names:
            out.warn(f"predictions that {why}: {_first(names)}")


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _own_wait(plan: Plan, entry: Mapping[str, Any]) -> str:
    if not plan.simulated:
        return "not simulated"
    p99_ms = entry["ttft_p99_ms"]
    return "unserved" if p99_ms is None or not math.isfinite(p99_ms) else f"{p99_ms / 1e3:.1f} s"


def _bound(plan: Plan) -> str:
    if "estimate" not in plan.bound:
        return f"{plan.lower_bound:.2f}"
    return f"{plan.lower_bound:.2f} estimated, {plan.bound['true']:.2f} true"


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
    found = gpu.twin if gpu.simulated else gpu.predicted
    return [
        gpu.gpu,
        gpu.profile,
        len(gpu.adapters),
        sum(row.rate_rps for row in gpu.adapters),
        gpu.engine["max_loras"],
        gpu.engine["max_lora_rank"],
        found["served_fraction"],
        found["ttft_p99_ms"],
        gpu.margin if gpu.simulated else None,
        not gpu.twin["violations"] if gpu.simulated else "predicted",
    ]
