"""``lorapack calibrate``: fit a profile from measurements."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import click

from lorapack.cli.output import OUTPUT_FILE, Printer, Table, common_options, force_option
from lorapack.errors import InputError

INPUT_FOLDER: click.Path = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(epilog="Example: lorapack calibrate ../shared/data/vllm-h100 -o profile.toml")
@click.argument("folder", metavar="DATA", type=INPUT_FOLDER)
@click.option("-o", "--output", type=OUTPUT_FILE, help="Write the profile here (TOML).")
@click.option("--model", help="Which of the folder's models (default: the first by name).")
@click.option("--leave-out", multiple=True, metavar="CASE", help="Do not fit to this case's runs.")
@click.option("--jobs", type=click.IntRange(1), help="Threads (default: all cores).")
@force_option
@common_options
def command(
    folder: Path,
    output: Path | None,
    model: str | None,
    leave_out: tuple[str, ...],
    jobs: int | None,
    force: bool,
    out: Printer,
    seed: int,  # noqa: ARG001 - every command takes it; the fit draws from fixed seeds
) -> None:
    """Fit a profile from measurements.

    DATA is a folder of a serving campaign (the files of data/vllm-h100) or of step recordings (of
    data/vllm-cpu), told apart by what it holds.
    """
    from lorapack.atomic_file import refuse_to_overwrite, write_text
    from lorapack.fidelity.calibrate import campaign, recordings

    if output is not None:
        refuse_to_overwrite(output, force=force)
    begin = time.perf_counter()
    if campaign.is_campaign(folder):
        models = campaign.campaign_models(folder)
        chosen = _chosen(models, model, folder, out)
        fit = campaign.fit_campaign(
            folder,
            chosen,
            command=_command(folder, chosen, leave_out),
            leave_out=leave_out,
            jobs=jobs,
            on_stage=lambda stage: out.note(f"{chosen}: {stage}"),
        )
        profile, residuals = fit.profile, fit.residuals()
    elif recordings.is_recordings(folder):
        recorded = recordings.read_recordings(folder)
        bare, of_steps = recordings.profile_of_recordings(
            recorded, command=_command(folder, None, ()), source=f"step recordings in {folder.name}"
        )
        profile = campaign.rounded(bare)
        residuals = {
            "total_error_percent": of_steps.total_error_percent,
            "step_error_ms": of_steps.step_error_ms,
            "fitted": [recording.name for recording in recorded if recording.grouped],
        }
    else:
        wanted = ", ".join(campaign.FILES)
        mend = f"give a folder with {wanted}; or with NAME{recordings.STEPS} and its companions"
        raise InputError(folder, None, None, mend)
    text = profile.to_toml()
    if output is not None:
        write_text(output, text, force=force)
    result: dict[str, Any] = {
        "profile": profile.name,
        "file": output,
        "residuals": residuals,
        "wall_s": time.perf_counter() - begin,
    }
    rows = [(part, key, value) for part, key, value in _flat(residuals)]
    out.result(
        result,
        Table(f"residuals of {profile.name}", ("part", "figure", "value"), rows),
        *([] if output is not None else [text]),
    )


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
