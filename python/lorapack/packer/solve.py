"""From a problem to a proven plan: anew, from a plan that runs, or for rates by the hour."""

from __future__ import annotations

import gc
import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorapack.errors import Infeasible
from lorapack.packer.balance import ROUGHLY
from lorapack.packer.even_out import Evened, EvenOut
from lorapack.packer.hourly import at_least, breaking_hours
from lorapack.packer.local_search import close_gpus
from lorapack.packer.margins import filled
from lorapack.packer.methods import can_take_more, check_method, is_balanced, is_steady
from lorapack.packer.placement import by_kinds, counted, whole
from lorapack.packer.placing import Placer, judges_of, place
from lorapack.packer.predictions_only import write_predicted
from lorapack.packer.replan import replan
from lorapack.packer.spare import judge_after_loss, losses_that_starve, with_room
from lorapack.packer.verify import Judges, Proof, fragile, repair, starves, verify
from lorapack.packer.writing import write_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.packer.hourly import HourlyRates
    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.plan import Plan
    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings

HOURLY_ROUNDS = 5
"""Times a plan is packed anew because a GPU would not hold in another hour."""

HIGHER_MARGINS = (0.045, 0.06, 0.08)
"""Margins tried in turn where the first proves too little."""

MENDABLE_SHARE = 0.15
"""Share of fragile GPUs that are mended one by one at once."""

SPARE_TRIES = 4
"""GPUs added, one by one, until the loss of the spare ones starves nobody."""

MORE_TRIES = 6
"""Times that more GPUs are tried where fewer fail verification."""

MORE_SHARE = 0.02
"""Share of the GPUs that are added each time, one at least."""


def solve(problem: Problem, settings: Settings) -> Plan:
    """Packs, verifies, and writes down what came of it.

    Raises:
        Infeasible: No plan keeps the level within the limits.
    """
    check_method(settings.method)
    with nullcontext() if settings.verify else _collecting_later():
        steer, judges = judges_of(problem, settings)
        proof, notes = _with_spares(problem, settings, steer, judges)
        _check_limits(problem, proof.gpus)
        return _written(problem, settings, proof, steer, judges, notes)


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Leaves cyclic garbage for later.

    A plan by prediction is hundreds of thousands of objects, which hold no cycles, made within a
    second or two: to go through all of them over and over would take a quarter of that.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _written(
    problem: Problem,
    settings: Settings,
    proof: Proof,
    steer: Judges,
    judges: Judges,
    notes: dict[str, Any],
) -> Plan:
    """The plan, by what evidence there is."""
    if settings.verify:
        return write_down(problem, settings, proof, steer, judges, notes)
    return write_predicted(problem, settings, proof.gpus, judges, notes)


def solve_hourly(
    build: Callable[[Sequence[Adapter]], Problem],
    fleet: Fleet,
    rates: HourlyRates,
    settings: Settings,
) -> Plan:
    """Packs for the hour that binds, and sees that every GPU holds in its own busiest hour.

    Args:
        build: Makes the problem of a fleet.
        fleet: The adapters; their rates are those of the hours.
        rates: By the hour.
        settings: How to pack.

    Raises:
        Infeasible: No plan keeps the level within the limits.
    """
    binding = rates.busiest(fleet)
    adapters = rates.at(fleet, binding)
    raised: set[int] = set()
    for _ in range(HOURLY_ROUNDS):
        problem = build(adapters)
        steer, judges = judges_of(problem, settings)
        proof = prove(problem, settings, steer, judges)
        broken = breaking_hours(proof.gpus, rates, problem.rate_headroom, judges)
        if not broken:
            break
        raised |= set(broken.values())
        for index, hour in broken.items():
            adapters = at_least(adapters, proof.gpus[index], rates, hour)
    _check_limits(problem, proof.gpus)
    note = {
        "binding_hour": binding,
        "other_hours_packed": sorted(raised),
        "hours": len(rates.hours),
        "holds_in_every_hour": not broken,
    }
    return _written(problem, settings, proof, steer, judges, {"rates": note})


