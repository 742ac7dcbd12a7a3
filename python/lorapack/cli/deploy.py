"""`lorapack deploy`: the files that start a plan, and the table that routes to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lorapack.cli.output import INPUT_FILE, Printer, Table, common_options, force_option


@click.command(
    "deploy",
    epilog="Example: lorapack deploy plan.json --format vllm --adapter-root /adapters -o deploy/",
)
@click.argument("plan", type=INPUT_FILE)
@click.option(
    "--format",
    "format",
    type=click.Choice(["vllm", "kubernetes", "ray-serve"]),
    default="vllm",
    show_default=True,
    help="What is to run the engines.",
)
@click.option(
    "--flavor",
    type=click.Choice(["core", "kserve", "aibrix"]),
    default="core",
    show_default=True,
    help="Which Kubernetes objects.",
)
@click.option(
    "--routing",
    "routers",
    type=click.Choice(["csv", "litellm", "production-stack", "envoy"]),
    multiple=True,
    help="Routing table to write beside routing.csv; may be given several times.",
)
@click.option(
    "--adapter-root",
    metavar="URI",
    help="Folder or URI of the adapters whose fleet row has no path: <root>/<adapter>.",
)
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.",
)
@click.option("--base-model", metavar="MODEL", help="Hugging Face name or folder to serve instead.")
@click.option("--name", default="lorapack", show_default=True, help="What objects are called.")
@click.option(
    "--url",
    metavar="TEMPLATE",
    help="Where servers answer, with {gpu} and {port}: http://node{gpu}.example:{port}.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Port of the first server.",
)
@click.option("--image", help="Container image.  [default: the profile's engine version]")
@click.option(
    "--claim",
    default="lora-adapters",
    show_default=True,
    help="PersistentVolumeClaim that holds the adapters.",
)
@click.option("--gateway", default="lorapack", show_default=True, help="Envoy's Gateway.")
@force_option
@common_options
def command(
    plan: Path,
    folder: Path,
    force: bool,
    out: Printer,
    seed: int,  # noqa: ARG001 - nothing is drawn here; every command takes it
    **settings: Any,  # noqa: ANN401 - the options, by DeploySettings' names
) -> None:
    """Write the files that start a plan.

    The engines get every setting that was simulated. routing.csv says which adapter is where.
    """
    from lorapack.deploy import DeploySettings, assemble, read_plan

    deployment = assemble(read_plan(plan), DeploySettings(**settings))
    paths = deployment.write(folder, force=force)
    for warning in deployment.warnings:
        out.warn(warning)
    out.result(
        {
            "files": paths,
            "format": settings["format"],
            "flavor": settings["flavor"],
            "warnings": deployment.warnings,
        },
        Table("", ["file", "bytes"], [[str(path), path.stat().st_size] for path in paths]),
    )
