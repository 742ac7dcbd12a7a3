"""A profile from a serving campaign: step logs, memory, loading and measured one-hour runs.

The folder has the files of ``data/vllm-h100``. What each part of the profile is fitted to:

============================  ==================================================================
part                          data
============================  ==================================================================
memory                        ``kv_cache_tokens.csv``
adapter loading               ``adapter_loading.csv``
step time                     ``step_logs.parquet`` (the shape of a step's cost) and, through the
                              twin, throughput and time per token of ``serving_runs.csv``
lengths' tail                 throughput, and ITL over TPOT, of runs bound by their slots
scrapes of the metrics        gaps between the polls of ``serving_timeseries.parquet``
first use of an adapter       idle time between first uses in ``step_logs.parquet``; from there,
                              as the time to first token
time to first token           runs that were not starved
============================  ==================================================================

Of the runs only every :data:`EVERY`-th is used, each round on another seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.front_end import REQUEST_MS, FrontEndFit, fit_times
from lorapack.fidelity.calibrate.lengths import FIRST_TAIL_TOKENS, campaign_lengths, fit_tail
from lorapack.fidelity.calibrate.loading import LoadingFit, fit_loading
from lorapack.fidelity.calibrate.memory import MemoryFit, fit_memory
from lorapack.fidelity.calibrate.observations import Observations, concatenated
from lorapack.fidelity.calibrate.scrapes import SERIES, ScrapeFit, answer_times, fit_scrapes
from lorapack.fidelity.calibrate.serving import (
    Replayed,
    Totals,
    observations_of,
    replay_with_shapes,
    stretched,
)
from lorapack.fidelity.calibrate.step_logs import MAX_BATCHED_TOKENS, first_use_ms, step_shapes
from lorapack.fidelity.calibrate.step_time import StepTimeFit, fit_with_weights_tied
from lorapack.fidelity.replay import measured_tps, offered_tps, read_runs, scenario_of
from lorapack.profile.front_end import FrontEnd
from lorapack.profile.profile import Profile, Provenance, Uncertainty
from lorapack.profile.step_time import StepTime
from lorapack.twin.run import simulate_many
from lorapack.twin.scenario import STARVED_BELOW

FILES = (
    "serving_runs.csv",
    "step_logs.parquet",
    "base_latency.csv",
    "kv_cache_tokens.csv",
    "adapter_loading.csv",
    SERIES,
)
"""What such a folder holds."""

EVERY = 2
"""Of how many runs one is used."""

ROUNDS = 3
"""Times that runs are replayed and the step time is fitted to what they show."""

UNSTARVED_ABOVE = 0.97
"""Served share of the load from which a run shows the time to first token."""

SLOT_FREE_ADAPTERS = 2
"""Adapters a slot up to which a starved run shows nothing of the lengths' tail."""

SLOT_BOUND_ADAPTERS = 6
"""Adapters a slot from which a starved run shows the lengths' tail."""

DIGITS = 4
"""Significant digits of what is written."""

CUDA_GRAPH_MAX_TOKENS = 512
"""The largest CUDA graph that vLLM 0.8.5 captures."""

START = {
    "fixed_ms": 3.4,
    "eager_ms": 1.0,
    "request_ms": 0.012,
    "weights_ms": 9.0,
    "token_ms": 0.022,
    "context_token_ms": 6e-5,
    "mixed_context_token_ms": 1.2e-4,
    "attention_tflops": 200.0,
    "lora_fixed_ms": 1.0,
    "lora_block_ns": 0.9,
    "lora_token_ms": 0.005,
    "adapter_ms": 0.3,
    "adapter_rank_ms": 5e-4,
    "adapter_small_batch_ms": 0.09,
    "adapter_block_ns": 0.3,
    "adapter_lookup_ns": 100.0,
    "lora_mapping_ms": 0.9,
    "lora_mapping_request_ms": 0.0085,
    "skipped_ms": 4e-4,
    "waiting_ms": 1e-4,
    "arrival_ms": 0.08,
}
"""Where the step time's fit begins, for any 7 to 8 billion parameters on an H100."""

FRONT_END_START = {
    "request_ms": REQUEST_MS,
    "first_token_fixed_ms": -2.0,
    "first_token_request_ms": 0.05,
    "first_token_step_fraction": 0.4,
}
"""Where the front end's fit begins."""

SOURCE = "figures measured by the authors of arXiv 2508.08343 on vLLM 0.8.5 (V1), one H100 64 GB"
"""Where the campaign at hand comes from."""

T = TypeVar("T")


