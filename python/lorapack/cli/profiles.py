"""`lorapack profiles`: lists, shows and estimates profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorapack.cli.group import Group
from lorapack.cli.output import OUTPUT_FILE, Printer, Table, common_options, force_option

if TYPE_CHECKING:
    from lorapack.profile.profile import Profile


@click.group(
    "profiles",
    cls=Group,
    invoke_without_command=True,
    epilog="Example: lorapack profiles show llama-3.1-8b/h100-64gb/vllm-0.8.5",
)
@common_options
@click.pass_context
def command(context: click.Context, out: Printer, seed: int) -> None:  # noqa: ARG001 - every command has one
    """List, show and estimate engine profiles."""
    if context.invoked_subcommand is not None:
        return
    from lorapack.profile.profile import Profile

    profiles = [Profile.load(name) for name in Profile.names()]
    rows = [
        (
            profile.name,
            profile.rule_set,
            profile.provenance.kind,
            profile.gpu.memory_gib,
            profile.step_time.weights_ms,
            profile.engine.max_model_len,
        )
        for profile in profiles
    ]
    columns = ("profile", "rule set", "constants", "GPU GiB", "weights ms", "max_model_len")
    out.result({"profiles": [_summary(p) for p in profiles]}, Table("", columns, rows))


@command.command("show", epilog="Example: lorapack profiles show my-engine.toml")
@click.argument("name")
@common_options
def show(name: str, out: Printer, seed: int) -> None:  # noqa: ARG001 - every command has one
    """Show a profile: NAME is one of the list, or a TOML file."""
    from lorapack.profile.profile import Profile

    profile = Profile.load(name)
    out.result({"profiles": [_whole(profile)]}, profile.to_toml().rstrip())


@command.command(
    "estimate",
    epilog="Example: lorapack profiles estimate --model config.json --gpu h100-80gb -o mine.toml",
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="A model's config.json, or its folder."
)
@click.option("--gpu", "gpu_name", metavar="GPU", help="A GPU's name, as in h100-80gb.")
@click.option("--from", "source", metavar="PROFILE", help="The measured profile to scale.")
@click.option("--name", help="What to call the profile; otherwise model/gpu/engine.")
@click.option(
    "--against", metavar="PROFILE", help="Estimate this measured profile; show the errors."
)
@click.option("-o", "--output", type=OUTPUT_FILE, help="File to write instead of printing.")
@force_option
@common_options
def estimate_command(
    model: Path | None,
    gpu_name: str | None,
    source: str | None,
    name: str | None,
    against: str | None,
    output: Path | None,
    force: bool,
    out: Printer,
    seed: int,  # noqa: ARG001 - every command has one
) -> None:
    """Estimate the profile of a model or GPU that nobody measured.

    A measured profile is scaled by first principles, and the result says how sure it is. With
    --against, a measured profile is estimated as if it were not: what an estimate is worth.
    """
    if against is not None:
        if model or gpu_name or output:
            raise click.UsageError("--against stands alone, with --from: it writes no profile")
        _check(against, source, out)
        return
    if model is None or gpu_name is None:
        raise click.UsageError("give --model and --gpu, or --against")
    profile = _estimated(model, gpu_name, source, name)
    if output is not None:
        profile.write(output, force=force)
        out.result({"profiles": [_whole(profile)], "file": output}, f"wrote {output}")
        return
    out.result({"profiles": [_whole(profile)]}, profile.to_toml().rstrip())


def _estimated(model: Path, gpu_name: str, source: str | None, name: str | None) -> Profile:
    from lorapack.profile.estimate import estimate
    from lorapack.profile.gpu import Gpu
    from lorapack.profile.model_shape import ModelShape
    from lorapack.profile.profile import DEFAULT_PROFILE, Profile

    measured = Profile.load(source or DEFAULT_PROFILE)
    return estimate(ModelShape.from_config(model), Gpu.named(gpu_name), measured, name=name)


def _check(against: str, source: str | None, out: Printer) -> None:
    from lorapack.profile.estimate import estimate, step_errors, term_errors
    from lorapack.profile.profile import DEFAULT_PROFILE, Profile

    measured, scaled = Profile.load(against), Profile.load(source or DEFAULT_PROFILE)
    estimated = estimate(measured.model, measured.gpu, scaled)
    terms, steps = term_errors(estimated, measured), step_errors(estimated, measured)
    out.result(
        {
            "profiles": [_whole(estimated)],
            "against": measured.name,
            "from": scaled.name,
            "term_errors": terms,
            "step_errors": steps,
        },
        f"{measured.name}, estimated from {scaled.name}",
        Table("error of a step's time", ("step", "error %"), list(_percent(steps))),
        Table("error of each term", ("term", "error %"), list(_percent(terms))),
    )


def _percent(errors: Mapping[str, float | None]) -> Iterator[tuple[str, float | None]]:
    for name, error in errors.items():
        yield name, None if error is None else round(error * 100, 1)


def _summary(profile: Profile) -> dict[str, object]:
    return {
        "name": profile.name,
        "rule_set": profile.rule_set,
        "kind": profile.provenance.kind,
        "source": profile.provenance.source,
        "model": profile.model.name,
        "gpu": profile.gpu.name,
        "gpu_memory_gib": profile.gpu.memory_gib,
        "max_model_len": profile.engine.max_model_len,
    }


def _whole(profile: Profile) -> dict[str, object]:
    from lorapack.profile.section import write_section

    derived = {
        "n_parameters": profile.model.n_parameters,
        "weights_bytes": profile.model.weights_bytes,
        "kv_bytes_per_token": profile.model.kv_bytes_per_token(profile.engine.kv_cache_dtype),
    }
    return {**write_section(profile), "derived": derived}
