"""A trace is dealt by the stated rule, and what the adapters got is measured."""

import numpy as np
import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.fleet.draw import Popularity, RankMix, stream
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.from_trace import Dealing, fleet_from_trace, within_context
from lorapack.trace.trace import SCHEMA, Trace

RANKS = RankMix.parse("8:0.5,16:0.5")


def trace_of(rows):
    return Trace(pl.DataFrame(rows, schema=dict(SCHEMA), orient="row"), "by hand")


def poisson_trace(n_requests, rate_rps=10.0, seed=1):
    gaps = np.random.default_rng(seed).exponential(1 / rate_rps, n_requests)
    return trace_of([(float(at), None, 100, 50) for at in np.cumsum(gaps)])


def deal(trace, **options):
    rule = {"n_adapters": 10, "popularity": Popularity.parse("zipf:1"), "ranks": RANKS}
    return fleet_from_trace(trace, Dealing(**{**rule, **options}))


def test_rates_and_lengths_are_measured_by_hand():
    trace = trace_of([(10.0, "a", 100, 10), (11.0, "b", 200, 20), (13.0, "a", 300, 30)])
    dealt = deal(trace, n_adapters=None)
    a, b = dealt.fleet
    # 3 requests span 3 s, 2 gaps: the window of 3 gaps is 4.5 s.
    assert (a.rate_rps, b.rate_rps) == (0.444444, 0.222222)
    assert (a.prompt_tokens, a.output_tokens) == (200, 20)
    assert (a.cv, b.cv) == (1.0, 1.0)
    assert dealt.trace.frame["arrival_s"].to_list() == [0, 1, 3]


def test_total_rate_and_lengths_are_kept():
    trace = poisson_trace(5000)
    dealt = deal(trace)
    assert dealt.fleet.rate_rps == pytest.approx(4999 / trace.span_s, rel=1e-3)
    assert len(dealt.trace) == 5000
    assert {adapter.prompt_tokens for adapter in dealt.fleet} == {100.0}


def test_dealing_by_zipf_gives_the_zipf_shares():
    fleet = deal(poisson_trace(50_000)).fleet
    weights = 1 / np.arange(1, 11)
    shares = np.array([adapter.rate_rps for adapter in fleet]) / fleet.rate_rps
    assert shares == pytest.approx(weights / weights.sum(), abs=0.01)