@dataclass(frozen=True)
class CampaignFit:
    """A fitted profile and the errors of its parts.

    Attributes:
        profile: The profile.
        step_time: Errors of step times by source.
        memory: Errors of KV capacity.
        loading: Errors of adapter loading.
        front_end: Errors of what a client sees.
        scrapes: Errors of what a scrape takes.
        tail_error_percent: Error of throughput and of ITL over TPOT in runs bound by slots.
        n_runs: Serving runs used.
    """

    profile: Profile
    step_time: StepTimeFit
    memory: MemoryFit
    loading: LoadingFit
    front_end: FrontEndFit
    scrapes: ScrapeFit
    tail_error_percent: float
    n_runs: int

    def residuals(self) -> dict[str, Any]:
        """Errors by part, as the command prints them."""
        return {
            "step_time": {
                source: {
                    "median_error_percent": self.step_time.error_percent[source],
                    "bias_percent": self.step_time.bias_percent[source],
                    "n": self.step_time.n[source],
                }
                for source in self.step_time.n
            },
            "step_logging_ms": self.step_time.logging_ms,
            "memory": _without(self.memory, "memory"),
            "adapter_loading": _without(self.loading, "loading"),
            "front_end": _without(self.front_end, "front_end"),
            "scrapes": {
                "error_percent": self.scrapes.error_percent,
                "n": self.scrapes.n,
            },
            "lengths": {"tail_error_percent": self.tail_error_percent},
            "n_runs": self.n_runs,
        }


def is_campaign(folder: Path) -> bool:
    """Whether the folder holds a serving campaign."""
    return all((folder / name).is_file() for name in FILES)


def campaign_models(folder: Path) -> list[str]:
    """Models of which the folder has runs, sorted."""
    return sorted(set(read_runs(folder / FILES[0])["model"].to_list()))


def base_profile(model: str) -> Profile:
    """The built-in profile that states the model's shape, the GPU and the engine's settings.

    Raises:
        InputError: None does.
    """
    for name in Profile.names():
        profile = Profile.load(name)
        if model.startswith(profile.model.name) and profile.rule_set == "vllm-0.8.5":
            return profile
    known = ", ".join(Profile.names())
    raise InputError(
        "calibrate", "--model", model, f"no built-in profile states its shape: {known}"
    )


