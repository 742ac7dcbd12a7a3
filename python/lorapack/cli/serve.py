"""`lorapack serve`: the HTTP service."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from lorapack.cli.output import INPUT_FILE, Printer, common_options
from lorapack.errors import InputError

BACKLOG = 2048
"""Connections that may wait to be taken, as uvicorn's own sockets have."""


@click.command(
    "serve",
    epilog="Example: lorapack serve --port 8080 --profile llama-3.1-8b/h100-64gb/vllm-0.8.5",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--profile",
    "profile_names",
    multiple=True,
    help="Profile name or .toml path to answer for; may be given again.  [default: all built in]",
)
@click.option(
    "--predictor",
    "models",
    multiple=True,
    type=INPUT_FILE,
    help="Model of lorapack train for /predict; may be given again.  [default: the built-in ones]",
)
@click.option(
    "--jobs", type=click.IntRange(1), help="Threads a pack may use.  [default: all cores]"
)
@click.option(
    "--packs-at-once",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Fleets packed side by side; more are answered 503.",
)
@common_options
def command(
    host: str,
    port: int,
    profile_names: tuple[str, ...],
    models: tuple[Path, ...],
    jobs: int | None,
    packs_at_once: int,
    out: Printer,
    seed: int,  # noqa: ARG001 - a request brings its own
) -> None:
    """Answer over HTTP.

    /predict asks the predictor about one GPU, /pack places a fleet, /healthz and /metrics are for
    whoever watches; /docs shows the API. There is no authentication: listen on a private address.
    """
    from lorapack.errors import MissingPackageError
    from lorapack.predictor.predictor import Predictor
    from lorapack.profile.profile import Profile

    try:
        import uvicorn

        from lorapack.serve import Predictors, ServiceSettings, create_app
    except ModuleNotFoundError as error:
        raise MissingPackageError("the service", str(error.name), "serve") from error
    names = profile_names or Profile.names()
    settings = ServiceSettings(
        tuple(Profile.load(name) for name in names),
        predictors=Predictors(tuple(Predictor.load(path) for path in models)),
        jobs=jobs,
        packs_at_once=packs_at_once,
    )
    level = "warning" if out.quiet or out.json else "info"
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level=level))
    with _listening(host, port) as listening:
        address, taken = listening.getsockname()[:2]
        url = f"http://[{address}]:{taken}" if ":" in address else f"http://{address}:{taken}"
        out.result({"url": url, "profiles": list(names)}, url)
        server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket taken before anything is answered, so that port 0 can be told."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        mend = f"cannot be listened on ({error.strerror or error}): give another --host or --port"
        raise InputError("serve", "address", f"{host}:{port}", mend) from error
