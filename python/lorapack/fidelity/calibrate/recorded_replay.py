"""A recorded run replayed end to end by the twin: its trace in, makespan and TTFT out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from lorapack.fidelity.calibrate.recorded_run import Recording, each_left_out
from lorapack.fidelity.calibrate.recordings import profile_of_recordings
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.profile.profile import Profile
from lorapack.trace.trace import SCHEMA, Trace
from lorapack.twin.result import Result
from lorapack.twin.run import simulate

BASE = "base"
"""The one adapter, of rank 0, that all requests are for where LoRA was off."""


@dataclass(frozen=True)
class ReplayErrors:
    """Simulated over measured, less one, per cent.

    Attributes:
        makespan: When the last request was done.
        mean_ttft: From arrival to first token, over all requests.
    """

    makespan: float
    mean_ttft: float


def replay(
    profile: Profile, recording: Recording, *, seed: int = 0, records: bool = False
) -> Result:
    """The recording's requests, each at its time and with its lengths, in the recording's engine.

    Args:
        profile: Of its kernel.
        recording: What to replay.
        seed: Of the order in which adapters are loaded; all else is recorded.
        records: Keep a row for each request and step.
    """
    ranks = dict(sorted(recording.requests.select("adapter", "rank").iter_rows()))
    adapters = {f"a{adapter}": int(rank) for adapter, rank in ranks.items()}
    if not recording.lora:
        adapters = {BASE: 0}
    settings = recording.settings
    return simulate(
        profile,
        Fleet([Adapter(name, rank=rank, rate_rps=0.0) for name, rank in adapters.items()]),
        max_loras=settings["max_loras"] if recording.lora else 0,
        max_lora_rank=max(adapters.values()) if recording.lora else None,
        max_cpu_loras=settings["max_cpu_loras"],
        max_num_seqs=settings["max_num_seqs"],
        max_num_batched_tokens=settings["max_batched"],
        block_size=settings["block_size"],
        kv_cache_tokens=recording.kv_cache_blocks * settings["block_size"],
        duration_s=None,
        trace=_trace(recording),
        seed=seed,
        records=records,
    )


def errors(profile: Profile, recording: Recording) -> ReplayErrors:
    """How far a replay is from what was recorded."""
    result = replay(profile, recording)
    return ReplayErrors(
        makespan=(result.makespan_s / recording.makespan_s - 1) * 100,
        mean_ttft=(result.ttft_ms.mean / recording.mean_ttft_ms - 1) * 100,
    )


def left_out_errors(recordings: Sequence[Recording]) -> dict[str, ReplayErrors]:
    """Each recording replayed with the profile of all the others; none if it is the only one."""
    judged = {}
    for left_out, others in each_left_out(recordings):
        profile, _ = profile_of_recordings(others, command="", source="all but one")
        judged[left_out.name] = errors(profile, left_out)
    return judged


def _trace(recording: Recording) -> Trace:
    adapter = pl.format("a{}", "adapter") if recording.lora else pl.lit(BASE)
    frame = recording.requests.sort("arrival").select(
        pl.col("arrival").alias("arrival_s"),
        adapter.alias("adapter"),
        pl.col("in").alias("prompt_tokens"),
        pl.col("out").alias("output_tokens"),
    )
    return Trace(frame.cast({name: kind() for name, kind in SCHEMA.items()}), recording.name)
