"""What stands between the client and the engine: the API server, and how the client sees tokens.

The API server handles requests one by one, and is blocked while it loads a tokenizer at an
adapter's first use. A client's TTFT is the engine's plus ``first_token_*``; of a step that makes
``R`` tokens, a share ``merged(R)`` reaches the client together with the token before::

    merged(R) = merged_fraction (1 - exp(-R / merged_rise_requests))        R < merged_knee_requests
                merged_tail_fraction exp(-(R - knee) / merged_decay_requests)        from there on

since below the knee the server does not yield between the outputs of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        merged_ppm: By requests scheduled in a step, 0..=`max_num_seqs`: millionths of its tokens
            that the client sees merged with the one before.
    """

    request_ps: int
    first_use_ps: int
    first_token_fixed_ps: int
    first_token_request_ps: int
    first_token_step_ppm: int
    merged_ppm: NDArray[np.uint32]


@dataclass(frozen=True)
class FrontEnd:
    """Constants of the API server and of the client's view.

    Attributes:
        request_ms: API-server time a request.
        first_use_ms: Blocked further at an adapter's first request.
        first_token_fixed_ms: Added to every TTFT; may be negative.
        first_token_request_ms: Added to a TTFT for each request scheduled in its step.
        first_token_step_fraction: Added to a TTFT: this share of its step's duration.
        merged_fraction: Share of tokens merged where many, but fewer than the knee, are made.
        merged_rise_requests: Requests over which that share is reached.
        merged_knee_requests: Requests a step from which on the server yields between outputs.
        merged_tail_fraction: Share of tokens merged at the knee.
        merged_decay_requests: Requests over which it falls from there.
    """

    request_ms: float = number()
    first_use_ms: float = number()
    first_token_fixed_ms: float = number(low=-1e6)
    first_token_request_ms: float = number()
    first_token_step_fraction: float = number()
    merged_fraction: float = number(high=0.999)
    merged_rise_requests: float = number(above=True)
    merged_knee_requests: float = number()
    merged_tail_fraction: float = number(high=0.999)
    merged_decay_requests: float = number(above=True)

    @classmethod
    def none(cls) -> FrontEnd:
        """No front end: what the engine did is what the client sees."""
        return cls(
            request_ms=0.0,
            first_use_ms=0.0,
            first_token_fixed_ms=0.0,
            first_token_request_ms=0.0,
            first_token_step_fraction=0.0,
            merged_fraction=0.0,
            merged_rise_requests=1.0,
            merged_knee_requests=0.0,
            merged_tail_fraction=0.0,
            merged_decay_requests=1.0,
        )

    def merged(self, scheduled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of a step's tokens seen merged, by the requests scheduled in it."""
        rise = self.merged_fraction * (1 - np.exp(-scheduled / self.merged_rise_requests))
        beyond = np.maximum(scheduled - self.merged_knee_requests, 0.0)
        tail = self.merged_tail_fraction * np.exp(-beyond / self.merged_decay_requests)
        return np.where(scheduled < self.merged_knee_requests, rise, tail)

    def tables(self, max_num_seqs: int) -> FrontEndTables:
        """The front end for an engine that schedules up to ``max_num_seqs`` requests a step."""
        merged = self.merged(np.arange(max_num_seqs + 1, dtype=np.float64))
        merged[0] = 0.0
        return FrontEndTables(
            request_ps=round(self.request_ms * 1e9),
            first_use_ps=round(self.first_use_ms * 1e9),
            first_token_fixed_ps=round(self.first_token_fixed_ms * 1e9),
            first_token_request_ps=round(self.first_token_request_ms * 1e9),
            first_token_step_ppm=round(self.first_token_step_fraction * 1e6),
            merged_ppm=np.rint(merged * 1e6).astype(np.uint32),
        )
