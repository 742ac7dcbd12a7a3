"""Adapters come and go in O(1); what is left says the same as if it had been there alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.predictor.features import FEATURE_INDEX, features_of
from lorapack.predictor.gpu_state import GpuState
from lorapack.predictor.predictor import Predictor
from lorapack.profile.profile import DEFAULT_PROFILE
from lorapack.twin.scenario import Scenario

adapters = st.builds(
    Adapter,
    adapter=st.uuids().map(str),
    rank=st.sampled_from([0, 8, 16]),
    rate_rps=st.floats(0.0, 50.0),
    prompt_tokens=st.none() | st.floats(1.0, 8000.0),
    output_tokens=st.none() | st.floats(1.0, 1000.0),
    cv=st.floats(0.1, 30.0),
)


def state_of(predictor, held, **more):
    state = GpuState(predictor, max_lora_rank=16, max_loras=8, **more)
    for adapter in held:
        state.add(adapter)
    return state


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), pool=st.lists(adapters, min_size=1, max_size=12, unique_by=lambda a: a.adapter)
)
def test_any_adds_and_removes_end_in_the_same_bits(predictor, data, pool):
    state, held = state_of(predictor, []), []
    for _ in range(data.draw(st.integers(1, 30))):
        adapter = data.draw(st.sampled_from(pool))
        if adapter in held:
            state.remove(adapter)
            held.remove(adapter)
        else:
            state.add(adapter)
            held.append(adapter)
    fresh = state_of(predictor, sorted(held, key=lambda adapter: adapter.adapter))
    assert np.array_equal(state.features(), fresh.features())
    assert len(state) == len(held)


def test_a_state_says_what_a_scenario_says(predictor):
    held = [Adapter(f"a{i}", 8, 0.1 * i) for i in range(10)]
    scenario = Scenario(
        predictor.profile, Fleet(held), max_loras=8, max_lora_rank=16, duration_s=3600.0, warm=True
    )
    assert np.array_equal(state_of(predictor, held).features(), features_of(scenario))


def test_slots_follow_the_adapters_when_left_open(predictor):
    state = GpuState(predictor, max_lora_rank=16)
    for i in range(5):
        state.add(Adapter(f"a{i}", 8, 0.1))
        assert state.features()[0, FEATURE_INDEX["max_loras"]] == i + 1
    assert state.features(max_loras=2)[0, FEATURE_INDEX["max_loras"]] == 2


def test_a_copy_goes_its_own_way(predictor):
    state = state_of(predictor, [Adapter("a", 8, 1.0)])
    other = state.copy()
    other.add(Adapter("b", 8, 1.0))
    assert (len(state), len(other)) == (1, 2)
    assert not np.array_equal(state.features(), other.features())


def test_an_empty_gpu_serves_all_of_nothing(predictor):
    told = GpuState(predictor, max_lora_rank=16).predict()
    assert all(np.isfinite(told))


def test_mistakes_are_said(predictor):
    state = state_of(predictor, [Adapter("a", 8, 1.0)])
    with pytest.raises(InputError, match="remove it first"):
        state.add(Adapter("a", 8, 2.0))
    with pytest.raises(InputError, match="add it first"):
        state.remove(Adapter("b", 8, 1.0))
    with pytest.raises(InputError, match="max_lora_rank"):
        state.add(Adapter("c", 32, 1.0))


def test_more_load_rarely_turns_starved_into_served():
    predictor = Predictor.load(DEFAULT_PROFILE)
    flips = steps = 0
    draw = np.random.default_rng(0)
    for _ in range(20):
        mix = draw.lognormal(-1.0, 1.0, 20)
        before = None
        for factor in np.geomspace(0.05, 20.0, 25):
            state = state_of(
                predictor, [Adapter(f"a{i}", 8, float(factor * rate)) for i, rate in enumerate(mix)]
            )
            starved = state.predict().starved_probability >= 0.5
            flips += before is True and not starved
            steps += 1
            before = starved
    assert flips <= 0.001 * steps
