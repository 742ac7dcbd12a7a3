"""What stands between the client and the engine: the API server, and how the client sees tokens.

The API server does one thing at a time: it takes requests, is blocked while it loads a tokenizer at
an adapter's first use, and answers those who scrape the engine's metrics. A client's TTFT is the
engine's plus ``first_token_*``.

A scrape renders every time series of ``vllm:lora_requests_info``: one for each pair of sets of
adapters (that wait, that run) seen since the start, and none is ever dropped
(``v1/metrics/loggers.py`` of vLLM 0.8.5). Tokens made meanwhile reach clients when it is over,
those of several steps in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorapack.profile.section import number


@dataclass(frozen=True)
class FrontEndTables:
    """The front end in whole picoseconds and millionths, as the twin reads it.

    Attributes:
        request_ps: API-server time a request, serial.
        first_use_ps: Further serial time at an adapter's first request.
        first_token_fixed_ps: Added to every TTFT; may be negative.
        first_token_request_ps: Added to a TTFT for each request scheduled in its step.
        first_token_step_ppm: Added to a TTFT: millionths of its step's duration.
        series_ps: To render one time series of ``vllm:lora_requests_info``.
        series_adapter_ps: Further, for each adapter that it names.
    """

    request_ps: int
    first_use_ps: int
    first_token_fixed_ps: int
    first_token_request_ps: int
    first_token_step_ppm: int
    series_ps: int
    series_adapter_ps: int


@dataclass(frozen=True)
class FrontEnd:
    """Constants of the API server and of the client's view.

    Attributes:
        request_ms: API-server time a request.
        first_use_ms: Blocked further at an adapter's first request.
        first_token_fixed_ms: Added to every TTFT; may be negative.
        first_token_request_ms: Added to a TTFT for each request scheduled in its step.
        first_token_step_fraction: Added to a TTFT: this share of its step's duration.
        series_us: API-server time to render one time series of ``vllm:lora_requests_info``, in a
            scrape of the engine's metrics; ``None``: not measured, none.
        series_adapter_us: Further time for each adapter that the series names.
    """

    request_ms: float = number()
    first_use_ms: float = number()
    first_token_fixed_ms: float = number(low=-1e6)
    first_token_request_ms: float = number()
    first_token_step_fraction: float = number()
    series_us: float | None = number(optional=True)
    series_adapter_us: float | None = number(optional=True)

    @classmethod
    def none(cls) -> FrontEnd:
        """No front end: what the engine did is what the client sees."""
        return cls(
            request_ms=0.0,
            first_use_ms=0.0,
            first_token_fixed_ms=0.0,
            first_token_request_ms=0.0,
            first_token_step_fraction=0.0,
        )

    def tables(self) -> FrontEndTables:
        """The front end as the twin reads it."""
        return FrontEndTables(
            request_ps=round(self.request_ms * 1e9),
            first_use_ps=round(self.first_use_ms * 1e9),
            first_token_fixed_ps=round(self.first_token_fixed_ms * 1e9),
            first_token_request_ps=round(self.first_token_request_ms * 1e9),
            first_token_step_ppm=round(self.first_token_step_fraction * 1e6),
            series_ps=round((self.series_us or 0.0) * 1e6),
            series_adapter_ps=round((self.series_adapter_us or 0.0) * 1e6),
        )
