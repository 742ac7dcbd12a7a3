from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.twin.service_level import SERVICE_LEVELS, judge, service_level

INTERACTIVE = SERVICE_LEVELS["interactive"]


@dataclass
class Tpot:
    mean: float = 40.0


@dataclass
class Run:
    """The part of a Result that is judged."""

    offered: int = 100
    served_fraction: float = 1.0
    ttft_with_unserved_p99_ms: float = 300.0
    tpot_ms: Tpot = field(default_factory=Tpot)
    judged: tuple[tuple[str, int, int], ...] = (("a", 10, 10),)

    @property
    def per_adapter(self) -> pl.DataFrame:
        columns = ["adapter", "judged_offered", "judged_completed"]
        return pl.DataFrame(self.judged, schema=columns, orient="row")


def broken(level, **figures):
    return [(v.part, v.adapter) for v in judge(level, Run(**figures))]


def test_levels_are_those_of_the_design():
    assert INTERACTIVE.min_served == 0.98
    assert INTERACTIVE.ttft_p99_ms == 2000.0
    assert INTERACTIVE.adapter_min_served == 0.9
    assert SERVICE_LEVELS["batch"].ttft_p99_ms is None
    assert SERVICE_LEVELS["papers"].min_served == 0.9


def test_run_that_keeps_every_part_breaks_nothing():
    assert broken(INTERACTIVE) == []


def test_each_part_is_listed_when_it_is_broken():
    assert broken(INTERACTIVE, served_fraction=0.97) == [("min_served", None)]
    assert broken(INTERACTIVE, ttft_with_unserved_p99_ms=2001.0) == [("ttft_p99_ms", None)]
    assert broken(INTERACTIVE.with_parts(tpot_ms=30.0)) == [("tpot_ms", None)]


def test_adapter_with_fewer_than_eight_judged_requests_is_not_judged():
    assert broken(INTERACTIVE, judged=(("a", 7, 0),)) == []
    assert broken(INTERACTIVE, judged=(("a", 8, 7), ("b", 10, 9))) == [("adapter_min_served", "a")]


def test_infinite_wait_breaks_and_no_second_token_anywhere_does_not():
    assert broken(INTERACTIVE, ttft_with_unserved_p99_ms=float("inf")) == [("ttft_p99_ms", None)]
    nothing = Tpot(float("nan"))
    assert broken(INTERACTIVE.with_parts(tpot_ms=30.0), tpot_ms=nothing) == []


def test_nothing_offered_breaks_nothing():
    assert broken(INTERACTIVE, offered=0, served_fraction=0.0) == []


def test_papers_level_promises_no_adapter_and_no_latency():
    figures = {"served_fraction": 0.91, "ttft_with_unserved_p99_ms": 1e6, "judged": (("a", 9, 0),)}
    assert broken(SERVICE_LEVELS["papers"], **figures) == []


def test_unknown_level_and_senseless_parts_are_refused():
    with pytest.raises(InputError, match="interactive"):
        service_level("interactiv")
    with pytest.raises(InputError, match="fraction"):
        INTERACTIVE.with_parts(min_served=98.0)
    with pytest.raises(InputError, match="positive"):
        INTERACTIVE.with_parts(ttft_p99_ms=-1.0)
