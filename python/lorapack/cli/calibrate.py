"""``lorapack calibrate``: fit a profile from measurements."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorapack.cli.output import OUTPUT_FILE, Printer, Table, common_options, force_option
from lorapack.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

    from lorapack.fidelity.calibrate.recorded_run import Recording
    from lorapack.profile.profile import Profile

DEFAULT_BASE = "llama-3.1-8b/h100-64gb/vllm-0.8.5"
"""The profile that a history is read against."""


@click.command(
    epilog="Example: lorapack calibrate campaign -o profile.toml "
    "(or: lorapack calibrate --prometheus http://localhost:9090 -o profile.toml)"
)
@click.argument("sources", metavar="[DATA]...", nargs=-1)
@click.option("-o", "--output", type=OUTPUT_FILE, help="Write the profile here (TOML).")
@click.option("--model", help="Which of the folder's models (default: the first by name).")
@click.option("--leave-out", multiple=True, metavar="CASE", help="Do not fit to this case's runs.")
@click.option("--jobs", type=click.IntRange(1), help="Threads (default: all cores).")
@click.option(
    "--prometheus",
    is_flag=True,
    help="DATA is a metric history: files, or a URL.",
)
@click.option("--url", help="Put a bounded load on this OpenAI-compatible server.")
@click.option(
    "--max-requests",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="With --url: requests sent at most.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="With --url: no level of load begins later.",
)
@click.option(
    "--profile",
    default=DEFAULT_BASE,
    show_default=True,
    help="Keeps what is not shown.",
)
@click.option("--hours", type=float, default=24.0, help="How much history to ask a URL for.")
@click.option(
    "--max-loras", type=click.IntRange(0), help="The server's slots, if the history does not say."
)
@click.option(
    "--max-lora-rank",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="The rank its slots are made for.",
)
@click.option("--adapters", type=click.IntRange(0), help="Adapters in the CPU cache.")
@force_option
@common_options
def command(
    sources: tuple[str, ...],
    output: Path | None,
    model: str | None,
    leave_out: tuple[str, ...],
    jobs: int | None,
    prometheus: bool,
    url: str | None,
    max_requests: int,
    max_seconds: float,
    profile: str,
    hours: float,
    max_loras: int | None,
    max_lora_rank: int,
    adapters: int | None,
    force: bool,
    out: Printer,
    seed: int,  # noqa: ARG001 - every command takes it; the fit draws from fixed seeds
) -> None:
    """Fit a profile from measurements.

    DATA is a folder of a serving campaign (serving_runs.csv and five more files) or of step
    recordings (NAME_steps.csv.gz and two more each), told apart by what it holds; with
    --prometheus, the metric history of a running server. --url needs no DATA: it sends a bounded
    load to a server and watches the answers.
    """
    from lorapack.atomic_file import refuse_to_overwrite, write_text

    if output is not None:
        refuse_to_overwrite(output, force=force)
    begin = time.perf_counter()
    server = Server(profile, hours, max_loras, max_lora_rank, adapters)
    if url is not None:
        if sources or prometheus:
            raise InputError("calibrate", "--url", url, "give it alone: it needs no DATA")
        answers = None if output is None else output.with_suffix(".answers.csv")
        if answers is not None:
            refuse_to_overwrite(answers, force=force)
        fitted, result = _from_url(url, server, max_requests, max_seconds, answers, out, force)
    elif prometheus:
        fitted, result = _from_history(sources, server)
    else:
        fitted, result = _from_folder(sources, model, leave_out, jobs, out)
    if output is not None:
        write_text(output, fitted.to_toml(), force=force)
    result = {"profile": fitted.name, "file": output, **result}
    result["wall_s"] = time.perf_counter() - begin
    tables = [
        Table(f"{part} of {fitted.name}", ("part", "figure", "value"), _flat(result[part]))
        for part in ("residuals", "coverage")
        if part in result
    ]
    out.result(result, *tables, *([] if output is not None else [fitted.to_toml()]))


@dataclass(frozen=True)
class Server:
    """What is said on the command line of a server whose history is read."""

    profile: str
    hours: float
    max_loras: int | None
    max_lora_rank: int
    adapters: int | None


def _from_folder(
    sources: tuple[str, ...],
    model: str | None,
    leave_out: tuple[str, ...],
    jobs: int | None,
    out: Printer,
) -> tuple[Profile, dict[str, Any]]:
    from lorapack.fidelity.calibrate import campaign, recorded_run

    if len(sources) != 1 or not Path(sources[0]).is_dir():
        given = " ".join(sources) or None
        raise InputError("calibrate", "DATA", given, "give one folder of measurements")
    folder = Path(sources[0])
    if campaign.is_campaign(folder):
        chosen = _chosen(campaign.campaign_models(folder), model, folder, out)
        fit = campaign.fit_campaign(
            folder,
            chosen,
            command=_command(folder, chosen, leave_out),
            leave_out=leave_out,
            jobs=jobs,
            on_stage=lambda stage: out.note(f"{chosen}: {stage}"),
        )
        return fit.profile, {"residuals": fit.residuals()}
    if not recorded_run.is_recordings(folder):
        wanted = ", ".join(campaign.FILES)
        mend = f"give a folder with {wanted}; or with NAME{recorded_run.STEPS} and its companions"
        raise InputError(folder, None, None, mend)
    return _from_recordings(recorded_run.read_recordings(folder), folder)


def _from_recordings(recorded: list[Recording], folder: Path) -> tuple[Profile, dict[str, Any]]:
    from lorapack.fidelity.calibrate import campaign, recorded_replay, recordings

    fitted, of_steps = recordings.profile_of_recordings(
        recorded, command=_command(folder, None, ()), source=f"step recordings in {folder.name}"
    )
    profile = campaign.rounded(fitted)
    grouped = [recording for recording in recorded if recording.grouped]
    residuals = {
        "fitted": [recording.name for recording in grouped],
        "steps_error_percent": _plain(of_steps.errors),
        "left_out_steps_error_percent": _plain(of_steps.left_out),
        "replay_error_percent": _plain(
            {recording.name: recorded_replay.errors(profile, recording) for recording in grouped}
        ),
        "left_out_replay_error_percent": _plain(recorded_replay.left_out_errors(grouped)),
    }
    return profile, {"residuals": residuals}


def _plain(errors: Mapping[str, DataclassInstance]) -> dict[str, Any]:
    return {name: asdict(each) for name, each in errors.items()}


def _from_history(sources: tuple[str, ...], server: Server) -> tuple[Profile, dict[str, Any]]:
    from lorapack.fidelity.calibrate import campaign, passive, prometheus
    from lorapack.fidelity.calibrate.windows import Setting
    from lorapack.profile.profile import Profile

    if not sources:
        raise InputError("calibrate", "DATA", None, "give metric files, or the URL of Prometheus")
    if sources[0].startswith(("http://", "https://")):
        now = time.time()
        samples = prometheus.read_server(sources[0], now - server.hours * 3600, now)
    else:
        samples = prometheus.read_files([Path(source) for source in sources])
    base = Profile.load(server.profile)
    slots = samples.max_loras if server.max_loras is None else server.max_loras
    if slots is None:
        raise InputError(sources[0], "--max-loras", None, "the history does not say: give it")
    capacity = samples.kv_cache_tokens
    if capacity is None:
        capacity = base.memory_plan(
            max_loras=slots, max_lora_rank=server.max_lora_rank
        ).kv_cache_tokens
    setting = Setting(
        max_loras=slots,
        max_lora_rank=server.max_lora_rank,
        kv_cache_tokens=capacity,
        max_num_batched_tokens=base.engine.max_num_batched_tokens,
        block_size=samples.block_size or base.engine.block_size,
        cpu_loras=slots if server.adapters is None else server.adapters,
    )
    history = samples.history(sources[0])
    fit = passive.fit_history(
        [(history, setting)],
        base,
        source="metric history of a running server",
        command="lorapack calibrate --prometheus",
    )
    error = fit.step_time.error_percent["windows"]
    residuals = {
        "step_time": {
            "median_error_percent": error,
            "bias_percent": fit.step_time.bias_percent["windows"],
        }
    }
    coverage = {name: asdict(seen) for name, seen in fit.coverage.items()}
    return campaign.rounded(fit.profile), {
        "residuals": residuals,
        "windows": fit.n_windows,
        "coverage": coverage,
    }


def _from_url(
    url: str,
    server: Server,
    max_requests: int,
    max_seconds: float,
    answers: Path | None,
    out: Printer,
    force: bool,
) -> tuple[Profile, dict[str, Any]]:
    from lorapack.atomic_file import atomic_file
    from lorapack.fidelity.calibrate import active, campaign
    from lorapack.profile.profile import Profile

    if server.max_loras is None:
        raise InputError("calibrate", "--max-loras", None, "give the server's slots")
    fit = active.fit_server(
        url,
        Profile.load(server.profile),
        max_loras=server.max_loras,
        max_lora_rank=server.max_lora_rank,
        bounds=active.Bounds(requests=max_requests, seconds=max_seconds),
        on_level=out.note,
    )
    if answers is not None:
        with atomic_file(answers, force=force) as temporary:
            fit.answers.write_csv(temporary)
    error = fit.step_time.error_percent["load test"]
    residuals = {"step_time": {"median_error_percent": error}}
    result = {"residuals": residuals, "requests": fit.requests, "answers": answers}
    return campaign.rounded(fit.profile), result


def _chosen(models: list[str], model: str | None, folder: Path, out: Printer) -> str:
    if model is None:
        if len(models) > 1:
            out.note(f"fitting {models[0]}; --model chooses among {', '.join(models)}")
        return models[0]
    fitting = [name for name in models if name.startswith(model)]
    if len(fitting) != 1:
        raise InputError(folder, "--model", model, f"give one of {', '.join(models)}")
    return fitting[0]


def _command(folder: Path, model: str | None, leave_out: tuple[str, ...]) -> str:
    """The command that makes the file again; the folder by its name, wherever it lies."""
    words = ["lorapack", "calibrate", folder.resolve().name]
    if model is not None:
        words += ["--model", model]
    for case in leave_out:
        words += ["--leave-out", case]
    return shlex.join(words)


def _flat(residuals: dict[str, Any], part: str = "") -> list[tuple[str, str, object]]:
    rows: list[tuple[str, str, object]] = []
    for key, value in residuals.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{part} {key}".strip())
        else:
            rows.append((part, key, ", ".join(value) if isinstance(value, list) else value))
    return rows
