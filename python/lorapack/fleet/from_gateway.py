"""Per-adapter rates where they are counted: at the gateway, or in its access log.

vLLM counts nothing per adapter; a gateway in front of it does. Known are the llm-d router (and its
older names), Envoy AI Gateway and LiteLLM, each told by its series; and access logs, one JSON
object a line, which also show burstiness.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import polars as pl

from lorapack.errors import InputError
from lorapack.fleet.draw import Popularity
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.from_trace import Dealing, fleet_from_trace
from lorapack.fleet.scrape import Scrape, content_of
from lorapack.fleet.usage import Ranks, Usage, fleet_of_usage
from lorapack.trace.generic import trace_of
from lorapack.trace.table import LINE, Table
from lorapack.trace.trace import Trace

OVERFLOW = "other"
"""The llm-d router's name for all models past its first 1000."""

TIME_KEYS = ("time", "timestamp", "@timestamp", "ts", "start_time", "startTime", "created")
"""Keys of an access log's time, the first present counts."""

_MILLISECONDS_FROM = 1e11
"""A number of seconds this large lies past the year 5000: it is milliseconds."""


@dataclass(frozen=True)
class Gateway:
    """How one gateway spells its series.

    Attributes:
        name: For people.
        requests: Spellings of the counter of requests, newest first.
        prompt_tokens: Spellings of the sum of prompt tokens.
        output_tokens: Spellings of the sum of answer tokens.
        labels: Labels that name the adapter, the first non-empty counts.
        prompt_where: Labels that a series of prompt tokens must have.
        output_where: Labels that a series of answer tokens must have.
    """

    name: str
    requests: tuple[str, ...]
    prompt_tokens: tuple[str, ...]
    output_tokens: tuple[str, ...]
    labels: tuple[str, ...]
    prompt_where: tuple[tuple[str, str], ...] = ()
    output_where: tuple[tuple[str, str], ...] = ()

    def adapter_of(self, labels: Mapping[str, str]) -> str | None:
        """The adapter that a series' labels name."""
        name = next((labels[label] for label in self.labels if labels.get(label)), None)
        # LiteLLM names a deployment <provider>/<model>.
        return None if name is None else name.removeprefix("hosted_vllm/")


_LLM_D_PREFIXES = ("llm_d_epp_", "inference_objective_", "inference_model_")

_LLM_D = Gateway(
    "llm-d router",
    tuple(f"{prefix}request_total" for prefix in _LLM_D_PREFIXES),
    tuple(
        f"{prefix}{word}_sum"
        for prefix in _LLM_D_PREFIXES
        for word in ("request_input_tokens", "input_tokens")
    ),
    tuple(
        f"{prefix}{word}_sum"
        for prefix in _LLM_D_PREFIXES
        for word in ("request_output_tokens", "output_tokens")
    ),
    ("target_model_name", "model_name"),
)

GATEWAYS = (
    _LLM_D,
    Gateway(
        "Envoy AI Gateway",
        (
            "gen_ai_server_request_duration_seconds_count",
            "gen_ai_server_request_duration_count",
        ),
        ("gen_ai_client_token_usage_token_sum", "gen_ai_client_token_usage_sum"),
        ("gen_ai_client_token_usage_token_sum", "gen_ai_client_token_usage_sum"),
        ("gen_ai_original_model", "gen_ai_request_model"),
        (("gen_ai_token_type", "input"),),
        (("gen_ai_token_type", "output"),),
    ),
    Gateway(
        "LiteLLM",
        ("litellm_requests_metric_total", "litellm_proxy_total_requests_metric_total"),
        ("litellm_input_tokens_metric_total", "litellm_input_tokens_total"),
        ("litellm_output_tokens_metric_total", "litellm_output_tokens_total"),
        ("requested_model", "model"),
    ),
)
"""The gateways whose metrics are understood."""


def fleet_from_scrape(
    grown: Scrape, window_s: float, ranks: Ranks, *, seed: int = 0
) -> tuple[Fleet, tuple[str, ...]]:
    """Makes a fleet of what a gateway's counters grew by.

    Args:
        grown: The growth in the window.
        window_s: Its length, seconds.
        ranks: Where ranks come from.
        seed: Of the ranks drawn.

    Returns:
        The fleet and notes.

    Raises:
        InputError: No known gateway's series is there, or none counted a request.
    """
    gateway = _gateway_of(grown)
    requests = grown.totals(gateway.requests, gateway.adapter_of)
    prompts = grown.totals(gateway.prompt_tokens, gateway.adapter_of, **dict(gateway.prompt_where))
    outputs = grown.totals(gateway.output_tokens, gateway.adapter_of, **dict(gateway.output_where))
    notes = []
    if gateway is _LLM_D and requests.pop(OVERFLOW, 0.0) > 0:
        notes.append(f"the router counts adapters past its first 1000 as {OVERFLOW}: left out")
    usage = {
        name: Usage(count, prompts.get(name), outputs.get(name)) for name, count in requests.items()
    }
    provenance = {
        "made by": "lorapack fleet from-gateway",
        "source": f"{gateway.name}, a window of {window_s:g} s",
        "rule": "rates and mean lengths as counted; cv not counted, taken for 1",
    }
    fleet, more = fleet_of_usage(usage, window_s, ranks, provenance, seed=seed)
    return fleet, (*notes, *more)


