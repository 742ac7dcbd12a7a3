import dataclasses

import numpy as np
import polars as pl
import pytest

from lorapack.errors import Infeasible, InputError
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.trace.trace import SCHEMA, Trace
from lorapack.twin.arrivals import Piecewise
from lorapack.twin.lengths import Constant, Empirical
from lorapack.twin.native import native_scenario, stream_key
from lorapack.twin.run import run
from lorapack.twin.scenario import Scenario, rounded_up_rank


def test_what_is_left_out_takes_the_profile_s_value(profile, fleet):
    engine = Scenario(profile, fleet, max_loras=4).engine
    assert engine.block_size == profile.engine.block_size
    assert engine.max_num_seqs == profile.engine.max_num_seqs
    assert engine.max_num_batched_tokens == profile.engine.max_num_batched_tokens
    assert engine.max_model_len == profile.engine.max_model_len
    assert engine.rule_set == profile.rule_set
    assert engine.max_lora_rank == 16  # the fleet's largest, already one that vLLM takes
    assert engine.max_cpu_loras == 6
    assert engine.kv_cache_tokens == profile.memory_plan(4, 16).kv_cache_tokens


def test_without_max_loras_every_adapter_has_a_slot(profile, fleet):
    assert Scenario(profile, fleet).engine.max_loras == 6


def test_without_max_loras_memory_sets_the_limit(profile):
    many = Fleet([Adapter(f"a{i}", rank=64, rate_rps=0.01) for i in range(2000)])
    engine = Scenario(profile, many).engine
    assert profile.memory_plan(engine.max_loras, 64).starts
    assert not profile.memory_plan(engine.max_loras + 1, 64).starts


def test_a_fleet_of_the_base_model_alone_switches_lora_off(profile):
    engine = Scenario(profile, Fleet([Adapter("base", rank=0, rate_rps=1.0)])).engine
    assert (engine.max_loras, engine.max_lora_rank) == (0, 0)


def test_a_given_kv_cache_cuts_the_longest_sequence_to_what_it_holds(profile, fleet):
    engine = Scenario(profile, fleet, kv_cache_tokens=1600).engine
    assert engine.max_model_len == 1600 - engine.block_size


def test_a_given_longest_sequence_that_does_not_fit_is_infeasible(profile, fleet):
    scenario = Scenario(profile, fleet, kv_cache_tokens=1600, max_model_len=1600)
    with pytest.raises(Infeasible, match="1584"):
        _ = scenario.engine


@pytest.mark.parametrize(
    ("max_loras", "refusal", "words"),
    [
        (400, "max_model_len", "one sequence of 131072 tokens"),
        (4000, "cuda_out_of_memory", "4000 slots of rank 16"),
    ],
)
def test_an_engine_that_would_not_start_says_why_and_what_mends_it(
    profile, fleet, max_loras, refusal, words
):
    scenario = Scenario(profile, fleet, max_loras=max_loras)
    with pytest.raises(Infeasible, match=refusal) as caught:
        native_scenario(scenario)
    assert words in caught.value.limit
    assert "--max-loras" in caught.value.nearest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_loras", -1),
        ("max_loras", 0),
        ("max_loras", 2.0),
        ("max_loras", True),
        ("max_lora_rank", 12),
        ("max_lora_rank", 8),
        ("max_cpu_loras", 0),
        ("kv_cache_tokens", 16),
        ("max_model_len", 1),
        ("max_num_seqs", 0),
        ("max_num_seqs", 4096),
        ("max_num_batched_tokens", 100),
        ("block_size", 0),
        ("gpu_memory_utilization", 0.0),
        ("gpu_memory_utilization", 1.5),
        ("rule_set", "vllm-9"),
        ("duration_s", 0.0),
        ("duration_s", float("nan")),
        ("duration_s", float("inf")),
        ("duration_s", 1e9),
        ("duration_s", None),
        ("warmup_s", -1.0),
        ("warmup_s", 3600.0),
        ("judge_until_s", -1.0),
        ("seed", -1),
        ("seed", 2**64),
        ("max_in_flight", 0),
    ],
)
def test_each_bad_setting_is_an_input_error_that_names_it(profile, fleet, name, value):
    with pytest.raises(InputError) as caught:
        Scenario(profile, fleet, **{name: value})
    place = "max_num_batched_tokens" if (name, value) == ("max_num_seqs", 4096) else name
    assert caught.value.place == place
    assert caught.value.mend


def test_cpu_cache_below_the_slots_is_refused(profile, fleet):
    with pytest.raises(InputError, match="max_cpu_loras"):
        Scenario(profile, fleet, max_loras=4, max_cpu_loras=3)


def test_an_empty_fleet_is_refused(profile):
    with pytest.raises(InputError, match="fleet"):
        Scenario(profile, Fleet([]))


def test_ranks_round_up_to_those_vllm_takes():
    assert [rounded_up_rank(rank) for rank in (0, 1, 8, 9, 300, 512)] == [8, 8, 8, 16, 320, 512]


def test_stream_keys_are_the_same_on_every_machine():
    assert stream_key("summaries") == 0x84AED89AF9204863  # BLAKE2b, 8 bytes, little end first
    assert len({stream_key(f"adapter-{i}") for i in range(10_000)}) == 10_000


