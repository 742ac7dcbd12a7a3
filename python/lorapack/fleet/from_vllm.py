"""A running vLLM's adapters, its totals split among them by a stated rule.

``GET /v1/models`` lists adapters (``parent`` = the base, ``root`` = the path). vLLM counts requests
and tokens for the whole server only, in both versions, so how they fall on adapters is assumed: by
a popularity law, the base model taking none or a stated share. Adapters that run or wait but are
not listed (:mod:`lorapack.fleet.lora_requests_info`) are added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorapack.errors import InputError, shown
from lorapack.fleet import lora_requests_info
from lorapack.fleet.adapter import Adapter, is_clean_text
from lorapack.fleet.draw import Popularity, stream
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.peft_adapter import read_peft_adapter
from lorapack.fleet.scrape import Scrape, Window, content_of
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
        InputError: It is no such answer.
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
    return ServedModels(source, tuple(base), adapters)


def fleet_from_vllm(
    models: ServedModels,
    window: Window,
    ranks: Ranks,
    popularity: Popularity,
    *,
    base_share: float = 0.0,
    seed: int = 0,
) -> tuple[Fleet, tuple[str, ...]]:
    """Splits a server's totals among its adapters.

    Args:
        models: What it serves.
        window: What its metrics showed.
        ranks: Where ranks come from, unless an adapter's folder can be read here.
        popularity: How requests fall on adapters, in the order of their names.
        base_share: Share of the requests that asks the base model itself, 0..1.
        seed: Of everything drawn.

    Returns:
        The fleet and notes.

    Raises:
        InputError: The metrics are not vLLM's, no adapter is listed or seen, or the share is none.
    """
    if not 0 <= base_share <= 1:
        raise InputError(None, "base-share", base_share, "give a share from 0 to 1")
    grown, seen = window.grown, unlisted_adapters(models, window.last)
    adapters = {**models.adapters, **dict.fromkeys(seen)}
    if not adapters:
        mend = "lists no adapter (a model with a parent): start it with --lora-modules"
        raise InputError(models.source, "data", ", ".join(models.base), mend)
    requests = _total(grown, _REQUESTS)
    if requests is None:
        raise InputError(grown.source, "series", _REQUESTS[0], "give vLLM's own /metrics")
    if requests <= 0:
        raise InputError(grown.source, _REQUESTS[0], 0, "no request ended: take a longer window")
    prompts, outputs = _total(grown, _PROMPTS), _total(grown, _OUTPUTS)
    names = sorted(adapters)
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
        "source": f"{len(names)} adapters, {requests:.0f} requests in {window.seconds:g} s",
        "rule": f"{split}; the server's mean lengths for all; cv not counted, taken for 1",
    }
    ranks, unreadable = _with_folders(models, ranks)
    fleet, notes = fleet_of_usage(
        usage, window.seconds, ranks, provenance, seed=seed, base=models.base
    )
    said = [f"vLLM counts nothing per adapter: {split}, which is an assumption"]
    if seen:
        names_seen = ", ".join(map(shown, seen))
        said.append(f"run or wait and are not listed, so added: {names_seen}")
    return fleet, (*said, *unreadable, *notes)


def unlisted_adapters(models: ServedModels, last: Scrape) -> tuple[str, ...]:
    """Adapters that run or wait though ``/v1/models`` lists none of their name.

    Args:
        models: What the server lists.
        last: Its latest scrape.

    Returns:
        Their names, sorted.

    Raises:
        InputError: One of them cannot be an adapter's name.
    """
    series = last.series.get(lora_requests_info.SERIES, {})
    listed = {*models.adapters, *models.base}
    found: set[str] = set()
    for labels in lora_requests_info.newest(
        (dict(pairs), value) for pairs, value in series.items()
    ):
        for label in (lora_requests_info.RUNNING, lora_requests_info.WAITING):
            found.update(lora_requests_info.names_in(labels.get(label, ""), listed))
    for name in sorted(found - listed):
        if not is_clean_text(name):
            raise InputError(last.source, lora_requests_info.SERIES, name, "is no usable name")
    return tuple(sorted(found - listed))


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


def _with_folders(models: ServedModels, ranks: Ranks) -> tuple[Ranks, tuple[str, ...]]:
    """Adds what can be read of the adapters' own folders, if they are on this machine too.

    A folder of that name here need not be the server's: one that holds no adapter is only noted.
    """
    notes = []
    known = {} if ranks.known is None else {adapter.adapter: adapter for adapter in ranks.known}
    for name, root in models.adapters.items():
        if name not in known and root is not None and Path(root).is_dir():
            try:
                rank = read_peft_adapter(Path(root)).rank
                known[name] = Adapter(name, rank, 0.0, path=root)
            except InputError as error:
                notes.append(f"the rank of {shown(name)} is not read: {error}")
    return Ranks(ranks.mix, Fleet(known.values()) if known else None), tuple(notes)