def _with_spares(
    problem: Problem, settings: Settings, steer: Judges, judges: Judges
) -> tuple[Proof, dict[str, Any]]:
    """A proof that any `spare_gpus` may be lost without the rest starving, if that was asked."""
    proof = prove(problem, settings, steer, judges)
    if not problem.spare_gpus:
        return proof, {}
    after_loss = judge_after_loss(problem, settings)
    for more in range(SPARE_TRIES + 1):
        wider = replace(problem, spare_gpus=problem.spare_gpus + more)
        proof = proof if more == 0 else prove(wider, settings, steer, judges)
        roomy = verify(with_room(proof.gpus, problem.spare_gpus, judges.level), judges)
        if not roomy.verified:
            continue
        bad = losses_that_starve(roomy.gpus, problem.spare_gpus, after_loss)
        if not bad:
            return roomy, {"spare": {"gpus": problem.spare_gpus, "losses_that_starve": 0}}
    raise Infeasible(
        f"the loss of {problem.spare_gpus} GPUs starves the rest, even with {SPARE_TRIES} more "
        f"than would do",
        "fewer --spare-gpus, or a smaller fleet",
    )


def solve_from(
    problem: Problem, settings: Settings, old: Plan, max_moves: int | None = None
) -> Plan:
    """Carries a plan over to changed rates with few moves, and says what more would save.

    Raises:
        Infeasible: More moves are needed than allowed, or no plan keeps the level.
    """
    steer, judges = judges_of(problem, settings)
    found = replan(problem, old, steer, judges, max_moves)
    proof = verify(found.gpus, judges)
    _check_limits(problem, proof.gpus)
    scratch = place(problem, steer, settings)
    note = {
        "from_n_gpus": old.n_gpus,
        "moves": found.moves,
        "max_moves": max_moves,
        "n_gpus_with_any_moves": min(len(scratch), len(found.gpus)),
    }
    return _written(problem, settings, proof, steer, judges, {"replan": note})


def prove(problem: Problem, settings: Settings, steer: Judges, judges: Judges) -> Proof:
    """Places, verifies, and repairs (`greedy`) or takes more GPUs (baselines told no number).

    Without verification, places.
    """
    if not settings.verify:
        return Proof(tuple(place(problem, steer, settings)), ())
    if settings.method == "greedy":
        return _prove_greedy(problem, settings, steer, judges)
    gpus = place(problem, steer, settings)
    settings.progress("verifying with the twin", 0)
    proof = verify(gpus, judges)
    if problem.n_gpus is not None or not can_take_more(settings.method):
        return proof
    for tries in range(1, MORE_TRIES + 1):
        if proof.verified:
            break
        more = math.ceil(tries * max(1.0, MORE_SHARE * len(gpus)))
        proof = verify(place(problem, steer, replace(settings, more_gpus=more)), judges)
    return proof


def _prove_greedy(problem: Problem, settings: Settings, steer: Judges, judges: Judges) -> Proof:
    groups = by_kinds(problem, whole(problem.fleet))
    if all(is_balanced(problem, *group) for group in groups):
        return _prove_balanced(problem, settings, steer, judges)
    if len(groups) == 1 and starves(problem.slo) and is_steady(problem, *groups[0]):
        return _prove_starving(problem, settings, steer, judges)
    return _prove_filled(problem, settings, steer, judges)


def _prove_filled(problem: Problem, settings: Settings, steer: Judges, judges: Judges) -> Proof:
    """Fills GPUs with as much margin as the fleet's noise asks for, repairs, closes what it can.

    Where prompts are long or requests few, a few per cent more traffic is not enough to be safe on
    another seed: the margin is raised until most GPUs are.
    """
    for margin in (settings.seed_margin, *HIGHER_MARGINS):
        chosen = replace(settings, seed_margin=margin)
        gpus = place(problem, steer, chosen)
        settings.progress("verifying with the twin", 0)
        if len(fragile(gpus, judges, steer)) <= max(1, MENDABLE_SHARE * len(gpus)):
            break
    proof = repair(gpus, judges, steer, Placer(problem, steer, judges))
    return _closed(problem, chosen, proof, steer, judges)