def _gateway_of(scrape: Scrape) -> Gateway:
    for gateway in GATEWAYS:
        if any(map(scrape.has, gateway.requests)):
            return gateway
    if any(name.startswith("vllm:") for name in scrape.series):
        mend = "give the gateway's metrics: vLLM counts nothing per adapter (or use from-vllm)"
        raise InputError(scrape.source, None, "vLLM's own metrics", mend)
    known = "; ".join(f"{gateway.name}: {gateway.requests[0]}" for gateway in GATEWAYS)
    some = ", ".join(list(scrape.series)[:5])
    raise InputError(scrape.source, "series", some, f"give a scrape that holds one of {known}")


def read_access_log(source: str) -> tuple[Trace, tuple[str, ...]]:
    """Reads an access log: one JSON object a line.

    Each needs ``model``, ``usage.prompt_tokens``, ``usage.completion_tokens`` and a time
    (:data:`TIME_KEYS`: a date, or seconds or milliseconds since 1970). Lines without ``model`` or
    ``usage`` are of other endpoints: left out and counted.

    Args:
        source: The file or URL.

    Returns:
        The requests, and notes.

    Raises:
        InputError: A line is no JSON object, a number is none, or nothing is left.
    """
    rows: list[dict[str, object]] = []
    others = 0
    for number, line in enumerate(content_of(source).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        row = _log_row(source, number, line)
        if row is None:
            others += 1
        else:
            rows.append({**row, LINE: number})
    if not rows:
        mend = "give lines with model, usage.prompt_tokens, usage.completion_tokens and a time"
        raise InputError(source, None, f"{others} other lines", mend)
    overrides = {LINE: pl.Int64, "model": pl.String}
    frame = pl.DataFrame(rows, schema_overrides=overrides, strict=False, infer_schema_length=None)
    table = Table(source, frame)
    seconds = _log_seconds(table)
    trace = trace_of(
        table,
        arrival_s=seconds - seconds.min(),
        prompt_tokens=table.tokens("usage.prompt_tokens", at_least=0),
        output_tokens=table.tokens("usage.completion_tokens", at_least=0),
        adapter=table.texts("model"),
    )
    notes = [f"{others} lines without model and usage were left out"] if others else []
    return trace, (*trace.notes, *notes)


def _log_row(source: str, number: int, line: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        mend = f"give one JSON object a line ({error})"
        raise InputError(source, f"line {number}", repr(line[:60]), mend) from error
    if not isinstance(found, dict):
        raise InputError(source, f"line {number}", found, "give one JSON object a line")
    model, usage = found.get("model"), found.get("usage")
    if not isinstance(usage, dict) or not isinstance(model, str) or not model.strip():
        return None
    time = next((found[key] for key in TIME_KEYS if found.get(key) is not None), None)
    if not isinstance(time, (str, int, float)) or isinstance(time, bool):
        mend = f"give the time under one of {', '.join(TIME_KEYS)}"
        raise InputError(source, f"line {number}", time, mend)
    return {
        "model": model,
        "time": str(time),
        "usage.prompt_tokens": str(usage.get("prompt_tokens")),
        "usage.completion_tokens": str(usage.get("completion_tokens", 0)),
    }


def _log_seconds(table: Table) -> pl.Series:
    seconds = table.seconds("time")
    largest = seconds.max()
    assert isinstance(largest, float)
    return seconds / 1e3 if largest > _MILLISECONDS_FROM else seconds


def fleet_from_log(
    trace: Trace, ranks: Ranks, *, seed: int = 0, notes: Iterable[str] = ()
) -> tuple[Fleet, tuple[str, ...]]:
    """Makes a fleet of an access log's requests: rates, lengths and burstiness as measured.

    Args:
        trace: The requests, each with its adapter.
        ranks: Where ranks come from.
        seed: Of the ranks drawn.
        notes: What the reader left out.

    Returns:
        The fleet and notes.
    """
    uniform = Popularity("uniform", 0.0)
    measured = fleet_from_trace(trace, Dealing(None, uniform, ranks.mix, seed=seed)).fleet
    known = {} if ranks.known is None else {adapter.adapter: adapter for adapter in ranks.known}
    adapters = [
        replace(adapter, rank=known[adapter.adapter].rank, path=known[adapter.adapter].path)
        if adapter.adapter in known
        else adapter
        for adapter in measured
    ]
    unknown = sum(adapter.adapter not in known for adapter in measured)
    said = [*notes, f"ranks of {unknown} of {len(measured)} adapters drawn {ranks.mix}"]
    provenance = {
        "made by": "lorapack fleet from-gateway",
        "source": f"access log, {len(trace)} requests in {trace.span_s:.6g} s",
        "rule": "rates, mean lengths and cv of the gaps measured; ranks: "
        f"{len(measured) - unknown} known, the rest {ranks.mix}",
        "seed": str(seed),
    }
    return Fleet(adapters, provenance), tuple(said if unknown else said[:-1])
