"""Envoy AI Gateway's form of the routing table: AIGatewayRoutes grouped by GPU.

A route may hold 15 rules, a rule 128 matches: adapters that live on the same GPUs in the same
parts share rules, and as many routes are written as it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from lorapack.deploy.kubernetes import GPU_LABEL, Object
from lorapack.deploy.routing import Route

T = TypeVar("T")

RULES_A_ROUTE = 15
MATCHES_A_RULE = 128
_WEIGHTS_SUM_TO = 1000
_Backends = tuple[tuple[int, int, str | None], ...]
"""(gpu, weight, name to override the model with) of each backend of a rule."""


def envoy_objects(routes: Sequence[Route], release: str, gateway: str) -> list[Object]:
    """Routes, and the backends they name.

    Args:
        routes: The routes.
        release: Name common to the plan's objects.
        gateway: The Gateway that takes the traffic.

    Returns:
        AIGatewayRoutes, then AIServiceBackend and Backend a GPU.
    """
    rules = [
        _rule(adapters, backends, release)
        for backends, names in _grouped(routes).items()
        for adapters in _chunks(names, MATCHES_A_RULE)
    ]
    objects = [
        _route(f"{release}-{number}", chunk, release, gateway)
        for number, chunk in enumerate(_chunks(rules, RULES_A_ROUTE))
    ]
    urls = {route.gpu: route.url for route in routes}
    for gpu, url in sorted(urls.items()):
        objects.extend(_backend(gpu, url, release))
    return objects


def _grouped(routes: Sequence[Route]) -> dict[_Backends, list[str]]:
    """Adapters by where they live, in the order of the plan."""
    by_adapter: dict[str, list[Route]] = {}
    for route in routes:
        by_adapter.setdefault(route.adapter, []).append(route)
    groups: dict[_Backends, list[str]] = {}
    for adapter, where in by_adapter.items():
        backends = tuple(
            (
                route.gpu,
                max(1, round(route.weight * _WEIGHTS_SUM_TO)) if len(where) > 1 else 1,
                None if route.model == adapter else route.model,
            )
            for route in where
        )
        groups.setdefault(backends, []).append(adapter)
    return groups


def _rule(adapters: Sequence[str], backends: _Backends, release: str) -> Object:
    return {
        "matches": [
            {"headers": [{"type": "Exact", "name": "x-ai-eg-model", "value": adapter}]}
            for adapter in adapters
        ],
        "backendRefs": [
            {
                "name": f"{release}-gpu-{gpu}",
                "weight": weight,
                **({} if override is None else {"modelNameOverride": override}),
            }
            for gpu, weight, override in backends
        ],
    }


def _route(name: str, rules: Sequence[Object], release: str, gateway: str) -> Object:
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway}
    return {
        "apiVersion": "aigateway.envoyproxy.io/v1beta1",
        "kind": "AIGatewayRoute",
        "metadata": {"name": name, "labels": _labels(release)},
        "spec": {"parentRefs": [parent], "rules": list(rules)},
    }


def _backend(gpu: int, url: str, release: str) -> list[Object]:
    name = f"{release}-gpu-{gpu}"
    labels = {**_labels(release), GPU_LABEL: str(gpu)}
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    numeric = host.replace(".", "").isdigit() or ":" in host
    endpoint: Object = (
        {"ip": {"address": host, "port": port}}
        if numeric
        else {"fqdn": {"hostname": host, "port": port}}
    )
    reference = {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": name}
    return [
        {
            "apiVersion": "aigateway.envoyproxy.io/v1beta1",
            "kind": "AIServiceBackend",
            "metadata": {"name": name, "labels": labels},
            "spec": {"schema": {"name": "OpenAI"}, "backendRef": reference},
        },
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "Backend",
            "metadata": {"name": name, "labels": labels},
            "spec": {"endpoints": [endpoint]},
        },
    ]


def _labels(release: str) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": release, "app.kubernetes.io/managed-by": "lorapack"}


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
