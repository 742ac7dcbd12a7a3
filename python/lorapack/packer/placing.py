"""From a problem to a placement: who judges, what is split, who goes where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapack.packer.greedy import Greedy, HoldsNowhere
from lorapack.packer.methods import METHODS
from lorapack.packer.placement import by_kinds
from lorapack.packer.predicted import predicted_judges
from lorapack.packer.split import CLUMPED_CV, Alone, Split, clump_size, split
from lorapack.packer.verify import Judges, clumps_matter, join, starves
from lorapack.twin.trial import HOUR, QUARTER, Horizon, TwinJudge

if TYPE_CHECKING:
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings
    from lorapack.twin.service_level import ServiceLevel

JOIN_TRIES = 4
"""GPUs on which a clumped client is tried before it is exempt."""

BURSTY_SEEDS = 2
"""Further seeds on which such fleets are placed."""


def judges_of(problem: Problem, settings: Settings) -> tuple[Judges, Judges]:
    """The quick judges that steer and the thorough ones that verify, on seeds apart.

    Without verification, the ones who predict are both.

    Raises:
        InputError: Without verification: a profile has no model.
    """
    if not settings.verify:
        predicting = predicted_judges(problem, settings)
        return predicting, predicting
    slo, batch = problem.slo, problem.batch_slo
    bursty = clumps_matter(problem.fleet)
    # Where requests may queue, the end of a short window cuts off too many of them.
    horizon = HOUR if bursty or starves(slo) else QUARTER
    first = problem.seed + 1
    verifying = tuple(range(first, first + settings.n_seeds))
    later = verifying[-1] + 1
    steering = (problem.seed, *range(later, later + BURSTY_SEEDS)) if bursty else (problem.seed,)

    def judge(slo: ServiceLevel, horizon: Horizon, seeds: tuple[int, ...]) -> TwinJudge:
        return TwinJudge(slo, horizon, seeds, settings.jobs, problem.host_memory_gib)

    hour = Judges(judge(slo, HOUR, steering), judge(batch, HOUR, steering), slo, batch)
    quick = replace(hour, level=judge(slo, horizon, steering), thorough=hour, rungs={})
    return (
        hour if horizon == HOUR else quick,
        Judges(judge(slo, HOUR, verifying), judge(batch, HOUR, verifying), slo, batch),
    )


def place(problem: Problem, steer: Judges, settings: Settings) -> list[GpuPlacement]:
    """Where everything goes; what is found not to hold alone is divided and placed anew.

    Raises:
        Infeasible: Something holds nowhere, even divided.
    """
    known: frozenset[str] = frozenset()
    while True:
        margin = 1.0 + settings.seed_margin
        thorough = None if steer.thorough is None else steer.thorough.level
        items = split(problem, steer.level, margin, known, thorough)
        try:
            return _place(problem, items, steer, settings)
        except HoldsNowhere as found:
            if found.item.name in known:
                raise
            known |= {found.item.name}


def _place(problem: Problem, items: Split, steer: Judges, settings: Settings) -> list[GpuPlacement]:
    """Items by the method, base model by base model; then the clumped, where they may be."""
    gpus: list[GpuPlacement] = []
    method = METHODS[settings.method]
    for kinds, group in by_kinds(problem, items.items):
        gpus += method(problem, kinds, group, steer, settings)
    left: list[Item] = []
    for item in items.clumped:
        if settings.method != "greedy" or not _joins(item, gpus, steer):
            left.append(item)
    return gpus + Placer(problem, steer, steer).exempt(left, 1)


def _joins(item: Item, gpus: list[GpuPlacement], steer: Judges) -> bool:
    """Puts a clumped item on one of the GPUs with the least traffic, if that still holds."""
    order = sorted(
        range(len(gpus)), key=lambda i: (sum(load.rate_rps for load in gpus[i].loads), i)
    )
    for index in order[:JOIN_TRIES]:
        joined = join(gpus[index], item, steer)
        if joined is not None:
            gpus[index] = joined
            return True
    return False


@dataclass(frozen=True)
class Placer:
    """Puts what a repair took off its GPU on GPUs of its own."""

    problem: Problem
    steer: Judges
    judges: Judges

    def place(self, items: list[Item]) -> list[GpuPlacement]:
        """Ordinary items, by greedy."""
        gpus: list[GpuPlacement] = []
        for kinds, group in by_kinds(self.problem, items):
            gpus += Greedy(kinds, self.steer.level, self.steer.slo).place(group)
        return gpus

    def exempt(self, items: list[Item], at_least: int) -> list[GpuPlacement]:
        """Exempt clients, evenly over the fewest GPUs that hold under `batch`."""
        gpus: list[GpuPlacement] = []
        for kinds, group in by_kinds(self.problem, items):
            greedy = Greedy(kinds, self.judges.batch, self.judges.batch_slo, exempt=True)
            gpus += greedy.over(group, at_least)
        return gpus

    def clumped(self, gpu: GpuPlacement) -> list[Item]:
        """The worst of a GPU's items that break the level alone on the verifying seeds."""
        alone = Alone(self.problem, self.judges.level)
        found = [
            item for item in gpu.items if item.load.cv > CLUMPED_CV and not alone.holds(item.load)
        ]
        return sorted(found, key=clump_size)[-1:]
