"""How much more than its traffic a GPU is to hold."""

from __future__ import annotations

import math

import pytest

from lorapack.fleet.adapter import Adapter
from lorapack.packer.margins import (
    ALONE,
    HEADROOM,
    LADDER,
    MOST_HEADROOM,
    NOISE,
    STEP,
    must_hold,
    must_hold_on_one,
    noise,
)
from lorapack.packer.placement import GpuPlacement, whole
from lorapack.packer.pool import kind_of
from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS

KIND = kind_of(Profile.load())
INTERACTIVE, PAPERS = SERVICE_LEVELS["interactive"], SERVICE_LEVELS["papers"]


def gpu(n: int, rate_rps: float) -> GpuPlacement:
    return GpuPlacement(KIND, tuple(whole(Adapter(f"a{i}", 8, rate_rps) for i in range(n))), n)


@pytest.mark.parametrize("rate_rps", [4.0, 10.0, 25.0, 36.0])
def test_noise_falls_with_the_root_of_the_requests(rate_rps: float) -> None:
    few, many = gpu(20, rate_rps / 20), gpu(80, 4 * rate_rps / 80)
    assert noise(few, INTERACTIVE) == pytest.approx(NOISE / math.sqrt(rate_rps))
    assert noise(few, INTERACTIVE) == pytest.approx(2 * noise(many, INTERACTIVE))
    assert noise(few, PAPERS) < noise(few, INTERACTIVE)


@pytest.mark.parametrize("rate_rps", [0.0, 1e-6, 0.5, 4.0, 10.0, 25.0, 200.0])
@pytest.mark.parametrize("slo", [INTERACTIVE, PAPERS])
def test_headroom_is_a_rung_near_so_many_deviations(rate_rps: float, slo) -> None:
    own = gpu(20, rate_rps / 20)
    must = must_hold(own, slo)
    assert must in LADDER
    wanted = min(HEADROOM * noise(own, slo), MOST_HEADROOM)
    assert abs(must - 1.0 - wanted) <= (STEP if wanted < 0.05 else 0.01)
    assert must_hold_on_one(own, slo) > must


def test_what_is_alone_is_to_hold_what_it_was_tried_with() -> None:
    assert must_hold(gpu(1, 0.1), INTERACTIVE) == must_hold(gpu(1, 20.0), INTERACTIVE) == ALONE
    assert ALONE in LADDER


def test_rungs_rise() -> None:
    assert list(LADDER) == sorted(set(LADDER))
    assert LADDER.index(1.0) > 0