def _prove_starving(problem: Problem, settings: Settings, steer: Judges, judges: Judges) -> Proof:
    """Fills GPUs past their end, evens them out, and empties those whose items find room."""
    # How many there are is said of what is left when those are emptied.
    limitless = problem if problem.objective == "latency" else replace(problem, n_gpus=None)
    for margin in (settings.seed_margin, *HIGHER_MARGINS):
        placed = place(limitless, steer, replace(settings, seed_margin=margin))
        settings.progress("verifying with the twin", 0)
        gpus, found = _evened(placed, steer, judges)
        if found.holds:
            break
    exempt = [gpu for gpu in gpus if gpu.exempt]
    while (
        found.holds and not _keeps_number(problem) and found.need <= ROUGHLY * (len(found.gpus) - 1)
    ):
        fewer = EvenOut(steer.of_hour, judges).even_one_fewer(found.gpus)
        if fewer is None or not fewer.holds:
            break
        found = fewer
    return _proven([*found.gpus, *exempt], problem, steer, judges)


def _prove_balanced(problem: Problem, settings: Settings, steer: Judges, judges: Judges) -> Proof:
    """Spreads over the fewest GPUs and evens them out, over more where that does not do.

    Where so much room is left that one GPU fewer might do, that is tried, too.
    """
    more = 0
    for _ in range(MORE_TRIES):
        placed = place(problem, steer, replace(settings, more_gpus=more))
        settings.progress("verifying with the twin", 0)
        gpus, found = _evened(placed, steer, judges)
        limited = problem.n_gpus is not None and len(gpus) >= problem.n_gpus
        if found.holds or limited:
            break
        more += max(1, math.ceil(found.need - len(gpus)))
    kept = _keeps_number(problem) or more > 0
    while found.holds and not kept and found.need <= len(found.gpus) - 1:
        more -= 1
        fewer = place(problem, steer, replace(settings, more_gpus=more))
        if len(fewer) >= len(gpus):
            break
        fewer, evened = _evened(fewer, steer, judges)
        if not evened.holds:
            break
        gpus, found = fewer, evened
    return _proven(gpus, problem, steer, judges)


def _proven(gpus: Sequence[GpuPlacement], problem: Problem, steer: Judges, judges: Judges) -> Proof:
    """Verified as they are, repaired only if that fails."""
    proof = verify(gpus, judges)
    return proof if proof.verified else repair(gpus, judges, steer, Placer(problem, steer, judges))


def _evened(
    placed: Sequence[GpuPlacement], steer: Judges, judges: Judges
) -> tuple[list[GpuPlacement], Evened]:
    """A placement whose ordinary GPUs were evened out, and what came of that."""
    ordinary = [gpu for gpu in placed if not gpu.exempt]
    found = EvenOut(steer.of_hour, judges).even(ordinary)
    return [*found.gpus, *(gpu for gpu in placed if gpu.exempt)], found


def _closed(
    problem: Problem, settings: Settings, proof: Proof, steer: Judges, judges: Judges
) -> Proof:
    """The proof with GPUs closed whose items find room elsewhere, if all that is left holds."""
    n_gpus = len(proof.gpus)
    if _keeps_number(problem) or (proof.verified and filled(proof.gpus, steer) > n_gpus - 1):
        return proof
    closed = close_gpus(proof.gpus, steer, 1.0 + settings.seed_margin)
    if proof.verified and len(closed) == n_gpus:
        return proof
    fewer = repair(closed, judges, steer, Placer(problem, steer, judges))
    return fewer if fewer.verified and len(fewer.gpus) < n_gpus else proof


def _keeps_number(problem: Problem) -> bool:
    """Whether GPUs that could be closed are wanted."""
    return problem.objective == "latency" or problem.spare_gpus > 0


def _check_limits(problem: Problem, gpus: Sequence[GpuPlacement]) -> None:
    if problem.n_gpus is not None and len(gpus) > problem.n_gpus:
        raise Infeasible(
            f"{counted(problem.n_gpus)} will not suffice for slo {problem.slo.name}",
            f"{counted(len(gpus))} will",
        )
    exempt = [item.name for gpu in gpus if gpu.exempt for item in gpu.items]
    if exempt and problem.strict:
        raise Infeasible(
            f"{len(set(exempt))} clients break slo {problem.slo.name} by their own clumps, even "
            f"alone on a GPU: {', '.join(sorted(set(exempt))[:5])}",
            "leave out --strict to plan them as exempt, or choose --slo batch",
        )
