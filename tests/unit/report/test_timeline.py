"""The timeline is the twin's own run, gathered."""

from __future__ import annotations

import pytest

from lorapack.report import figures, timeline


@pytest.fixture
def line(plan):
    return timeline.simulated(plan, plan.gpus[0], duration_s=120.0)


def test_spans_keep_the_runs_totals(line):
    steps = line.result.steps
    assert len(line.spans) == timeline.SPANS
    for column, total in (("adapter_loads", "adapter_loads"), ("preemptions", "preempted")):
        assert sum(span[column] for span in line.spans) == steps[total].sum()
    assert max(span["running"] for span in line.spans) <= line.result.max_running
    assert 0 < max(span["kv_usage"] for span in line.spans) <= 1


def test_the_planned_rates_are_simulated(plan, line):
    rate = sum(row.rate_rps for row in plan.gpus[0].adapters) * 1.1
    assert line.result.offered == pytest.approx(rate * 120, rel=0.2)


def test_what_never_happened_is_not_drawn(line):
    keys = {figure.key for figure in figures.timeline(line)}
    assert {"timeline-requests", "timeline-kv"} <= keys
    assert ("timeline-preemptions" in keys) == (line.result.preemptions > 0)


def test_all_figures_share_one_time_axis(line):
    drawn = figures.timeline(line)
    domains = [figure.spec["encoding"]["x"]["scale"]["domain"] for figure in drawn]
    assert domains == [[0, 120.0]] * len(drawn)


def test_the_busiest_gpu_has_the_least_margin(plan):
    assert timeline.busiest(plan).gpu == "gpu-0"