def test_another_adapter_moves_no_other_s_requests(profile, fleet):
    def arrivals(of):
        scenario = Scenario(profile, of, max_loras=8, duration_s=60, records=True)
        frame = run(scenario).requests.with_columns(pl.col("adapter").cast(pl.String))
        own = frame.filter(pl.col("adapter") == "adapter-3")
        return own.select("arrival_s", "prompt_tokens", "output_tokens")

    more = Fleet([Adapter("first", rank=8, rate_rps=3.0), *fleet])
    assert arrivals(fleet).equals(arrivals(more))


def test_a_trace_runs_alone_and_by_adapter_name(profile, fleet):
    frame = pl.DataFrame(
        {
            "arrival_s": [0.5, 0.5, 9.0],
            "adapter": ["adapter-1", "adapter-0", "adapter-1"],
            "prompt_tokens": [10, 20, 30],
            "output_tokens": [3, 4, 5],
        },
        schema=dict(SCHEMA),
    )
    scenario = Scenario(
        profile, fleet, duration_s=None, trace=Trace(frame, "by hand"), records=True
    )
    result = run(scenario)
    assert result.completed == result.offered == 3
    assert result.requests["adapter"].to_list() == ["adapter-0", "adapter-1", "adapter-1"]
    assert result.requests["prompt_tokens"].to_list() == [20, 10, 30]
    assert result.simulated_s == result.makespan_s > 9.0


def test_a_trace_with_an_unknown_adapter_names_the_nearest(profile, fleet):
    frame = pl.DataFrame(
        {"arrival_s": [0.0], "adapter": ["adapter-7"], "prompt_tokens": [1], "output_tokens": [1]},
        schema=dict(SCHEMA),
    )
    scenario = Scenario(profile, fleet, trace=Trace(frame, "t.csv"))
    with pytest.raises(InputError, match="did you mean adapter-") as caught:
        native_scenario(scenario)
    assert caught.value.file == "t.csv"


def test_a_trace_without_adapters_is_refused(profile, fleet):
    frame = pl.DataFrame(
        {"arrival_s": [0.0], "adapter": [None], "prompt_tokens": [1], "output_tokens": [1]},
        schema=dict(SCHEMA),
    )
    with pytest.raises(InputError, match="from-trace"):
        native_scenario(Scenario(profile, fleet, trace=Trace(frame, "t.csv")))


def lengths_of(profile, adapter, **settings):
    scenario = Scenario(profile, Fleet([adapter]), duration_s=2000, records=True, **settings)
    return run(scenario).requests.select("prompt_tokens", "output_tokens")


def test_means_alone_scale_the_profile_s_joint_shape(profile):
    frame = lengths_of(
        profile, Adapter("a", rank=8, rate_rps=4.0, prompt_tokens=100, output_tokens=50)
    )
    prompt, output = (frame[name].mean() for name in frame.columns)
    assert prompt == pytest.approx(100, rel=0.05)
    assert output == pytest.approx(50, rel=0.05)
    assert frame["prompt_tokens"].n_unique() > 50


def test_a_constant_column_makes_every_request_alike(profile):
    adapter = Adapter(
        "a", rank=8, rate_rps=0.5, prompt_tokens=100, output_tokens=50, lengths="constant"
    )
    assert lengths_of(profile, adapter).unique().rows() == [(100, 50)]


def test_a_lognormal_column_has_the_given_means(profile):
    adapter = Adapter(
        "a",
        rank=8,
        rate_rps=4.0,
        prompt_tokens=100,
        output_tokens=50,
        lengths="lognormal",
        prompt_sigma=0.5,
        output_sigma=0.25,
    )
    frame = lengths_of(profile, adapter)
    assert frame["prompt_tokens"].mean() == pytest.approx(100, rel=0.05)
    assert np.log(frame["output_tokens"].to_numpy()).std() == pytest.approx(0.25, rel=0.1)


def test_a_law_of_the_scenario_overrides_every_adapter_s(profile):
    frame = lengths_of(profile, Adapter("a", rank=8, rate_rps=0.5), lengths=Constant(7, 9))
    assert frame.unique().rows() == [(7, 9)]


def test_an_empirical_law_draws_its_rows_together(profile):
    law = Empirical.joint(np.array([5.0, 50.0]), np.array([9.0, 90.0]), np.array([3.0, 1.0]))
    frame = lengths_of(profile, Adapter("a", rank=8, rate_rps=2.0), lengths=law)
    assert set(frame.unique().rows()) == {(5, 9), (50, 90)}
    assert (frame["prompt_tokens"] == 5).mean() == pytest.approx(0.75, abs=0.03)


def test_independent_histograms_mix_all_pairs():
    law = Empirical.independent(
        np.array([5.0, 50.0]), np.array([9.0, 90.0]), None, np.array([1, 3])
    )
    assert (law.output_tokens == 90).mean() == pytest.approx(0.75)
    assert np.corrcoef(law.prompt_tokens, law.output_tokens)[0, 1] == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]])
def test_bad_weights_are_refused(weights):
    with pytest.raises(InputError, match="weights"):
        Empirical.joint(np.array([5.0, 50.0]), np.array([9.0, 90.0]), np.array(weights))


@pytest.mark.parametrize(
    ("starts_s", "factors"),
    [((), ()), ((1.0,), (1.0,)), ((0.0, 0.0), (1.0, 2.0)), ((0.0,), ()), ((0.0,), (-1.0,))],
)
def test_bad_pieces_are_refused(starts_s, factors):
    with pytest.raises(InputError):
        Piecewise(starts_s, factors)


def test_a_scenario_cannot_be_changed(profile, fleet):
    scenario = Scenario(profile, fleet)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scenario.seed = 3
