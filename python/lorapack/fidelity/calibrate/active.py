"""A profile from a bounded load test of an OpenAI-compatible server with LoRA adapters.

A ladder of closed loops: so many requests at a time, spread over so many adapters, all of one
prompt and one output length, streamed. While a level is full every step makes one token a request,
so the median gap between a client's tokens is the step time at that many requests and adapters.
What one request alone waits for its first token, beyond a step, is the front end's. Requests and
seconds are bounded before the first is sent.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import nnls

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.observations import Observations, single_steps
from lorapack.fidelity.calibrate.step_time import StepTimeFit, assessed
from lorapack.profile.profile import Profile
from lorapack.profile.step_time import StepTime

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
"""Requests at a time, level by level."""

PROMPT_WORDS = 16
"""Words of a prompt: short, so that steps are decodes."""

FULL_GAPS = 4
"""Gaps at either end of an answer in which the level may not be full."""

TIMEOUT_S = 120.0
"""Longest wait for a byte of an answer, seconds."""


@dataclass(frozen=True)
class Bounds:
    """How much a load test may do.

    Attributes:
        requests: Requests at most.
        seconds: No level begins later than this.
        output_tokens: Tokens of each answer.
        waves: Requests of a level, over its concurrency.
    """

    requests: int = 1000
    seconds: float = 300.0
    output_tokens: int = 64
    waves: int = 2


@dataclass(frozen=True)
class Answer:
    """One streamed answer.

    Attributes:
        concurrency: Requests at a time in its level.
        adapters: Adapters of its level.
        adapter: Which one it asked for.
        ttft_ms: Time to the first token.
        gaps_ms: Times between the tokens after it.
    """

    concurrency: int
    adapters: int
    adapter: str
    ttft_ms: float
    gaps_ms: tuple[float, ...]


@dataclass(frozen=True)
class ActiveFit:
    """What a load test came to.

    Attributes:
        profile: The profile.
        step_time: Errors of the levels.
        answers: One row an answer: level, adapter, ``ttft_ms``, ``itl_ms``.
        requests: Requests sent.
    """

    profile: Profile
    step_time: StepTimeFit
    answers: pl.DataFrame
    requests: int


def adapters_of(url: str) -> list[str]:
    """Adapters that the server lists, the base model left out.

    Raises:
        InputError: It cannot be reached, or does not list models as OpenAI's API does.
    """
    connection, path = _connection(url)
    try:
        connection.request("GET", f"{path}/v1/models")
        models = json.loads(connection.getresponse().read())["data"]
        return sorted(str(model["id"]) for model in models if model.get("parent"))
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        raise InputError(url, "/v1/models", None, f"lists no models: {error!r}") from error
    finally:
        connection.close()


def fit_server(
    url: str,
    base: Profile,
    *,
    max_loras: int,
    max_lora_rank: int,
    bounds: Bounds = Bounds(),
    on_level: Callable[[str], None] = lambda _: None,
) -> ActiveFit:
    """Runs the ladder and fits what it shows.

    Args:
        url: Address of the server.
        base: What to keep where the ladder shows nothing.
        max_loras: LoRA slots of the server.
        max_lora_rank: Rank of the slots.
        bounds: How much it may do.
        on_level: Told what is being measured.

    Raises:
        InputError: The server has no adapter, or does not stream.
    """
    names = adapters_of(url)
    if not names:
        raise InputError(url, "/v1/models", None, "lists no adapter: load one before")
    answers = _climb(url, names[:max_loras], bounds, on_level)
    rows = level_steps(answers, max_loras, max_lora_rank, len(names))
    fit = assessed(fitted_to_levels(rows, base.step_time), rows)
    alone = [answer for answer in answers if answer.concurrency == 1]
    extra = median(answer.ttft_ms - median(answer.gaps_ms) for answer in alone[1:] or alone)
    front_end = replace(base.front_end, request_ms=max(extra, 0.0), first_token_fixed_ms=0.0)
    profile = replace(
        base,
        step_time=fit.step_time,
        front_end=front_end,
        provenance=replace(
            base.provenance,
            source="a bounded load test",
            command="lorapack calibrate --url",
            note=f"{len(answers)} requests; what they do not show is of {base.name}",
        ),
    )
    table = pl.DataFrame(
        {
            "concurrency": [a.concurrency for a in answers],
            "adapters": [a.adapters for a in answers],
            "adapter": [a.adapter for a in answers],
            "ttft_ms": [a.ttft_ms for a in answers],
            "itl_ms": [float(np.mean(a.gaps_ms)) for a in answers],
        }
    )
    return ActiveFit(profile, fit, table, len(answers))


def level_steps(
    answers: Sequence[Answer], max_loras: int, max_lora_rank: int, cpu_loras: int
) -> Observations:
    """One row a level: its median gap as the step time of a full batch."""
    levels = sorted({(a.concurrency, a.adapters) for a in answers})
    gaps, context = [], []
    for level in levels:
        of_level = [a for a in answers if (a.concurrency, a.adapters) == level]
        inner = [g for a in of_level for g in a.gaps_ms[FULL_GAPS:-FULL_GAPS] or a.gaps_ms]
        gaps.append(median(inner))
        length = median(len(a.gaps_ms) for a in of_level)
        context.append(level[0] * (PROMPT_WORDS + length / 2))
    requests = np.array([level[0] for level in levels])
    n = len(levels)
    return single_steps(
        tokens=requests,
        adapters=np.array([min(level) for level in levels], dtype=np.float64),
        max_loras=np.full(n, max_loras),
        max_lora_rank=np.full(n, max_lora_rank),
        cpu_loras=np.full(n, float(cpu_loras)),
        requests=requests.astype(np.float64),
        context_tokens=np.array(context),
        measured_ms=np.array(gaps),
        weight=np.full(n, 1 / n),
        source="load test",
        max_tokens=int(requests.max()),
    )


def fitted_to_levels(rows: Observations, base: StepTime) -> StepTime:
    """Fits what a ladder shows: a step's fixed time, a request's and an adapter's.

    The rest keeps the base's values. Three prices of a linear form from a few medians: non-negative
    least squares of relative errors.
    """
    rest = replace(base, fixed_ms=0.0, request_ms=0.0, adapter_ms=0.0)
    adapters = np.asarray(rows.adapters.sum(axis=1)).ravel()
    design = np.column_stack([np.ones(len(rows)), rows.requests, adapters])
    left = np.maximum(rows.measured_ms - rows.predicted_ms(rest), 0.0)
    prices, _ = nnls(design / rows.measured_ms[:, None], left / rows.measured_ms)
    fixed, request, adapter = map(float, prices)
    return replace(base, fixed_ms=fixed, request_ms=request, adapter_ms=adapter)


def _climb(
    url: str, names: Sequence[str], bounds: Bounds, on_level: Callable[[str], None]
) -> list[Answer]:
    """Level after level, as long as the bounds allow."""
    begin, answers = time.monotonic(), list[Answer]()
    for name in names:  # first uses load tokenizers and weights: paid before anything is timed
        if len(answers) < bounds.requests:
            answers.append(_ask(url, name, 1, 1, 2))
    sent, timed = len(answers), list[Answer]()
    for concurrency in CONCURRENCIES:
        for adapters in sorted({1, min(concurrency, len(names))}):
            n = concurrency * bounds.waves
            late = time.monotonic() - begin > bounds.seconds
            if late or sent + n > bounds.requests:
                return timed
            on_level(f"{concurrency} requests at a time, {adapters} adapters")
            asked = [names[i % adapters] for i in range(n)]
            level = (concurrency, adapters, bounds.output_tokens)
            with ThreadPoolExecutor(concurrency) as pool:
                timed += pool.map(lambda name, level=level: _ask(url, name, *level), asked)
            sent += n
    return timed


def _ask(url: str, adapter: str, concurrency: int, adapters: int, tokens: int) -> Answer:
    """Sends one request and times its stream."""
    connection, path = _connection(url)
    body = {
        "model": adapter,
        "prompt": "word " * PROMPT_WORDS,
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    headers = {"Content-Type": "application/json"}
    sent = time.perf_counter()
    times = []
    try:
        connection.request("POST", f"{path}/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            mend = f"answered {response.status}: {response.read(200)!r}"
            raise InputError(url, "/v1/completions", adapter, mend)
        for line in response:
            if line.startswith(b"data:") and b"[DONE]" not in line:
                times.append(time.perf_counter())
    except (OSError, http.client.HTTPException) as error:
        raise InputError(url, "/v1/completions", adapter, f"broke off: {error!r}") from error
    finally:
        connection.close()
    if len(times) < 2:
        raise InputError(url, "/v1/completions", adapter, "did not stream token by token")
    gaps = np.diff(times) * 1e3
    return Answer(concurrency, adapters, adapter, (times[0] - sent) * 1e3, tuple(gaps.tolist()))


def _connection(url: str) -> tuple[Any, str]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("calibrate", "--url", url, "give an http or https address")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    return connection, parts.path.rstrip("/").removesuffix("/v1")
