"""The step-time fit gives back the constants that made its data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lorapack.fidelity.calibrate.observations import Observations, concatenated, single_steps
from lorapack.fidelity.calibrate.step_time import (
    fit_step_time,
    fit_with_weights_tied,
    weights_tied_to_context,
)
from lorapack.profile.profile import Profile
from lorapack.profile.step_time import StepTime

NAMES = (
    "fixed_ms",
    "request_ms",
    "token_ms",
    "context_token_ms",
    "mixed_context_token_ms",
    "lora_fixed_ms",
    "lora_block_ns",
    "adapter_ms",
    "adapter_block_ns",
    "adapter_lookup_ns",
    "lora_mapping_ms",
    "lora_mapping_request_ms",
    "skipped_ms",
)


@pytest.fixture(scope="module")
def truth() -> StepTime:
    return Profile.load().step_time


def drawn(truth: StepTime, n: int = 800, noise: float = 0.0) -> Observations:
    """Steps of all shapes, as the given constants price them."""
    random = np.random.default_rng(7)
    requests = random.integers(1, 900, n)
    prompts = np.where(random.random(n) < 0.5, 0, random.integers(1, 1100, n))
    slots = random.choice([0, 16, 64, 300], n)
    adapters = np.minimum(random.integers(1, 120, n), np.minimum(requests, slots))
    rows = single_steps(
        tokens=np.minimum(requests + prompts, 2048),
        adapters=adapters.astype(float),
        max_loras=slots,
        max_lora_rank=np.where(slots > 0, 16, 0),
        cpu_loras=random.integers(1, 384, n).astype(float),
        requests=requests.astype(float),
        context_tokens=requests * random.uniform(50, 600, n),
        new_batches=(random.random(n) < 0.5).astype(float),
        skipped=np.where(slots > 0, random.integers(0, 20_000, n), 0).astype(float),
        measured_ms=np.ones(n),
        weight=np.full(n, 1 / n),
        source="drawn",
        max_tokens=2048,
    )
    exact = rows.predicted_ms(truth)
    return replace(rows, measured_ms=exact * np.exp(noise * random.standard_normal(n)))


def test_constants_are_recovered_from_a_distant_start(truth: StepTime) -> None:
    rows = drawn(truth)
    start = replace(truth, **{name: getattr(truth, name) * 1.4 for name in NAMES})
    fit = fit_step_time(rows, start, NAMES)
    for name in NAMES:
        assert getattr(fit.step_time, name) == pytest.approx(getattr(truth, name), rel=0.06), name
    assert fit.error_percent["drawn"] < 0.1


def test_noise_and_a_few_wild_rows_do_not_carry_it_away(truth: StepTime) -> None:
    rows = drawn(truth, noise=0.01)
    wild = rows.measured_ms.copy()
    wild[::40] *= 3
    fit = fit_step_time(replace(rows, measured_ms=wild), replace(truth, token_ms=0.03), NAMES)
    assert fit.step_time.token_ms == pytest.approx(truth.token_ms, rel=0.03)
    assert abs(fit.bias_percent["drawn"]) < 0.5


def test_what_the_data_do_not_show_stays_where_it_began(truth: StepTime) -> None:
    rows = drawn(truth)
    without_lora = rows.rows(rows.max_loras == 0)
    start = replace(truth, adapter_ms=1.0, fixed_ms=9.0)
    fit = fit_step_time(without_lora, start, NAMES)
    assert fit.step_time.adapter_ms == pytest.approx(1.0)
    assert fit.step_time.fixed_ms == pytest.approx(truth.fixed_ms, rel=0.1)


def test_what_a_log_took_is_not_the_engines(truth: StepTime) -> None:
    rows = drawn(truth)
    logged = (rows.requests > 300).astype(float)
    rows = replace(rows, logged=logged, measured_ms=rows.measured_ms + 2.0 * logged)
    fit = fit_step_time(rows, truth, NAMES)
    assert fit.logging_ms == pytest.approx(2.0, rel=0.05)
    assert fit.step_time.request_ms == pytest.approx(truth.request_ms, rel=0.05)


def test_a_constant_is_never_negative(truth: StepTime) -> None:
    none = replace(truth, request_ms=0.0)
    fit = fit_step_time(drawn(none, noise=0.01), replace(none, request_ms=0.02), NAMES)
    assert fit.step_time.request_ms >= 0


def test_weights_are_read_at_the_bandwidth_of_context(truth: StepTime) -> None:
    tied = weights_tied_to_context(truth)
    per_second = truth.model.kv_bytes_per_token() / truth.context_token_ms * 1e3
    read = (truth.model.linear_parameters + 128256 * 4096) * 2
    assert tied.weights_ms == pytest.approx(read / per_second * 1e3)
    assert tied.fixed_ms + tied.weights_ms == pytest.approx(truth.fixed_ms + truth.weights_ms)


def test_a_tied_fit_explains_as_well(truth: StepTime) -> None:
    fit = fit_with_weights_tied(drawn(weights_tied_to_context(truth)), truth)
    assert fit.error_percent["drawn"] < 1.0


def test_a_histogram_of_steps_is_priced_as_their_mean(truth: StepTime) -> None:
    rows = drawn(truth, n=40)
    rows = rows.rows(rows.max_loras == 64)
    mean = Observations(
        **{
            name: getattr(rows, name).mean(axis=0, keepdims=True)
            if name not in ("tokens", "adapters", "max_loras", "max_lora_rank", "source")
            else getattr(rows, name)[:1]
            for name in (f for f in rows.__dataclass_fields__)
        }
    )
    import scipy.sparse as sparse

    n = len(rows)
    mean = replace(
        mean,
        tokens=sparse.csr_matrix(rows.tokens.sum(axis=0) / n),
        adapters=sparse.csr_matrix(rows.adapters.sum(axis=0) / n),
        cpu_loras=np.array([100.0]),
    )
    same_cache = replace(rows, cpu_loras=np.full(n, 100.0))
    expected = same_cache.predicted_ms(truth).mean()
    assert mean.predicted_ms(truth)[0] == pytest.approx(expected)
    assert len(concatenated([rows, mean])) == n + 1
