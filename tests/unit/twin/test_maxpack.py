"""Maxpack with the real twin, on a short window."""

from __future__ import annotations

import pytest

from lorapack.errors import Infeasible
from lorapack.profile.profile import Profile
from lorapack.twin.maxpack import maxpack
from lorapack.twin.trial import Horizon

PROFILE = Profile.load()
SHORT = Horizon(duration_s=240.0, warmup_s=60.0, judge_until_s=180.0)


@pytest.fixture(scope="module")
def found():
    return maxpack(PROFILE, rate_rps=2.0, rank=16, horizon=SHORT)


def test_count_is_held_by_its_slots_and_one_more_by_none(found):
    at = [p for p in found.curve if p.adapters == found.maxpack]
    beyond = [p for p in found.curve if p.adapters == found.maxpack + 1]
    assert any(p.holds and p.max_loras == found.max_loras for p in at)
    assert beyond
    assert not any(p.holds for p in beyond)


def test_throughput_of_an_overloaded_gpu_rises_with_slots_and_falls_again():
    curve = maxpack(PROFILE, rate_rps=0.4, rank=32, horizon=SHORT).curve
    most = max(point.adapters for point in curve)
    line = [p.throughput_tps for p in curve if p.adapters == most and p.starts]
    best = line.index(max(line))
    assert 0 < best < len(line) - 1
    assert max(line) > 1.1 * line[0]
    assert max(line) > 1.1 * line[-1]


def test_slots_past_the_memory_limit_stand_in_the_curve_as_refused(found):
    assert any(not point.starts for point in found.curve)


def test_same_question_same_answer(found):
    assert maxpack(PROFILE, rate_rps=2.0, rank=16, horizon=SHORT) == found


def test_more_load_an_adapter_means_fewer_adapters(found):
    assert maxpack(PROFILE, rate_rps=4.0, rank=16, horizon=SHORT).maxpack < found.maxpack


def test_keys_are_those_of_the_interface(found):
    document = found.to_dict()
    assert {"maxpack", "max_loras", "curve"} <= set(document)
    assert {"adapters", "max_loras", "throughput_tps", "holds", "starts"} <= set(
        document["curve"][0]
    )


def test_rank_that_starts_nowhere_is_infeasible():
    from dataclasses import replace

    small = replace(PROFILE, engine=replace(PROFILE.engine, gpu_memory_utilization=0.5))
    with pytest.raises(Infeasible, match="rank 512"):
        maxpack(small, rate_rps=1.0, rank=512)
