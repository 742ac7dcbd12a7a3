"""The step-time form, term by term, and its tables in picoseconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lorapack.profile.profile import Profile
from lorapack.profile.step_time import StepTime


@pytest.fixture(scope="module")
def costs() -> StepTime:
    return Profile.load().step_time


def base_ms(costs: StepTime, tokens: int, max_loras: int = 0, rank: int = 8) -> float:
    return float(costs.base_ms(np.array([tokens]), max_loras, rank)[0])


def test_tokens_are_padded_to_cuda_graph_sizes(costs: StepTime) -> None:
    tokens = np.array([0, 1, 2, 3, 4, 5, 8, 9, 127, 512, 513, 2047])
    padded = [0, 1, 2, 4, 4, 8, 8, 16, 128, 512, 513, 2047]
    assert costs.padded_tokens(tokens).tolist() == padded


def test_without_cuda_graphs_nothing_is_padded(costs: StepTime) -> None:
    eager = replace(costs, cuda_graph_max_tokens=0)
    assert eager.padded_tokens(np.array([1, 3, 9])).tolist() == [1, 3, 9]


def test_a_step_without_tokens_runs_no_model(costs: StepTime) -> None:
    assert base_ms(costs, 0, max_loras=32) == costs.fixed_ms


def test_one_token_reads_the_weights(costs: StepTime) -> None:
    assert base_ms(costs, 1) == pytest.approx(costs.fixed_ms + costs.weights_ms, rel=1e-5)


def test_many_tokens_compute(costs: StepTime) -> None:
    expected = costs.fixed_ms + costs.eager_ms + 2048 * costs.token_ms
    assert base_ms(costs, 2048) == pytest.approx(expected, rel=0.02)
    assert base_ms(costs, 2048) > expected


def test_idle_slots_cost(costs: StepTime) -> None:
    few, many = base_ms(costs, 64, max_loras=8), base_ms(costs, 64, max_loras=384)
    blocks = 32 * (64 * 2 * 1 * 7 + 1 * 384)
    assert many - few == pytest.approx(376 * blocks * costs.lora_block_ns * 1e-6)


def test_rank_costs_by_tiles_of_16(costs: StepTime) -> None:
    at = {rank: base_ms(costs, 64, max_loras=64, rank=rank) for rank in (8, 16, 32)}
    assert at[8] == at[16]
    assert at[32] > at[16]


def test_lora_off_costs_nothing_of_lora(costs: StepTime) -> None:
    tables = costs.tables(0, 8, 64)
    assert not tables.distinct_adapter.any()
    assert base_ms(costs, 8, max_loras=1) > base_ms(costs, 8) + costs.lora_fixed_ms


def test_an_adapter_costs_by_rank_and_batch(costs: StepTime) -> None:
    tables = costs.tables(32, 16, 2048)
    rank = costs.adapter_ms + 16 * costs.adapter_rank_ms
    block = 32 * 384 * costs.adapter_block_ns * 1e-6
    expected = {
        1: rank + costs.adapter_small_batch_ms + block,
        200: rank + costs.adapter_small_batch_ms / 8 + 4 * block,
        1000: rank + costs.adapter_small_batch_ms / 8 + 16 * block,
    }
    for tokens, ms in expected.items():
        assert int(tables.distinct_adapter[tokens]) == round(ms * 1e9)


def test_a_slot_of_twice_the_rank_has_twice_the_shrink_tiles(costs: StepTime) -> None:
    bare = replace(costs, adapter_ms=0.0, adapter_rank_ms=0.0, adapter_block_ns=0.0)
    tiles = {rank: bare.tables(32, rank, 64).distinct_adapter[1] for rank in (8, 16, 32)}
    assert tiles[8] == tiles[16]
    assert int(tiles[32]) == pytest.approx(2 * int(tiles[16]), abs=1)


def test_every_adapter_in_the_cpu_cache_costs_each_adapter_of_the_batch(costs: StepTime) -> None:
    few, many = (costs.tables(32, 16, 64, held).distinct_adapter[1] for held in (100, 300))
    assert int(many) - int(few) == pytest.approx(200 * costs.adapter_lookup_ns * 1e3, abs=2)


def test_offered_requests_stretch_every_price(costs: StepTime) -> None:
    quiet, busy = costs.tables(32, 16, 64), costs.tables(32, 16, 64, offered_rps=100.0)
    stretch = 1 + 100 * costs.arrival_ms * 1e-3
    assert int(busy.base[9]) == pytest.approx(int(quiet.base[9]) * stretch, rel=1e-9)
    assert busy.context_token_ps == pytest.approx(quiet.context_token_ps * stretch, abs=1)


def test_a_new_batch_is_mapped_to_slots_only_with_lora(costs: StepTime) -> None:
    on, off = costs.tables(32, 16, 64), costs.tables(0, 0, 64)
    assert on.mapping_ps == round(costs.lora_mapping_ms * 1e9)
    assert on.mapping_request_ps == round(costs.lora_mapping_request_ms * 1e9)
    assert off.mapping_ps == off.mapping_request_ps == 0


def test_tables_cover_every_batch_and_are_whole_picoseconds(costs: StepTime) -> None:
    tables = costs.tables(32, 8, 2048)
    assert tables.base.shape == tables.distinct_adapter.shape == (2049,)
    assert tables.base.dtype == np.uint64
    assert tables.context_token_ps == round(costs.context_token_ms * 1e9)
    assert tables.request_ps == round(costs.request_ms * 1e9)
    assert not tables.base.flags.writeable


def test_an_attention_pair_is_four_operations_a_head_value_and_layer(costs: StepTime) -> None:
    flop = 4 * 32 * 128 * 32
    seconds = flop / (costs.attention_tflops * 1e12)
    assert costs.attention_pair_ms == pytest.approx(seconds * 1e3)
