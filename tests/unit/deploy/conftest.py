"""Plans made by hand, and names that try to break out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lorapack.deploy.plan_reader import DeployablePlan
from lorapack.deploy.plan_reader import plan_of as read_document

ENGINE = {
    "max_loras": 8,
    "max_lora_rank": 16,
    "max_cpu_loras": 20,
    "max_model_len": 131072,
    "max_num_seqs": 2048,
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": 0.9,
    "block_size": 16,
    "enable_prefix_caching": False,
}

HOSTILE = [
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`touch pwned`",
    "a;b && c | d > e",
    "--max-loras",
    "-x",
    "a=b,c=d",
    "${LORA}",
    "$HOME",
    "!reboot",
    "*",
    "~root",
    "yes",
    "null",
    "1e3",
    "0x10",
    "2026-01-01",
    "- item",
    "key: value",
    "# comment",
    "&anchor",
    "{a: b}",
    "Ünïcode 模型",
    "back\\slash",
    "%n%s",
    "name with  blanks",
    "n" * 300,
    "org/name",
    "{{ jinja }}",
    "<script>alert(1)</script>",
]
"""Names that are to be served under exactly that name, whatever the format."""

REFUSED = ["a\nb", "a\rb", "a\x00b", "a\tb", "a\x1b[31m", "a\u2028b", "a\u202eb", "a\ud800b", ""]
"""Names that nobody could log or review: refused everywhere."""


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., dict[str, object]]:
    """Makes a plan: one list of adapters a GPU; an adapter is a name or a dict."""

    def plan(*gpus: list[str | dict[str, object]], **engine: object) -> dict[str, object]:
        return {"n_gpus": len(gpus), "gpus": [gpu(adapters, engine) for adapters in gpus]}

    def gpu(
        adapters: list[str | dict[str, object]], engine: dict[str, object]
    ) -> dict[str, object]:
        rows = [{"adapter": one} if isinstance(one, str) else one for one in adapters]
        return {
            "profile": "llama-3.1-8b/h100-64gb/vllm-0.8.5",
            "base_model": "llama-3.1-8b",
            "engine": {**ENGINE, **engine},
            "adapters": [
                {"rank": 16, "rate_rps": 0.5, "share": 1.0, "path": None, **row} for row in rows
            ],
        }

    return plan


@pytest.fixture(scope="session")
def gpus(plan_of: Callable[..., dict[str, object]]) -> Callable[..., DeployablePlan]:
    """The same, read."""
    return lambda *lists, **engine: read_document(plan_of(*lists, **engine))


@pytest.fixture(scope="session")
def hostile() -> list[str]:
    return HOSTILE


@pytest.fixture(params=REFUSED, ids=[ascii(name) for name in REFUSED])
def refused(request: pytest.FixtureRequest) -> str:
    return str(request.param)
