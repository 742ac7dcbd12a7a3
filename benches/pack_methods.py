"""What other ways of packing take, on fleets nobody has seen.

    python benches/pack_methods.py [--slo interactive] [--methods lpt-load ...] [--sizes 1000 ...]
                                   [--draws 1] [--slots own ours] [--seed S]

Each fleet is packed by every method, `greedy` first, verified on the same seeds, and the GPUs of
each are set against greedy's. `own` are a method's own slots (16 for those that never look), `ours`
those that greedy would choose. `papers` is the service level of the papers, `greedy-paper` their
method.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from drawn_fleets import KINDS, PROFILES, large_fleet

from lorapack import Adapter, Profile
from lorapack.packer.compare import compare
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.settings import Settings
from lorapack.twin.service_level import SERVICE_LEVELS


@dataclass(frozen=True)
class Row:
    """One method on one fleet."""

    profile: str
    kind: str
    n_adapters: int
    method: str
    slots: str
    n_gpus: int | None
    greedy: int
    verified: bool
    wall_s: float


def main() -> None:
    """Prints a row a method and fleet, then what each takes more than greedy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slo", default="interactive", choices=sorted(SERVICE_LEVELS))
    parser.add_argument("--methods", nargs="+", default=["greedy-paper"])
    parser.add_argument("--slots", nargs="+", default=["own", "ours"], choices=["own", "ours"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000])
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--profiles", nargs="+", default=PROFILES)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.profiles:
        for kind, fleet in drawn(arguments):
            for row in compared(Profile.load(name), kind, fleet, arguments):
                rows.append(row)
                if not arguments.json:
                    print(line(row), flush=True)
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "rows": [asdict(row) for row in rows]}))
        return
    print(f"seed {arguments.seed}, slo {arguments.slo}")
    for method, slots in dict.fromkeys((row.method, row.slots) for row in rows):
        mine = [row for row in rows if (row.method, row.slots) == (method, slots)]
        print(summary(method, slots, mine))


def drawn(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Adapter]]]:
    """The fleets, by kind."""
    for n in arguments.sizes:
        for seed in range(arguments.seed, arguments.seed + arguments.draws):
            for kind in arguments.kinds:
                yield kind, large_fleet(kind, n, seed)


def compared(
    profile: Profile, kind: str, fleet: list[Adapter], arguments: argparse.Namespace
) -> Iterator[Row]:
    """A row a method and choice of slots; greedy's own number is in each."""
    problem = Problem.build(fleet, [kind_of(profile)], SERVICE_LEVELS[arguments.slo])
    (best,) = compare(problem, Settings(), ["greedy"])
    assert best.n_gpus is not None, "greedy opens as many GPUs as it takes"
    others = compare(problem, Settings(), arguments.methods)
    for found in [best, *(found for found in others if found.slots in arguments.slots)]:
        yield Row(
            profile.name.split("/")[0],
            kind,
            len(fleet),
            found.method,
            found.slots,
            found.n_gpus,
            best.n_gpus,
            found.verified,
            found.wall_s,
        )


def line(row: Row) -> str:
    """A row as text."""
    found = "no placement" if row.n_gpus is None else f"{row.n_gpus:4d} GPUs"
    unproven = "" if row.verified or row.n_gpus is None else ", NOT verified"
    return (
        f"{row.profile:14s} {row.kind:10s} {row.n_adapters:6d} {row.method:16s} {row.slots:5s}"
        f"{found} (greedy {row.greedy}) {row.wall_s:7.1f} s{unproven}"
    )


def summary(method: str, slots: str, rows: list[Row]) -> str:
    """What greedy takes less, over the fleets for which the method found a placement."""
    placed = [(row.n_gpus, row.greedy) for row in rows if row.n_gpus is not None]
    if not placed:
        return f"{method}, {slots} slots: no placement on any of {len(rows)} fleets"
    taken, greedy = sum(n for n, _ in placed), sum(own for _, own in placed)
    return (
        f"{method}, {slots} slots: {taken} GPUs on {len(placed)} of {len(rows)} fleets, greedy "
        f"{greedy} ({100 * (1 - greedy / taken):.1f} % fewer), never more on "
        f"{sum(own <= n for n, own in placed)}; "
        f"{sum(not row.verified for row in rows)} not verified"
    )


if __name__ == "__main__":
    main()
