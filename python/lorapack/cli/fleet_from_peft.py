"""``lorapack fleet from-peft``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorapack.cli.fleet_output import deliver, fleet_output, refuse_early
from lorapack.cli.output import Printer, common_options
from lorapack.errors import InputError

if TYPE_CHECKING:
    from lorapack.profile.model_shape import ModelShape


@click.command("from-peft")
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option("--rate", type=float, default=0.0, help="Total requests per second, to be split.")
@click.option(
    "--popularity",
    default="uniform",
    show_default=True,
    metavar="LAW",
    help="How the total is split: uniform, zipf:S or lognormal:SIGMA.",
)
@click.option(
    "--profile",
    "profile_name",
    metavar="P",
    help="Hold the modules against this profile's model (a name or a file).",
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="The same of a config.json, or its folder."
)
@click.option(
    "--engine",
    type=click.Choice(["vllm-0.8.5", "vllm-0.33"]),
    help="Refuse what this engine version would refuse.  [default: the profile's, if given]",
)
@click.option("--skip", is_flag=True, help="Leave out what is refused instead of giving up.")
@fleet_output
@common_options
def from_peft(
    folders: tuple[Path, ...],
    rate: float,
    popularity: str,
    profile_name: str | None,
    model: Path | None,
    engine: str | None,
    skip: bool,
    output: Path | None,
    force: bool,
    out: Printer,
    seed: int,
) -> None:
    """Read PEFT adapter folders, or folders of them.

    Only adapter_config.json and the header of adapter_model.safetensors are read: rank (of the
    tensors), modules, bytes, and what which engine version would refuse. Pickles are never opened.
    Which modules are taken depends on the base model: --profile or --model names it.

    Example: lorapack fleet from-peft adapters/ --rate 20 --popularity zipf:1 -o fleet.csv
    """
    from lorapack.fleet.draw import Popularity
    from lorapack.fleet.from_peft import (
        features_in,
        fleet_from_peft,
        read_peft_folders,
        taken_by,
    )
    from lorapack.fleet.read import FORMATS

    refuse_early(output, FORMATS, force=force)
    law = Popularity.parse(popularity)
    shape, engine_of_profile = _base_model(profile_name, model)
    found = read_peft_folders(folders, shape)
    adapters, refused = taken_by(found, engine or engine_of_profile)
    for error in refused:
        out.warn(str(error))
    if refused and not skip:
        raise refused[0]
    fleet = fleet_from_peft(adapters, rate_rps=rate, popularity=law, seed=seed)
    notes = features_in(adapters)
    notes += [f"{adapter.name}: {note}" for adapter in adapters for note in adapter.notes]
    notes += [
        f"{adapter.name}: {version} refuses it: {', '.join(reasons)}"
        for adapter in adapters
        for version, reasons in adapter.refused_by.items()
    ]
    if shape is None:
        notes.append("modules were held against no base model: give --profile or --model")
    if rate == 0:
        notes.append("rates are not known and left at 0: give --rate, or edit the fleet")
    found_data = {"peft": adapters, "refused": [str(error) for error in refused]}
    deliver(fleet, output, out, force=force, notes=notes, files={"file": output}, more=found_data)


def _base_model(
    profile_name: str | None, model: Path | None
) -> tuple[ModelShape | None, str | None]:
    """The base model, and the engine version if a profile says it."""
    from lorapack.profile.model_shape import ModelShape
    from lorapack.profile.profile import Profile

    if profile_name is not None and model is not None:
        raise InputError("from-peft", "--model", str(model), "give it or --profile, not both")
    if profile_name is not None:
        profile = Profile.load(profile_name)
        return profile.model, profile.rule_set
    return (None if model is None else ModelShape.from_config(model)), None
