"""Which adapter is where, for whoever sends the requests.

A neutral CSV is always written; LiteLLM's proxy and production-stack's router have their own
forms, Envoy AI Gateway's is in `envoy.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lorapack.deploy.kubernetes import Object
from lorapack.errors import InputError

Router = Literal["csv", "litellm", "production-stack", "envoy"]
"""Routers a table can be written for."""


@dataclass(frozen=True)
class Route:
    """One adapter on one GPU.

    Attributes:
        adapter: Its name, as clients say it.
        gpu: The GPU's place in the plan, from 0.
        url: The server's root, without `/v1`.
        weight: Part of the adapter's requests that go there; over all GPUs they sum to 1.
        model: What the server must be told in `model`.
    """

    adapter: str
    gpu: int
    url: str
    weight: float
    model: str


def csv_text(routes: Sequence[Route]) -> str:
    """The neutral table: adapter, gpu, url, weight, model.

    Args:
        routes: The routes.

    Returns:
        CSV with a header, lines ending in a newline.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["adapter", "gpu", "url", "weight", "model"])
    for route in routes:
        writer.writerow([route.adapter, route.gpu, route.url, f"{route.weight:.6g}", route.model])
    return out.getvalue()


def litellm_config(routes: Sequence[Route]) -> Object:
    """The config of LiteLLM's proxy: one deployment a route, drawn by weight.

    Args:
        routes: The routes.

    Returns:
        `model_list` and `router_settings`.

    Raises:
        InputError: A name means something else to LiteLLM.
    """
    return {
        "model_list": [
            {
                "model_name": _litellm_name(route.adapter),
                "litellm_params": {
                    "model": f"hosted_vllm/{_litellm_name(route.model)}",
                    "api_base": f"{route.url}/v1",
                    "api_key": "os.environ/VLLM_API_KEY",
                    "weight": float(f"{route.weight:.6g}"),
                },
            }
            for route in routes
        ],
        "router_settings": {"routing_strategy": "simple-shuffle"},
    }


def production_stack_config(routes: Sequence[Route]) -> Object:
    """The dynamic config of production-stack's router (re-read every 10 s).

    Args:
        routes: The routes; each must be served under the name clients say.

    Returns:
        `static_models`: adapter -> its backends, asked in turn.

    Raises:
        InputError: A server wants another name than clients say: this router cannot rewrite it.
    """
    backends: dict[str, list[str]] = {}
    for route in routes:
        if route.model != route.adapter:
            raise InputError(
                "plan",
                "adapter",
                route.adapter,
                f"is served as {route.model}: production-stack's router cannot rewrite names; "
                "use another --routing or rename it",
            )
        backends.setdefault(route.adapter, []).append(route.url)
    return {
        "service_discovery": "static",
        "routing_logic": "roundrobin",
        "static_models": {
            adapter: {"static_backends": urls, "static_model_type": "chat"}
            for adapter, urls in backends.items()
        },
    }


def uneven_splits(routes: Sequence[Route]) -> list[str]:
    """Adapters whose requests are split over GPUs in unequal parts.

    Args:
        routes: The routes.

    Returns:
        Their names, in the order of the routes.
    """
    weights: dict[str, list[float]] = {}
    for route in routes:
        weights.setdefault(route.adapter, []).append(route.weight)
    return [name for name, parts in weights.items() if max(parts) - min(parts) > 1e-6]


def _litellm_name(name: str) -> str:
    if "*" in name or "os.environ/" in name:
        raise InputError(
            "plan",
            "adapter",
            name,
            "LiteLLM takes * for a pattern and os.environ/ for a variable: rename it",
        )
    return name
