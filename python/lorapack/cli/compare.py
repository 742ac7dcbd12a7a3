"""`lorapack compare`: every packing method side by side, each checked by the twin."""

from __future__ import annotations

from dataclasses import asdict
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
    from lorapack.packer.compare import Compared


@click.command(epilog="Example: lorapack compare examples/fleet.csv --plot compare.png")
@click.argument("fleet_path", metavar="FLEET", type=INPUT_FILE)
@profile_options
@click.option("--gpus", type=click.IntRange(1), help="GPUs for all; else as few as each holds on.")
@click.option("--method", "methods", multiple=True, help="Only this one; again for more.")
@slo_options
@rate_headroom_option
@seeds_option
@engine_options
@jobs_option
@click.option("--plot", type=OUTPUT_FILE, help="Draw GPUs by method here (.png or .svg).")
@force_option
@common_options
def command(
    out: Printer,
    seed: int,
    fleet_path: Path,
    plot: Path | None,
    force: bool,
    **options: Any,  # noqa: ANN401 - passed on by name
) -> None:
    """Put every packing method side by side.

    Baselines run twice: with their own slots, and with slots chosen per GPU as `greedy` chooses
    them, since the slots, more than the places, make the difference.
    """
    from lorapack.cli.compare_plot import draw_comparison
    from lorapack.cli.maxpack_plot import check_plot

    if plot is not None:
        check_plot(plot, force=force)
    rows = _compare(out, seed, fleet_path, options)
    if plot is not None:
        draw_comparison(rows, plot, force=force)
    out.result(
        {"methods": [asdict(row) for row in rows]},
        Table("", _COLUMNS, [[getattr(row, name) for name in _COLUMNS] for row in rows]),
    )


_COLUMNS = [
    "method",
    "slots",
    "n_gpus",
    "verified",
    "failing_gpus",
    "starved_gpus",
    "starved_adapters",
    "served_fraction",
    "ttft_p99_ms",
    "cost_per_hour",
    "kwh_per_hour",
    "wall_s",
]


def _compare(out: Printer, seed: int, fleet_path: Path, options: dict[str, Any]) -> list[Compared]:
    from lorapack.fleet.fleet import Fleet
    from lorapack.packer.compare import compare
    from lorapack.packer.methods import METHODS, check_method
    from lorapack.packer.pack import with_engine
    from lorapack.packer.pool import kind_of
    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings

    for method in options["methods"]:
        check_method(method)
    engine = engine_overrides_of(options)
    problem = Problem.build(
        Fleet.read(fleet_path),
        [kind_of(with_engine(p, engine)) for p in load_profiles(options["profiles"])],
        service_level_of(options),
        rate_headroom=options["rate_headroom"],
        n_gpus=options["gpus"],
        seed=seed,
    )
    settings = Settings(n_seeds=options["n_seeds"], jobs=options["jobs"])
    methods = options["methods"] or None
    with out.progress("comparing", total=2 * len(methods or METHODS)) as advance:
        return compare(problem, settings, methods, lambda _: advance(1))
