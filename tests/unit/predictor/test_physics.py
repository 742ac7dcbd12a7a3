"""Physics against what the twin simulates, where it should be right."""

from dataclasses import replace

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


def test_a_lone_adapter_on_one_slot_waits_for_nobody():
    asked = scenario(12.0, 1, max_loras=1)
    result = run(asked)
    assert solved(asked, "slot_served") == 1.0
    assert solved(asked, "served_fraction") == pytest.approx(result.served_fraction, rel=0.05)
    assert solved(asked, "itl_s") * 1e3 == pytest.approx(result.itl_ms.mean, rel=0.1)


@pytest.mark.parametrize("max_loras", [0, 16])
def test_the_base_model_alone_is_near_the_twin(max_loras):
    fleet = Fleet([Adapter("base", 0, 6.0)])
    rank = 16 if max_loras else None
    asked = Scenario(
        Profile.load(),
        fleet,
        max_loras=max_loras,
        max_lora_rank=rank,
        duration_s=900.0,
        warm=True,
    )
    result = run(asked)
    assert solved(asked, "served_fraction") == pytest.approx(result.served_fraction, rel=0.05)
    assert solved(asked, "itl_s") * 1e3 == pytest.approx(result.itl_ms.mean, rel=0.15)


def test_long_prompts_in_a_full_cache_are_computed_in_vain():
    # Prompts of several chunks: admitted for their first, pushed out for want of the rest's blocks.
    fleet = Fleet(
        Adapter(f"a{i}", 16, 0.5, prompt_tokens=9000, output_tokens=300, lengths="constant")
        for i in range(8)
    )
    asked = Scenario(Profile.load(), fleet, max_loras=8, duration_s=900.0, warm=True)
    result = run(asked)
    assert result.preemptions > 0.5 * result.completed
    assert solved(asked, "futile_fraction") > 0.2
    assert solved(asked, "served_fraction") == pytest.approx(result.served_fraction, rel=0.25)


def test_an_adapter_that_never_goes_idle_keeps_its_slot():
    # 16 adapters, 2 slots, each asking for tens of requests in service: those who come first stay.
    asked = scenario(8.0, 16, max_loras=2)
    result = run(asked)
    assert result.served_fraction < 0.3
    assert solved(asked, "served_fraction") == pytest.approx(result.served_fraction, rel=0.4)


def test_clients_who_hold_back_ask_for_less_of_the_slots():
    # Queues fill the room, and a turn works off one: it ends sooner than the batch could be filled.
    asked = scenario(0.9, 150, max_loras=12, max_in_flight=9000)
    result = run(asked)
    assert result.dropped > 0.5 * result.offered
    assert result.mean_running < 0.9 * solved(asked, "running_limit")
    assert solved(asked, "running") == pytest.approx(result.mean_running, rel=0.15)
    assert solved(asked, "served_fraction") == pytest.approx(result.served_fraction, rel=0.1)


def test_adapters_push_each_other_out_where_all_slots_are_in_use():
    asked = scenario(0.5, 260, max_loras=170, max_in_flight=20_000, duration_s=1800.0)
    result = run(asked)
    assert result.adapter_loads > result.completed
    load_share = result.load_s / result.busy_s
    assert solved(asked, "load_fraction") == pytest.approx(load_share, rel=0.5)
    assert solved(asked, "served_fraction") == pytest.approx(result.served_fraction, rel=0.1)


def test_turns_wait_for_slots_even_where_there_are_enough_on_average():
    asked = scenario(0.05, 80, max_loras=20, duration_s=3600.0)
    ample = replace(asked, max_loras=80)
    assert solved(asked, "slot_pressure") < 1.0
    assert run(asked).ttft_ms.mean > 1.5 * run(ample).ttft_ms.mean
    assert solved(asked, "ttft_s") > 1.2 * solved(ample, "ttft_s")


def test_scrapes_hold_up_first_tokens_and_join_others():
    quiet = scenario(0.1, 80, max_loras=80, duration_s=3600.0)
    scraped = replace(quiet, scrape_interval_s=2.0)
    result = run(scraped)
    assert result.ttft_ms.mean > 1.5 * run(quiet).ttft_ms.mean
    assert solved(quiet, "scrape_s") == solved(quiet, "scrape_hz") == 0.0
    assert solved(scraped, "scrape_hz") == 0.5
    assert solved(scraped, "ttft_s") * 1e3 == pytest.approx(result.ttft_ms.mean, rel=0.25)
    assert solved(scraped, "itl_s") * 1e3 == pytest.approx(result.itl_ms.mean, rel=0.1)


def test_scrapes_that_come_after_the_window_are_none():
    quiet = scenario(0.1)
    late = replace(quiet, scrape_interval_s=quiet.duration_s)
    assert (features_of(quiet) == features_of(late)).all()


def test_first_uses_of_rare_adapters_do_not_queue_with_the_others():
    # All the requests of one kind come at once and are soon seen, those of the other are spread.
    asked = scenario(0.1, 300, max_loras=16, warm=False)
    mixed = replace(
        asked,
        fleet=Fleet(
            replace(adapter, rate_rps=0.298 if i % 3 == 0 else 0.001)
            for i, adapter in enumerate(asked.fleet)
        ),
    )
    warm = [replace(one, warm=True) for one in (asked, mixed)]
    even, uneven = (
        solved(cold, "ttft_s") - solved(hot, "ttft_s")
        for cold, hot in zip((asked, mixed), warm, strict=True)
    )
    assert even > 2 * uneven > 0


def test_first_uses_queue_only_where_they_come_faster_than_they_are_done():
    few, many = (scenario(rate_rps, 400, warm=False) for rate_rps in (0.0005, 0.5))
    warm = scenario(0.0005, 400)
    assert solved(few, "ttft_s") < solved(warm, "ttft_s") + 1.0
    assert solved(many, "ttft_s") > 10.0


def test_clumps_are_seen_from_within():
    calm, bursty = scenario(0.3), scenario(0.3)
    bursty = replace(bursty, fleet=Fleet(replace(a, cv=6.0) for a in calm.fleet))
    assert solved(calm, "clump") == pytest.approx(1.0)
    assert solved(bursty, "clump") == pytest.approx(0.5 * (36 + 1))
    assert solved(bursty, "ttft_s") > solved(calm, "ttft_s")
    assert solved(bursty, "distinct_adapters") < solved(calm, "distinct_adapters")


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
