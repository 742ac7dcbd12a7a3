"""The metric history of running vLLM servers, from what Prometheus keeps or a scrape prints.

Three forms are read: the JSON of a range query (one metric a file or several), the JSON of a
Prometheus server asked now, and text in the exposition format, one scrape after another, each
sample with its time in milliseconds (or each scrape after a line ``# scrape <unix seconds>``).
Names of metrics differ between engine versions; both are known.
"""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lorapack.errors import InputError
from lorapack.fleet import lora_requests_info

GAUGES: Mapping[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "vllm:prompt_tokens"),
    "generation_tokens": ("vllm:generation_tokens_total", "vllm:generation_tokens"),
}
"""Column -> names of its metric in vLLM 0.8.5 and 0.33."""

CACHE = "vllm:cache_config_info"
"""A metric whose labels are the message."""

SCRAPE = re.compile(r"#\s*scrape\s+([0-9.]+)")
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+(\d+))?\s*$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

QUERY_STEP_S = 15
"""Distance of the points asked of a Prometheus server, seconds."""

TIMEOUT_S = 30.0
"""Longest wait for an answer, seconds."""


@dataclass
class Samples:
    """Samples of one server, as read.

    Attributes:
        points: Column -> time -> value.
        adapters: Time -> (when last seen, names running) of the newest label set.
        max_loras: LoRA slots, if a label says so.
        kv_cache_tokens: KV capacity, if a label says so.
        block_size: Tokens a block, if a label says so.
    """

    points: dict[str, dict[float, float]] = field(default_factory=dict)
    adapters: dict[float, tuple[float, int]] = field(default_factory=dict)
    max_loras: int | None = None
    kv_cache_tokens: int | None = None
    block_size: int | None = None

    def add(self, metric: str, labels: Mapping[str, str], time_s: float, value: float) -> None:
        """Takes one sample; metrics of no use are dropped, and so is what is not finite."""
        if not (math.isfinite(time_s) and math.isfinite(value)):
            return
        for column, names in GAUGES.items():
            if metric in names:
                at = self.points.setdefault(column, {})
                # Several engines or label sets of one name are one server's parts.
                at[time_s] = at.get(time_s, 0.0) + value
        if metric == CACHE:
            blocks, size = labels.get("num_gpu_blocks"), labels.get("block_size")
            if blocks and size and blocks.isdigit() and size.isdigit():
                self.block_size, self.kv_cache_tokens = int(size), int(blocks) * int(size)
        if metric == lora_requests_info.SERIES:
            slots = lora_requests_info.slots(labels)
            self.max_loras = self.max_loras if slots is None else slots
            running = lora_requests_info.names_in(labels.get(lora_requests_info.RUNNING, ""))
            if value >= self.adapters.get(time_s, (-1.0, 0))[0]:
                self.adapters[time_s] = (value, len(running))

    def history(self, source: str) -> pl.DataFrame:
        """The polls, as :func:`lorapack.fidelity.calibrate.windows.cut` takes them.

        Args:
            source: What messages call the data.

        Raises:
            InputError: A metric is missing altogether.
        """
        for column, names in GAUGES.items():
            if column not in self.points:
                raise InputError(source, names[0], None, "missing: export this metric, too")
        frame = pl.DataFrame({"t_s": sorted(self.points["running"])})
        for column in GAUGES:
            frame = frame.join_asof(_column(column, self.points[column]), on="t_s")
        if self.adapters:
            counts = {time: float(n) for time, (_, n) in self.adapters.items()}
            frame = frame.join_asof(_column("distinct_adapters", counts), on="t_s")
        return frame.drop_nulls()


def read_files(paths: Sequence[Path]) -> Samples:
    """Reads files of one server's metrics, of either form.

    Raises:
        InputError: A file is of no known form.
    """
    samples = Samples()
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(path, None, None, f"cannot be read: {error}") from error
        if text.lstrip().startswith("{"):
            _take_json(samples, text, str(path))
        else:
            _take_text(samples, text, str(path))
    return samples


def read_server(url: str, start_s: float, end_s: float) -> Samples:
    """Asks a Prometheus server for the metrics' history.

    Args:
        url: Its address, such as ``http://localhost:9090``.
        start_s: From when, unix seconds.
        end_s: Until when.

    Raises:
        InputError: It cannot be reached or does not answer as Prometheus does.
    """
    samples = Samples()
    names = [name for names in GAUGES.values() for name in names]
    for metric in (*names, lora_requests_info.SERIES, CACHE):
        query = {"query": metric, "start": start_s, "end": end_s, "step": QUERY_STEP_S}
        address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(query)}"
        if urllib.parse.urlparse(address).scheme not in ("http", "https"):
            raise InputError(url, "URL", None, "give an http or https address")
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
                text = answer.read().decode("utf-8")
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise InputError(url, metric, None, f"no answer: {error}") from error
        _take_json(samples, text, url)
    return samples


def _take_json(samples: Samples, text: str, source: str) -> None:
    try:
        document = json.loads(text)
        series: Iterable[Any] = document["data"]["result"]
        for one in series:
            labels = {str(k): str(v) for k, v in one["metric"].items()}
            metric = labels.pop("__name__")
            for time_s, value in one.get("values") or [one["value"]]:
                samples.add(metric, labels, float(time_s), float(value))
    except (ValueError, KeyError, TypeError) as error:
        mend = "give the JSON of a range query, data.result[] with metric and values"
        raise InputError(source, None, None, f"{mend} ({error})") from error


def _take_text(samples: Samples, text: str, source: str) -> None:
    scraped: float | None = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = SCRAPE.match(line)
        if mark:
            scraped = _number(mark.group(1), source, number)
        if not line.strip() or line.startswith("#"):
            continue
        match = SAMPLE.match(line)
        if match is None:
            raise InputError(source, f"line {number}", line, "give `metric{labels} value [time]`")
        metric, labels, value, at_ms = match.groups()
        time_s = float(at_ms) / 1e3 if at_ms else scraped
        if time_s is None:
            mend = "give each sample a time, or each scrape a line `# scrape <unix seconds>`"
            raise InputError(source, f"line {number}", None, mend)
        pairs = dict(LABEL.findall(labels or ""))
        samples.add(metric, pairs, time_s, _number(value, source, number))


def _number(text: str, source: str, line: int) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(source, f"line {line}", text, "give a number") from error


def _column(name: str, points: Mapping[float, float]) -> pl.DataFrame:
    times = sorted(points)
    return pl.DataFrame({"t_s": times, name: [points[time] for time in times]})
