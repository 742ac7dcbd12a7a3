"""Physics against what the twin simulates, where it should be right."""

import pytest

from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.predictor.features import FEATURE_INDEX, FEATURES, features_of
from lorapack.profile.profile import Profile
from lorapack.twin.run import run
from lorapack.twin.scenario import Scenario


def scenario(rate_rps, n_adapters=16, **more):
    fleet = Fleet(Adapter(f"a{i}", 16, rate_rps) for i in range(n_adapters))
    settings = {"max_loras": 16, "duration_s": 900.0, "warm": True, **more}
    return Scenario(Profile.load(), fleet, **settings)


def solved(scenario, name):
    return float(features_of(scenario)[0, FEATURE_INDEX[name]])


@pytest.mark.parametrize("rate_rps", [0.05, 0.3, 1.0, 6.0])
def test_served_and_itl_are_near_the_twin(rate_rps):
    asked = scenario(rate_rps)
    result = run(asked)
    assert solved(asked, "served_fraction") == pytest.approx(result.served_fraction, rel=0.08)
    assert solved(asked, "itl_s") * 1e3 == pytest.approx(result.itl_ms.mean, rel=0.15)
    assert solved(asked, "running") == pytest.approx(result.mean_running, rel=0.15)


def test_load_grows_with_the_rate_and_capacity_does_not():
    low, high = scenario(0.5), scenario(1.0)
    assert solved(high, "load") == pytest.approx(2 * solved(low, "load"), rel=1e-3)
    assert solved(high, "capacity_rps") == pytest.approx(solved(low, "capacity_rps"), rel=1e-3)


def test_starved_slots_show_in_the_wait():
    ample, scarce = scenario(0.3, 64, max_loras=64), scenario(0.3, 64, max_loras=8)
    assert solved(ample, "slot_wait_s") == 0.0
    assert solved(scarce, "slot_wait_s") > 1.0


def test_every_feature_has_a_name_a_unit_and_a_meaning():
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert all(feature.unit and feature.meaning for feature in FEATURES)
    assert any(feature.raw for feature in FEATURES)


def test_a_slot_costs_what_the_step_tables_say():
    # The price of slots is read off two settings: it must hold at any other.
    step = Profile.load().step_time
    one, two, many = (step.tables(slots, 16, 2048).base.astype(float) for slots in (1, 2, 300))
    assert many == pytest.approx(one + 299 * (two - one), rel=1e-6)