def fit_campaign(
    folder: Path,
    model: str,
    *,
    command: str,
    leave_out: Sequence[str] = (),
    jobs: int | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> CampaignFit:
    """Fits the profile of one model.

    Args:
        folder: The campaign's folder.
        model: The model's name in its files.
        command: The command to name in the profile.
        leave_out: Cases whose runs are not to be used, for judging on them afterwards.
        jobs: Threads.
        on_stage: Told what is being fitted.
    """
    base = base_profile(model)
    on_stage("memory and loading")
    memory = fit_memory(folder / "kv_cache_tokens.csv", model, base)
    loading = fit_loading(folder / "adapter_loading.csv", model)
    base = replace(base, memory=memory.memory, adapter_loading=loading.loading)
    on_stage("step logs")
    given = _given(folder, model, base, leave_out)
    profile = replace(
        base,
        step_time=fit_with_weights_tied(given.logs, given.start).step_time,
        front_end=FrontEnd(
            first_use_ms=first_use_ms(folder / "step_logs.parquet", model), **FRONT_END_START
        ),
        lengths=campaign_lengths(base.model.name, FIRST_TAIL_TOKENS),
    )
    for number in range(ROUNDS):
        on_stage(f"serving runs, round {number + 1} of {ROUNDS}")
        last = _fit_round(given, profile, number, jobs, on_stage)
        profile = last.profile
    uncertainty = Uncertainty(
        step_time_fraction=max(last.step_time.error_percent.values()) / 100,
        kv_cache_fraction=memory.largest_error_percent / 100,
        adapter_loading_fraction=loading.disk_error_percent / 100,
        front_end_fraction=last.front_end.ttft_p50_error_percent / 100,
        lengths_fraction=last.tail_error_percent / 100,
    )
    n_runs = len(given.runs)
    provenance = Provenance(
        kind="fitted",
        source=SOURCE,
        command=command,
        note=f"fitted to step logs, memory, adapter loading and {n_runs} one-hour serving runs",
        uncertainty=uncertainty,
    )
    return CampaignFit(
        profile=rounded(replace(profile, provenance=provenance)),
        step_time=last.step_time,
        memory=memory,
        loading=loading,
        front_end=last.front_end,
        scrapes=last.scrapes,
        tail_error_percent=last.tail_error_percent,
        n_runs=n_runs,
    )


@dataclass(frozen=True)
class _Given:
    """What every round is fitted to.

    Attributes:
        logs: Steps of the closed-loop runs.
        start: Where the step time's fit begins.
        answers: What scrapes took, by run.
        runs: The serving runs.
    """

    logs: Observations
    start: StepTime
    answers: pl.DataFrame
    runs: list[dict[str, Any]]


@dataclass(frozen=True)
class _Round:
    """The profile after a round, and the errors of what the round fitted."""

    profile: Profile
    step_time: StepTimeFit
    scrapes: ScrapeFit
    tail_error_percent: float
    front_end: FrontEndFit


def _given(folder: Path, model: str, base: Profile, leave_out: Sequence[str]) -> _Given:
    step_logs, base_latency = folder / "step_logs.parquet", folder / "base_latency.csv"
    return _Given(
        logs=step_shapes(step_logs, base_latency, model, base),
        start=StepTime(**START, cuda_graph_max_tokens=CUDA_GRAPH_MAX_TOKENS, model=base.model),
        answers=answer_times(folder / SERIES),
        runs=_training_runs(folder, model, leave_out),
    )


def _fit_round(
    given: _Given,
    profile: Profile,
    number: int,
    jobs: int | None,
    on_stage: Callable[[str], None],
) -> _Round:
    """Replays the runs on the seed of that number and fits, one after the other, what they show."""
    replayed = replay_with_shapes(given.runs, profile, number, jobs)
    longer = replace(profile, step_time=stretched(profile.step_time))
    scenarios = [scenario_of(run, longer, number) for run in given.runs]
    others = [Totals.of(result) for result in simulate_many(scenarios, jobs=jobs)]
    rows = concatenated([given.logs, observations_of(replayed, others, MAX_BATCHED_TOKENS)])
    step_time = fit_with_weights_tied(rows, given.start)
    scrapes = fit_scrapes(given.answers, replayed)
    front_end = replace(
        profile.front_end,
        series_us=scrapes.series_us,
        series_adapter_us=scrapes.series_adapter_us,
    )
    profile = replace(profile, step_time=step_time.step_time, front_end=front_end)
    on_stage("lengths' tail")
    bound = [run for run in given.runs if _bound_by_slots(run, profile)]
    recounted = _recounted(replayed, profile)
    tail, tail_error = fit_tail(bound, profile, recounted, number, jobs)
    profile = replace(profile, lengths=campaign_lengths(profile.model.name, tail))
    on_stage("front end")
    light = [run for run in given.runs if _served(run, profile) > UNSTARVED_ABOVE]
    times = fit_times(light, profile, number, jobs)
    profile = replace(profile, front_end=times.front_end)
    return _Round(profile, step_time, scrapes, tail_error, times)


def rounded(value: T, digits: int = DIGITS) -> T:
    """A dataclass with every float in it rounded to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")  # type: ignore[return-value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changes = {f.name: rounded(getattr(value, f.name), digits) for f in fields(value)}
    return replace(value, **changes)


def _training_runs(folder: Path, model: str, leave_out: Sequence[str]) -> list[dict[str, Any]]:
    runs = read_runs(folder / "serving_runs.csv").filter(
        (pl.col("model") == model) & (pl.col("out_of_memory") == 0)
    )
    for case in leave_out:
        if case not in runs["case"]:
            raise InputError(folder, "--leave-out", case, f"{model} has no such case")
    return runs.filter(~pl.col("case").is_in(list(leave_out))).to_dicts()[::EVERY]


def _served(run: dict[str, Any], profile: Profile) -> float:
    return measured_tps(run) / offered_tps(run, profile)


def _bound_by_slots(run: dict[str, Any], profile: Profile) -> bool:
    crowded = run["n_adapters"] >= SLOT_BOUND_ADAPTERS * run["max_loras"]
    return bool(crowded and _served(run, profile) < STARVED_BELOW)


def _recounted(replayed: Sequence[Replayed], profile: Profile) -> float:
    """By how much, in the logarithm, ITL over TPOT is above a replay's where slots abound."""
    more = [
        np.log(one.run["mean_itl_ms"] / one.run["mean_tpot_ms"])
        - np.log(one.totals.itl_ms / one.totals.tpot_ms)
        for one in replayed
        if one.run["n_adapters"] <= SLOT_FREE_ADAPTERS * one.run["max_loras"]
        and _served(one.run, profile) < STARVED_BELOW
    ]
    return float(np.median(more)) if more else 0.0


def _without(fit: object, name: str) -> dict[str, Any]:
    return {f.name: getattr(fit, f.name) for f in fields(fit) if f.name != name}  # type: ignore[arg-type]