def test_poisson_stays_poisson_when_dealt_and_bursts_are_seen():
    for adapter in deal(poisson_trace(50_000)).fleet:
        assert adapter.cv == pytest.approx(1, abs=0.06)
    bursts = trace_of([(100.0 * (n // 50) + 0.01 * (n % 50), "a", 1, 1) for n in range(1000)])
    assert deal(bursts, n_adapters=None).fleet["a"].cv > 5


def test_time_is_stretched_or_the_rate_is_met():
    trace = poisson_trace(1000)
    once, twice = deal(trace), deal(trace, stretch=2.0)
    assert twice.fleet.rate_rps == pytest.approx(once.fleet.rate_rps / 2, rel=1e-4)
    assert twice.trace.span_s == pytest.approx(2 * once.trace.span_s)
    assert deal(trace, rate_rps=40.0).fleet.rate_rps == pytest.approx(40, rel=1e-4)


def test_the_same_seed_deals_the_same_and_another_does_not():
    trace = poisson_trace(1000)
    assert deal(trace, seed=3).fleet == deal(trace, seed=3).fleet
    assert deal(trace, seed=3).trace.frame.equals(deal(trace, seed=3).trace.frame)
    assert deal(trace, seed=4).fleet != deal(trace, seed=3).fleet


def test_another_mix_of_ranks_moves_no_request():
    trace = poisson_trace(1000)
    one, two = deal(trace), deal(trace, ranks=RankMix.parse("32"))
    assert one.trace.frame.equals(two.trace.frame)
    assert {adapter.rank for adapter in two.fleet} == {32}


def test_an_idle_adapter_stays_with_rate_zero_and_is_counted():
    dealt = deal(poisson_trace(20), n_adapters=100)
    idle = [adapter for adapter in dealt.fleet if adapter.rate_rps == 0]
    assert len(dealt.fleet) == 100
    assert idle
    assert f"{len(idle)} of 100 adapters were dealt no request" in dealt.notes[0]
    assert idle[0].prompt_tokens is None


def test_the_rule_is_in_the_header_and_survives_the_file(tmp_path):
    fleet = deal(poisson_trace(100), max_model_len=120, seed=5).fleet
    rule = fleet.provenance["rule"]
    for part in ("10 adapters by zipf:1", "ranks drawn 8:0.5,16:0.5", "stretched by 1"):
        assert part in rule
    assert fleet.provenance["seed"] == "5"
    assert "100 answers cut where the context of 120 tokens ends" in fleet.provenance["notes"]
    fleet.write(tmp_path / "fleet.csv")
    assert Fleet.read(tmp_path / "fleet.csv").provenance == fleet.provenance


def test_a_prompt_over_the_context_is_refused_or_cut():
    frame = trace_of([(0.0, None, 100, 10), (1.0, None, 99, 10), (2.0, None, 5, 10)]).frame
    kept, notes = within_context(frame, 100, "refuse")
    assert kept.select("prompt_tokens", "output_tokens").rows() == [(99, 1), (5, 10)]
    assert notes == [
        "1 requests refused: their prompts exceed 99 tokens",
        "1 answers cut where the context of 100 tokens ends",
    ]
    cut, _ = within_context(frame, 100, "cut")
    assert cut.select("prompt_tokens", "output_tokens").rows() == [(99, 1), (99, 1), (5, 10)]
    assert (cut["prompt_tokens"] + cut["output_tokens"]).max() <= 100
    assert within_context(frame, None, "refuse") == (frame, [])


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"n_adapters": 0}, "adapters"),
        ({"n_adapters": None}, "adapter"),
        ({"stretch": 0.0}, "stretch"),
        ({"stretch": float("nan")}, "stretch"),
        ({"stretch": 1e-12}, "stretch"),
        ({"rate_rps": -1.0}, "rate"),
        ({"max_model_len": 1}, "max_model_len"),
        ({"max_model_len": 50}, None),
        ({"too_long": "drop"}, "too_long"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(options, place):
    with pytest.raises(InputError) as caught:
        deal(poisson_trace(100), **options)
    assert caught.value.place == place


def test_one_request_is_no_rate():
    with pytest.raises(InputError, match="give 2 at different times"):
        deal(trace_of([(0.0, None, 1, 1)]))
    with pytest.raises(InputError, match="give 2 at different times"):
        deal(trace_of([(1.0, None, 1, 1), (1.0, None, 1, 1)]))


@pytest.mark.parametrize(
    "text", ["zipf", "zipf:-1", "zipf:nan", "zipf:x", "uniform:2", "zpf:1", ""]
)
def test_an_unknown_popularity_is_refused(text):
    with pytest.raises(InputError, match=r"zipf:1\.0|uniform"):
        Popularity.parse(text)


@pytest.mark.parametrize("text", ["", "8:", "8:0", "8:-1", "8:nan", "8,8", "513", "0", "x", "8;16"])
def test_an_unusable_mix_of_ranks_is_refused(text):
    with pytest.raises(InputError):
        RankMix.parse(text)


def test_shares_sum_to_one_and_purposes_do_not_share_a_stream():
    for law in ("zipf:1.2", "lognormal:2", "uniform"):
        weights = Popularity.parse(law).weights(50, stream(0, "popularity"))
        assert weights.sum() == pytest.approx(1)
        assert (weights > 0).all()
    assert stream(0, "a").random() != stream(0, "b").random()


def test_the_azure_trace_becomes_a_thousand_adapters(measured_data):
    trace = Trace.read(measured_data / "traces" / "AzureLLMInferenceTrace_conv.csv")
    fleet = deal(trace, n_adapters=1000).fleet
    assert len(fleet) == 1000
    assert fleet.rate_rps == pytest.approx(19_366 / trace.span_s, rel=1e-3)
