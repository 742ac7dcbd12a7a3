"""`lorapack maxpack`: how many adapters one GPU holds, and with how many slots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorapack.cli.output import OUTPUT_FILE, Printer, Table, common_options, force_option
from lorapack.cli.pack_options import (
    engine_options,
    engine_overrides_of,
    jobs_option,
    service_level_of,
    slo_options,
)

if TYPE_CHECKING:
    from lorapack.twin.maxpack import Maxpack


@click.command(epilog="Example: lorapack maxpack --rate 0.4 --rank 16 --plot maxpack.png")
@click.option("--rate", "rate_rps", type=float, required=True, help="Requests/s of an adapter.")
@click.option("--rank", type=click.IntRange(1), required=True, help="LoRA rank of an adapter.")
@click.option("--profile", "profile_name", help="Profile name or .toml path.")
@slo_options
@click.option("--prompt-tokens", type=float, help="Mean prompt.  [default: the profile's]")
@click.option("--output-tokens", type=float, help="Mean output.  [default: the profile's]")
@click.option("--cv", type=float, default=1.0, show_default=True, help="Burstiness of the gaps.")
@click.option(
    "--seeds",
    "n_seeds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="A count must hold on so many seeds, --seed the first.",
)
@engine_options
@jobs_option
@click.option("--plot", type=OUTPUT_FILE, help="Draw the curve here (.png or .svg).")
@force_option
@common_options
def command(
    out: Printer,
    seed: int,
    plot: Path | None,
    force: bool,
    **options: Any,  # noqa: ANN401 - passed on by name
) -> None:
    """Find how many adapters one GPU holds, and with how many slots.

    All adapters are alike. The curve shows throughput rising with slots, then falling: slots take
    KV memory and make every step dearer.
    """
    import time

    from lorapack.cli.maxpack_plot import check_plot, draw_curve

    started = time.perf_counter()
    if plot is not None:
        check_plot(plot, force=force)
    found = _search(out, seed, options)
    if plot is not None:
        draw_curve(found, plot, force=force)
    written = "" if plot is None else f"; drawn in {plot}"
    out.result(
        {**found.to_dict(), "wall_s": time.perf_counter() - started},
        Table("", _COLUMNS, [_row(found, index) for index in range(len(found.curve))]),
        f"maxpack {found.maxpack} with {found.max_loras} slots, slo {found.slo}{written}",
    )


def _search(out: Printer, seed: int, options: dict[str, Any]) -> Maxpack:
    from lorapack.packer.pack import with_engine
    from lorapack.profile.profile import DEFAULT_PROFILE, Profile
    from lorapack.twin.maxpack import maxpack

    profile = Profile.load(options["profile_name"] or DEFAULT_PROFILE)
    profile = with_engine(profile, engine_overrides_of(options))
    done = 0

    def tell(made: int) -> None:
        nonlocal done
        advance(made - done)
        done = made

    with out.progress("searching") as advance:
        return maxpack(
            profile,
            rate_rps=options["rate_rps"],
            rank=options["rank"],
            slo=service_level_of(options),
            prompt_tokens=options["prompt_tokens"],
            output_tokens=options["output_tokens"],
            cv=options["cv"],
            seeds=range(seed, seed + options["n_seeds"]),
            jobs=options["jobs"],
            progress=tell,
        )


_COLUMNS = ["adapters", "max_loras", "throughput_tps", "served", "ttft_p99_ms", "starts", "holds"]


def _row(found: Maxpack, index: int) -> list[object]:
    point = found.curve[index]
    return [
        point.adapters,
        point.max_loras,
        point.throughput_tps if point.starts else None,
        point.served_fraction if point.starts else None,
        point.ttft_p99_ms,
        point.starts,
        point.holds,
    ]
