"""Clients become adapters: drawn, scaled, with lengths lent to those who have none."""

import math

import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.fleet.draw import RankMix
from lorapack.fleet.from_clients import Drawing, fleet_from_clients, with_lengths
from lorapack.trace.servegen import Clients, read_clients

SIDES = [f"{side}_{part}" for side in ("input", "output") for part in ("mean", "p10", "p90")]


def client(name, rate, peak, lengths=(100.0, 50.0, 200.0, 10.0, 5.0, 20.0), cv=2.0):
    return {
        "client": name,
        "mean_rate_rps": rate,
        "peak_hour_rate_rps": peak,
        "cv": cv,
        "gaps": "weibull",
        **dict(zip(SIDES, lengths, strict=True)),
    }


HOURLY = pl.DataFrame(
    {
        "client": ["p-0", "p-1", "p-0", "p-1"],
        "hour": [0, 0, 1, 1],
        "rate_rps": [1.0, 5.0, 3.0, 4.0],
    }
)
CLIENTS = Clients(
    pl.DataFrame([client("p-0", 1.0, 3.0), client("p-1", 4.0, 8.0), client("q-0", 0.5, 0.6)]),
    HOURLY,
    "clients.csv",
)


def draw(clients=CLIENTS, **options):
    rule = {"n_adapters": None, "ranks": RankMix.parse("8"), "scale": 1.0}
    return fleet_from_clients(clients, Drawing(**{**rule, **options}))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ("mean", {"p-0": 1.0, "p-1": 4.0, "q-0": 0.5}),
        ("peak", {"p-0": 3.0, "p-1": 8.0, "q-0": 0.6}),
        ("hour:0", {"p-0": 1.0, "p-1": 5.0, "q-0": 0.0}),
        ("busiest", {"p-0": 3.0, "p-1": 4.0, "q-0": 0.0}),
    ],
)
def test_rates_by_each_rule(rates, expected):
    fleet, notes = draw(rates=rates)
    assert {adapter.adapter: adapter.rate_rps for adapter in fleet} == expected
    assert any("rate of 0" in note for note in notes) == (0.0 in expected.values())


def test_the_hottest_is_scaled_to_what_one_gpu_holds():
    fleet, _ = draw(scale=None, hottest_rps=2.0)
    assert max(adapter.rate_rps for adapter in fleet) == 2.0
    assert "scaled by 0.25" in fleet.provenance["rule"]


def test_past_the_last_client_each_comes_again():
    fleet, _ = draw(n_adapters=7)
    names = [adapter.adapter for adapter in fleet]
    assert set(names[:3]) == {"p-0", "p-1", "q-0"}
    assert all(name.endswith("-copy2") for name in names[3:6])
    assert names[6].endswith("-copy3")
    assert fleet["p-1-copy2"].rate_rps == fleet["p-1"].rate_rps


def test_burstiness_is_the_client_s():
    fleet, _ = draw()
    assert {(adapter.cv, adapter.gaps) for adapter in fleet} == {(2.0, "weibull")}
    clipped, notes = draw(Clients(pl.DataFrame([client("a-0", 1.0, 1.0, cv=0.0)]), None, "c"))
    assert clipped["a-0"].cv == 0.01
    assert "1 cv values moved" in notes[0]


def test_lengths_are_lognormal_between_p10_and_p90_or_means_alone():
    fleet, _ = draw()
    adapter = fleet["p-0"]
    assert adapter.lengths == "lognormal"
    assert adapter.prompt_sigma == pytest.approx(math.log(4) / (2 * 1.28155), rel=1e-3)
    plain, _ = draw(lengths="means")
    assert plain["p-0"].lengths == "profile"
    assert plain["p-0"].prompt_tokens == 100.0


def test_blank_lengths_are_the_nearest_client_s_of_the_same_pool():
    blank = (None,) * 6
    other = (7.0, 1.0, 9.0, 8.0, 2.0, 9.0)
    frame = pl.DataFrame(
        [
            client("p-0", 1.0, 1.0),
            client("p-1", 100.0, 1.0, other),
            client("q-0", 50.0, 1.0),
            client("p-2", 60.0, 1.0, blank),
        ]
    )
    found, borrowed = with_lengths(frame)
    assert borrowed == 1
    assert found["input_mean"].to_list() == [100, 7, 100, 7]
    assert found["output_p90"].to_list() == [20, 9, 20, 9]


def test_the_same_seed_draws_the_same():
    assert draw(n_adapters=2, seed=1)[0] == draw(n_adapters=2, seed=1)[0]
    draws = {draw(n_adapters=2, seed=seed)[0].adapters for seed in range(8)}
    assert len(draws) > 1


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"rates": "hour:9"}, "rates"),
        ({"rates": "hour"}, "rates"),
        ({"rates": "noon"}, "rates"),
        ({"scale": 0.0}, "scale"),
        ({"scale": 1e9}, "scale"),
        ({"hottest_rps": -1.0}, "hottest-rps"),
        ({"lengths": "gamma"}, "lengths"),
        ({"n_adapters": 0}, "adapters"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(options, place):
    with pytest.raises(InputError) as caught:
        draw(**options)
    assert caught.value.place == place


def test_hours_need_the_hourly_file_and_rates_must_not_all_be_zero():
    without = Clients(CLIENTS.frame, None, "clients.csv")
    with pytest.raises(InputError, match="hourly rates"):
        draw(without, rates="busiest")
    zero = Clients(pl.DataFrame([client("a-0", 0.0, 0.0)]), None, "clients.csv")
    with pytest.raises(InputError, match="all rates drawn are 0"):
        draw(zero, scale=None)


def test_the_measured_clients_become_two_hundred_adapters(measured_data):
    clients = read_clients(measured_data / "servegen")
    fleet, notes = draw(clients, n_adapters=200, scale=None, rates="busiest", hottest_rps=2.0)
    assert len(fleet) == 200
    assert "20 clients without lengths" in notes[0]
    assert max(adapter.rate_rps for adapter in fleet) == 2.0
