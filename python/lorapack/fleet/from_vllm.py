"""A running vLLM's adapters, its totals split among them by a stated rule.

``GET /v1/models`` lists adapters (``parent`` = the base, ``root`` = the path). vLLM counts requests
and tokens for the whole server only, in both versions, so how they fall on adapters is assumed: by
a popularity law, the base model taking none or a stated share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorapack.errors import InputError
from lorapack.fleet.draw import Popularity, stream
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.peft_adapter import read_peft_adapter
from lorapack.fleet.scrape import Scrape, content_of
from lorapack.fleet.usage import Ranks, Usage, fleet_of_usage

_REQUESTS = ("vllm:request_success_total", "vllm:request_success")
_PROMPTS = ("vllm:prompt_tokens_total", "vllm:prompt_tokens")
_OUTPUTS = ("vllm:generation_tokens_total", "vllm:generation_tokens")


@dataclass(frozen=True)
class ServedModels:
    """What a server serves.

    Attributes:
        source: The URL or file.
        base: Names of the base model.
        adapters: Adapter -> where its files are, as the server says (may be on its machine only).
    """

    source: str
    base: tuple[str, ...]
    adapters: Mapping[str, str | None]


def read_models(source: str) -> ServedModels:
    """Reads the answer of ``/v1/models``.

    Args:
        source: Its URL, or a file saved from it.

    Returns:
        Base and adapters.

    Raises:
        InputError: It is no such answer, or lists no adapter.
    """
    try:
        found = json.loads(content_of(source))
    except (ValueError, RecursionError) as error:
        raise InputError(source, None, None, f"give the JSON of /v1/models ({error})") from error
    cards = found.get("data") if isinstance(found, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise InputError(source, "data", cards, "give the answer of /v1/models")
    base: list[str] = []
    adapters: dict[str, str | None] = {}
    for index, card in enumerate(cards):
        name, root = card.get("id"), card.get("root")
        if not isinstance(name, str) or not name:
            raise InputError(source, f"data[{index}].id", name, "give the model's name")
        if card.get("parent") is None:
            base.append(name)
        elif name in adapters:
            raise InputError(source, f"data[{index}].id", name, "is listed twice")
        else:
            adapters[name] = root if isinstance(root, str) and root else None
    if not adapters:
        mend = "lists no adapter (a model with a parent): start it with --lora-modules"
        raise InputError(source, "data", ", ".join(base), mend)
    return ServedModels(source, tuple(base), adapters)


def fleet_from_vllm(
    models: ServedModels,
    grown: Scrape,
    window_s: float,
    ranks: Ranks,
    popularity: Popularity,
    *,
    base_share: float = 0.0,
    seed: int = 0,
) -> tuple[Fleet, tuple[str, ...]]:
    """Splits a server's totals among its adapters.

    Args:
        models: What it serves.
        grown: What its counters grew by in the window.
        window_s: The window's length, seconds.
        ranks: Where ranks come from, unless an adapter's folder can be read here.
        popularity: How requests fall on adapters, in the order of their names.
        base_share: Share of the requests that asks the base model itself, 0..1.
        seed: Of everything drawn.

    Returns:
        The fleet and notes.

    Raises:
        InputError: The metrics are not vLLM's, or the share is none.
    """
    if not 0 <= base_share <= 1:
        raise InputError(None, "base-share", base_share, "give a share from 0 to 1")
    requests = _total(grown, _REQUESTS)
    if requests is None:
        raise InputError(grown.source, "series", _REQUESTS[0], "give vLLM's own /metrics")
    if requests <= 0:
        raise InputError(grown.source, _REQUESTS[0], 0, "no request ended: take a longer window")
    prompts, outputs = _total(grown, _PROMPTS), _total(grown, _OUTPUTS)
    names = sorted(models.adapters)
    weights = popularity.weights(len(names), stream(seed, "popularity"))
    shares = {
        name: float(weight) * (1 - base_share) for name, weight in zip(names, weights, strict=True)
    }
    if base_share > 0 and models.base:
        shares[models.base[0]] = base_share
    usage = {name: _share(requests, prompts, outputs, part) for name, part in shares.items()}
    split = f"requests split by {popularity}, {base_share:g} of them to the base model"
    provenance = {
        "made by": "lorapack fleet from-vllm",
        "source": f"{len(names)} adapters, {requests:.0f} requests in {window_s:g} s",
        "rule": f"{split}; the server's mean lengths for all; cv not counted, taken for 1",
    }
    ranks = _with_folders(models, ranks)
    fleet, notes = fleet_of_usage(usage, window_s, ranks, provenance, seed=seed, base=models.base)
    said = f"vLLM counts nothing per adapter: {split}, which is an assumption"
    return fleet, (said, *notes)


def _total(grown: Scrape, names: tuple[str, ...]) -> float | None:
    sums = grown.totals(names, lambda _: "all")
    value = sums.get("all")
    return value if value is not None and math.isfinite(value) else None


def _share(requests: float, prompts: float | None, outputs: float | None, part: float) -> Usage:
    return Usage(
        requests * part,
        None if prompts is None else prompts * part,
        None if outputs is None else outputs * part,
    )


def _with_folders(models: ServedModels, ranks: Ranks) -> Ranks:
    """Adds what can be read of the adapters' own folders, if they are on this machine too."""
    from lorapack.fleet.adapter import Adapter

    known = {} if ranks.known is None else {adapter.adapter: adapter for adapter in ranks.known}
    for name, root in models.adapters.items():
        if name not in known and root is not None and Path(root).is_dir():
            known[name] = Adapter(name, read_peft_adapter(Path(root)).rank, 0.0, path=root)
    return Ranks(ranks.mix, Fleet(known.values()) if known else None)
