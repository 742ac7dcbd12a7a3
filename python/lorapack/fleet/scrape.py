"""Prometheus scrapes: fetched or read, parsed by prometheus_client, two of them made a window."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lorapack.errors import InputError
from lorapack.fleet.read import file_bytes, utf8_text

LARGEST_ANSWER_BYTES = 64 * 2**20
"""A server that answers with more than this is not the one meant."""

TIMEOUT_S = 30.0

Labels = tuple[tuple[str, str], ...]
"""A series' labels, sorted."""


@dataclass(frozen=True)
class Scrape:
    """One reading of a server's metrics.

    Attributes:
        source: The URL or the file.
        series: Name (dots as underscores, ``_total`` and the like kept) -> labels -> value.
    """

    source: str
    series: Mapping[str, Mapping[Labels, float]]

    def has(self, name: str) -> bool:
        """Whether any series has this name."""
        return name in self.series

    def __sub__(self, earlier: Scrape) -> Scrape:
        """What counters grew by since an earlier scrape; one that was reset counts from 0."""
        grown: dict[str, dict[Labels, float]] = {}
        for name, by_labels in self.series.items():
            before = earlier.series.get(name, {})
            grown[name] = {
                labels: value - start if (start := before.get(labels, 0.0)) <= value else value
                for labels, value in by_labels.items()
            }
        return Scrape(self.source, grown)

    def totals(
        self,
        names: Iterable[str],
        adapter_of: Callable[[Mapping[str, str]], str | None],
        **where: str,
    ) -> dict[str, float]:
        """Sums the first present of some series by adapter.

        Args:
            names: Spellings of one series, newest first.
            adapter_of: The adapter that labels name; ``None`` leaves the series out.
            where: Labels that must have these values.

        Returns:
            Adapter -> sum; empty when no spelling is present.
        """
        for name in names:
            if name not in self.series:
                continue
            sums: dict[str, float] = {}
            for pairs, value in self.series[name].items():
                labels = dict(pairs)
                adapter = adapter_of(labels)
                if adapter is not None and all(labels.get(k) == v for k, v in where.items()):
                    sums[adapter] = sums.get(adapter, 0.0) + value
            return sums
        return {}


@dataclass(frozen=True)
class Window:
    """What was seen in a stretch of time.

    Attributes:
        grown: What counters grew by (gauges mean nothing there).
        last: The scrape at its end.
        seconds: Its length.
    """

    grown: Scrape
    last: Scrape
    seconds: float


def read_scrape(source: str) -> Scrape:
    """Reads one scrape from a URL or a file.

    Args:
        source: ``http://host:port/metrics`` or a file saved from it.

    Returns:
        Its series.

    Raises:
        InputError: It cannot be fetched, or is no Prometheus text.
    """
    return parse_scrape(source, content_of(source))


def read_window(sources: Iterable[str], window_s: float | None) -> Window:
    """Reads a window.

    Args:
        sources: One URL (scraped twice, ``window_s`` apart, 60 by default), two files (the earlier
            first) or one file (its counters count from the server's start).
        window_s: Seconds between the two, or since the start.

    Returns:
        What counters grew by, the last scrape, and the seconds between.

    Raises:
        InputError: There are more sources, or the window of files is not said.
    """
    given = list(sources)
    if window_s is not None and not 0 < window_s < float("inf"):
        raise InputError(None, "window", window_s, "give a positive number of seconds")
    if len(given) == 1 and is_url(given[0]):
        first, start = read_scrape(given[0]), time.monotonic()
        time.sleep(60.0 if window_s is None else window_s)
        second, end = read_scrape(given[0]), time.monotonic()
        return Window(second - first, second, end - start)
    if not 1 <= len(given) <= 2 or any(map(is_url, given)):
        raise InputError(None, "sources", given, "give one URL, or one or two saved scrapes")
    if window_s is None:
        mend = "say how many seconds lie between the two (or since the server's start)"
        raise InputError(None, "window", None, mend)
    last = read_scrape(given[-1])
    grown = last - read_scrape(given[0]) if len(given) == 2 else last
    return Window(grown, last, window_s)


def parse_scrape(source: str, content: bytes) -> Scrape:
    """Parses Prometheus text.

    Args:
        source: Where it is from, for errors.
        content: The text's bytes.

    Returns:
        Its series.

    Raises:
        InputError: It is no such text, or a value is no number.
    """
    from prometheus_client.parser import text_string_to_metric_families

    text = utf8_text(source, content).replace("\r\n", "\n")
    series: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {k.replace(".", "_"): v for k, v in sample.labels.items()}
                key = tuple(sorted(labels.items()))
                by_labels = series.setdefault(sample.name.replace(".", "_"), {})
                by_labels[key] = by_labels.get(key, 0.0) + float(sample.value)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        mend = f"give a scrape in Prometheus' text format ({error})"
        raise InputError(source, None, text[:60], mend) from error
    if not series:
        raise InputError(source, None, text[:60], "holds no metric: scrape /metrics")
    return Scrape(source, series)


def is_url(source: str) -> bool:
    """Whether a source is to be fetched."""
    return source.startswith(("http://", "https://"))


def content_of(source: str) -> bytes:
    """The bytes of a URL or a file.

    Args:
        source: ``http://``, ``https://``, or a path. A key for the server is taken from the
            environment's ``LORAPACK_API_KEY``, as a bearer token.

    Returns:
        All of them.

    Raises:
        InputError: It cannot be fetched or read.
    """
    if not is_url(source):
        return file_bytes(source)
    key = os.environ.get("LORAPACK_API_KEY")
    try:
        request = urllib.request.Request(source)
        if key:
            # Not sent on to wherever a redirect points.
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(LARGEST_ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        mend = "check the address" if error.code != 401 else "set LORAPACK_API_KEY"
        raise InputError(source, None, f"HTTP {error.code}", mend) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(source, None, None, f"cannot be fetched: {error}") from error
    if len(content) > LARGEST_ANSWER_BYTES:
        raise InputError(source, None, f"over {LARGEST_ANSWER_BYTES} bytes", "check the address")
    return content
