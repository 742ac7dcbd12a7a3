"""Estimated profiles: marked, scaled by physics, and as good as they say on what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorapack.errors import InputError
from lorapack.profile.estimate import UNCERTAINTY, estimate, step_errors, term_errors
from lorapack.profile.gpu import GPUS, Gpu
from lorapack.profile.profile import Profile

LLAMA = Profile.load("llama-3.1-8b/h100-64gb/vllm-0.8.5")
QWEN = Profile.load("qwen-2.5-7b/h100-64gb/vllm-0.8.5")


def test_a_measured_profile_estimated_from_itself_keeps_its_constants() -> None:
    again = estimate(LLAMA.model, LLAMA.gpu, LLAMA)
    assert again.name == LLAMA.name
    assert all(abs(error or 0.0) < 1e-3 for error in term_errors(again, LLAMA).values())


@pytest.mark.parametrize(("measured", "source"), [(LLAMA, QWEN), (QWEN, LLAMA)])
def test_each_measured_profile_is_estimated_from_the_other_within_what_is_stated(
    measured: Profile, source: Profile
) -> None:
    errors = step_errors(estimate(measured.model, measured.gpu, source), measured)
    assert len(errors) > 5
    mean = sum(abs(error) for error in errors.values()) / len(errors)
    assert UNCERTAINTY.step_time_fraction is not None
    assert mean < UNCERTAINTY.step_time_fraction / 2
    assert max(map(abs, errors.values())) < 1.5 * UNCERTAINTY.step_time_fraction


@pytest.mark.parametrize(("measured", "source"), [(LLAMA, QWEN), (QWEN, LLAMA)])
def test_memory_is_first_principles_but_for_one_constant_that_hardly_moves(
    measured: Profile, source: Profile
) -> None:
    guess = replace(estimate(measured.model, measured.gpu, source), engine=measured.engine)
    for max_loras, rank in ((8, 8), (64, 16), (96, 32)):
        tokens = [p.memory_plan(max_loras, rank).kv_cache_tokens for p in (guess, measured)]
        assert tokens[0] == pytest.approx(tokens[1], rel=0.001)


def test_an_estimate_says_that_it_is_one() -> None:
    guess = estimate(QWEN.model, Gpu.named("h100-80gb"), LLAMA)
    assert guess.name == "qwen-2.5-7b/h100-80gb/vllm-0.8.5"
    assert guess.provenance.kind == "estimated"
    assert LLAMA.name in guess.provenance.source
    assert guess.provenance.uncertainty == UNCERTAINTY
    assert Profile.from_toml(guess.to_toml()) == guess


def test_bandwidth_and_rate_scale_what_they_bound() -> None:
    near = estimate(LLAMA.model, Gpu.named("h100-80gb"), LLAMA).step_time
    far = estimate(LLAMA.model, Gpu.named("a100-80gb"), LLAMA).step_time
    assert far.weights_ms / near.weights_ms == pytest.approx(3350 / 2039, rel=1e-3)
    assert far.token_ms / near.token_ms == pytest.approx(989 / 312, rel=1e-3)
    assert far.fixed_ms == near.fixed_ms


def test_batch_defaults_follow_the_cards_memory() -> None:
    large = estimate(LLAMA.model, Gpu.named("h100-80gb"), LLAMA).engine
    small = estimate(LLAMA.model, Gpu.named("l40s-48gb"), LLAMA).engine
    assert (large.max_num_batched_tokens, large.max_num_seqs) == (8192, 1024)
    assert (small.max_num_batched_tokens, small.max_num_seqs) == (2048, 256)


def test_quantised_weights_are_read_quicker() -> None:
    quantised = replace(LLAMA.model, linear_weight_bits=4.15625)
    ratio = estimate(quantised, LLAMA.gpu, LLAMA).step_time.weights_ms / LLAMA.step_time.weights_ms
    assert 0.3 < ratio < 0.35


@pytest.mark.parametrize("gpu", GPUS)
def test_every_known_gpu_can_be_estimated(gpu: str) -> None:
    guess = estimate(LLAMA.model, Gpu.named(gpu), LLAMA)
    # On 24 GB the CUDA graphs need more than the tenth that is left by default.
    assert guess.memory_plan(4, 8, max_model_len=4096, gpu_memory_utilization=0.85).starts


def test_an_unknown_gpu_gives_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean h100-80gb"):
        Gpu.named("h100-80")


def test_what_is_not_known_is_not_invented() -> None:
    unknown = Gpu("toy-8gb", memory_gib=8.0)
    with pytest.raises(InputError, match="bandwidth"):
        estimate(LLAMA.model, unknown, LLAMA)
    with pytest.raises(InputError, match="bf16"):
        estimate(LLAMA.model, replace(unknown, bandwidth_gb_per_s=100.0), LLAMA)
    with pytest.raises(InputError, match="memory"):
        estimate(LLAMA.model, LLAMA.gpu, replace(LLAMA, memory=None))
