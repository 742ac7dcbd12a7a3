"""`lp.pack`: a fleet in, a verified plan out.

The walk: `problem` (headroom, order) -> `placing` (`split`: too hot, too clumped; a method of
`methods` places items) -> `verify` (an hour, fresh seeds, repairs) -> `writing` (`plan`). Methods
decide places and slots only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorapack.errors import InputError, did_you_mean
from lorapack.packer.pool import kind_of
from lorapack.packer.problem import Problem
from lorapack.packer.settings import VERIFYING_SEEDS, Settings
from lorapack.packer.solve import solve
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import ServiceLevel, service_level

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.packer.plan import Plan
    from lorapack.packer.problem import Objective
    from lorapack.predictor.predictor import Predictor


def pack(
    profile: Profile | Sequence[Profile],
    fleet: Fleet | Iterable[Adapter],
    *,
    slo: str | ServiceLevel = "interactive",
    rate_headroom: float = 0.1,
    gpus: int | None = None,
    spare_gpus: int = 0,
    host_memory_gib: float | None = None,
    objective: Objective = "gpus",
    method: str = "greedy",
    strict: bool = False,
    seed: int = 0,
    n_seeds: int = VERIFYING_SEEDS,
    verify: bool = True,
    predictors: Sequence[Predictor] = (),
    jobs: int | None = None,
    engine: Mapping[str, Any] | None = None,
) -> Plan:
    """Places a fleet on the fewest GPUs and proves the plan with the twin.

    Args:
        profile: The GPU to use, or a pool of them.
        fleet: The adapters, at the rates they are stated to have.
        slo: A service level or its name.
        rate_headroom: Share by which rates are raised throughout.
        gpus: GPUs to use at most.
        spare_gpus: GPUs that may be lost without the rest starving.
        host_memory_gib: Host memory of a GPU for adapters in the CPU cache; None: ample.
        objective: `gpus`, `latency` (on `gpus` of them) or `cost`.
        method: Who places: `greedy`, or one of the baselines.
        strict: Refuse a client whose own clumps break the level, in place of exempting it.
        seed: Of everything random; the same inputs and seed give the same plan.
        n_seeds: Fresh seeds on which each GPU is verified.
        verify: Off: the predictor alone decides, in milliseconds, and the plan is not verified.
            Each GPU's `predicted` then says what is expected and how far it may be believed.
        predictors: Without `verify`: models of `lorapack train`, for profiles without one.
        jobs: Threads; None: all cores.
        engine: Engine settings in place of the profile's, of `ENGINE_SETTINGS`.

    Returns:
        The plan, its GPUs in packing order.

    Raises:
        InputError: An argument cannot be used, or a profile has no model to predict with.
        Infeasible: No plan keeps the level within the limits.

    Example:
        >>> import lorapack as lp
        >>> fleet = [lp.Adapter("summaries", rank=16, rate_rps=0.5)]
        >>> plan = lp.pack(lp.Profile.load(), fleet)
        >>> plan.n_gpus, plan.verified
        (1, True)
    """
    profiles = [profile] if isinstance(profile, Profile) else list(profile)
    settings = Settings(
        method, n_seeds=n_seeds, jobs=jobs, verify=verify, predictors=tuple(predictors)
    )
    problem = Problem.build(
        fleet,
        [kind_of(with_engine(entry, engine or {})) for entry in profiles],
        service_level(slo) if isinstance(slo, str) else slo,
        rate_headroom=rate_headroom,
        objective=objective,
        n_gpus=gpus,
        spare_gpus=spare_gpus,
        host_memory_gib=host_memory_gib,
        strict=strict,
        seed=seed,
    )
    return solve(problem, settings)


ENGINE_SETTINGS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "block_size",
)
"""Engine settings that may be given in place of a profile's."""


def with_engine(profile: Profile, settings: Mapping[str, Any]) -> Profile:
    """The profile with engine settings of one's own, by the engine's names.

    Raises:
        InputError: There is no such setting.
    """
    for name in settings:
        if name not in ENGINE_SETTINGS:
            raise InputError("pack", "engine", name, did_you_mean(name, ENGINE_SETTINGS))
    if not settings:
        return profile
    return replace(profile, engine=replace(profile.engine, **settings))
