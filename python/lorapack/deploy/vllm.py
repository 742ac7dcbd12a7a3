"""One `vllm serve` script a GPU: POSIX shell in which no name can mean anything but itself."""

from __future__ import annotations

import json
import shlex

from lorapack.deploy.launch import ROOT_VARIABLE, AdapterFolder, Launch, flag_arguments

_ROOT_CHECK = f"""\
: "${{{ROOT_VARIABLE}:?set {ROOT_VARIABLE} to the folder that holds the adapters}}"
case "${ROOT_VARIABLE}" in
  *[[:cntrl:]\\"\\\\]*) echo "{ROOT_VARIABLE} may not hold quotes or backslashes" >&2; exit 2 ;;
esac
"""


def script(launch: Launch, port: int, visible_devices: str | None = None) -> str:
    """The script that starts one server.

    Args:
        launch: The server.
        port: The port it listens on unless the variable PORT says otherwise.
        visible_devices: Value of CUDA_VISIBLE_DEVICES unless that is set; None leaves it alone.

    Returns:
        The text of a POSIX shell script.
    """
    lines = ["#!/bin/sh", f"# {launch.name}: written by lorapack deploy.", "set -eu"]
    if launch.needs_root_variable:
        lines.append(_ROOT_CHECK.rstrip())
    if visible_devices is not None:
        lines.append(f'export CUDA_VISIBLE_DEVICES="${{CUDA_VISIBLE_DEVICES:-{visible_devices}}}"')
    arguments = [
        f"exec vllm serve {shlex.quote(launch.base_model)}",
        f'--port "${{PORT:-{port}}}"',
        f"--served-model-name {shlex.join(launch.served_names)}",
        *(shlex.join(argument) for argument in flag_arguments(launch.flags)),
        *lora_modules(launch),
    ]
    lines.append(" \\\n  ".join(arguments))
    return "\n".join(lines) + "\n"


def lora_modules(launch: Launch) -> list[str]:
    """`--lora-modules` and one JSON object an adapter, as shell words.

    Args:
        launch: The server.

    Returns:
        The words; none where the server has no adapters.
    """
    if not launch.adapters:
        return []
    items = [_module(adapter.adapter, adapter.folder) for adapter in launch.adapters]
    return ["--lora-modules", *(f"  {item}" for item in items)]


def _module(name: str, folder: AdapterFolder) -> str:
    """`{"name": ..., "path": ...}`, quoted; the root variable stands outside the quotes."""
    if not folder.below_root_variable:
        return shlex.quote(json.dumps({"name": name, "path": folder.text}))
    head = f'{{"name": {json.dumps(name)}, "path": "'
    tail = json.dumps(f"/{folder.text}")[1:] + "}"
    return f'{shlex.quote(head)}"${ROOT_VARIABLE}"{shlex.quote(tail)}'
