"""The memory rule: each refusal by name, its mends proven, and what each setting does to KV."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorapack.errors import InputError
from lorapack.profile.gpu import Gpu
from lorapack.profile.memory import (
    CUDA_OUT_OF_MEMORY,
    GIB,
    MAX_MODEL_LEN,
    NO_CACHE_BLOCKS,
    MemoryPlan,
    fit_other_gib,
    plan,
)
from lorapack.profile.profile import Profile

LLAMA = "llama-3.1-8b/h100-64gb/vllm-0.8.5"
QWEN = "qwen-2.5-7b/h100-64gb/vllm-0.8.5"

REFUSALS = [
    (LLAMA, 256, 16, MAX_MODEL_LEN),
    (LLAMA, 224, 32, NO_CACHE_BLOCKS),
    (LLAMA, 288, 32, CUDA_OUT_OF_MEMORY),
    (QWEN, 288, 32, NO_CACHE_BLOCKS),
    (QWEN, 384, 32, CUDA_OUT_OF_MEMORY),
]


@pytest.fixture(scope="module")
def llama() -> Profile:
    return Profile.load(LLAMA)


@pytest.mark.parametrize(("name", "max_loras", "rank", "refusal"), REFUSALS)
def test_refusals_are_told_apart(name: str, max_loras: int, rank: int, refusal: str) -> None:
    answer = Profile.load(name).memory_plan(max_loras, rank)
    assert answer.refusal == refusal
    assert not answer.starts


@pytest.mark.parametrize(("name", "max_loras", "rank", "refusal"), REFUSALS)
def test_every_mend_starts_the_engine_when_asked_again(
    name: str, max_loras: int, rank: int, refusal: str
) -> None:
    answer = Profile.load(name).memory_plan(max_loras, rank)
    assert answer.mends, refusal
    for mend in answer.mends:
        again = plan(replace(answer.case, **{mend.setting: mend.value}))
        assert again.starts
        assert again.kv_cache_tokens == mend.kv_cache_tokens


def test_the_cheapest_mend_comes_first_and_is_as_large_as_can_be(llama: Profile) -> None:
    answer = llama.memory_plan(256, 16)
    settings = [mend.setting for mend in answer.mends]
    assert settings == ["max_model_len", "max_loras", "max_lora_rank", "kv_cache_dtype"]
    longest = answer.mends[0].value
    assert isinstance(longest, int)
    assert not llama.memory_plan(256, 16, max_model_len=longest + 16).starts
    slots = answer.mends[1].value
    assert isinstance(slots, int)
    assert not llama.memory_plan(slots + 1, 16).starts
    assert answer.mends[0].flag == f"--max-model-len {longest}"


def test_an_engine_that_starts_needs_no_mend(llama: Profile) -> None:
    answer = llama.memory_plan(32, 16)
    assert answer.starts
    assert answer.refusal is None
    assert answer.mends == ()


def test_a_short_sequence_starts_what_the_models_own_length_refuses(llama: Profile) -> None:
    assert llama.memory_plan(256, 16, max_model_len=8192).starts


def test_cuda_graphs_that_do_not_fit_beside_a_full_cache_are_out_of_memory(
    llama: Profile,
) -> None:
    answer = llama.memory_plan(8, 8, gpu_memory_utilization=0.99, max_num_seqs=256)
    assert answer.refusal == CUDA_OUT_OF_MEMORY
    assert [mend.setting for mend in answer.mends] == ["gpu_memory_utilization"]


@pytest.mark.parametrize(("max_loras", "rank"), [(0, 0), (1, 8), (32, 16), (96, 32)])
def test_parts_sum_to_the_card(llama: Profile, max_loras: int, rank: int) -> None:
    answer = llama.memory_plan(max_loras, rank)
    assert answer.starts
    assert sum(answer.parts_gib.values()) == pytest.approx(llama.gpu.memory_gib)
    assert min(answer.parts_gib.values()) >= 0
    assert answer.parts_gib["kv_cache"] * GIB == pytest.approx(answer.kv_cache_tokens * 131072)


def test_slots_cost_what_vllm_says_a_slot_costs(llama: Profile) -> None:
    """ECOSYSTEM: 50.0, 94.1 and 182.2 MiB a slot at ranks 8, 16, 32, plus the embedding's rows."""
    for rank, expected in ((8, 50.0), (16, 94.1), (32, 182.2)):
        more, fewer = (llama.memory_plan(n, rank).case.loaded for n in (64, 32))
        mib = (more.allocated_bytes - fewer.allocated_bytes) / 32 / 2**20
        assert mib == pytest.approx(expected, rel=0.03)  # the allocator's rounding


def test_lora_off_makes_no_slots(llama: Profile) -> None:
    answer = llama.memory_plan(0, 16)
    assert answer.parts_gib["lora_slots"] == 0
    assert answer.kv_cache_tokens > llama.memory_plan(1, 8).kv_cache_tokens


def test_fp8_kv_doubles_the_tokens(llama: Profile) -> None:
    auto, fp8 = (
        llama.memory_plan(8, 8, kv_cache_dtype=dtype).kv_cache_tokens for dtype in ("auto", "fp8")
    )
    assert fp8 == pytest.approx(2 * auto, abs=16)


def test_the_newer_engine_has_no_extra_vocabulary_and_takes_graphs_off_the_cache(
    llama: Profile,
) -> None:
    old, new = llama, replace(llama, rule_set="vllm-0.33")
    slots_old, slots_new = (p.memory_plan(64, 8).parts_gib["lora_slots"] for p in (old, new))
    tables = 3 * 256 * 4096 * 2 * 64 / GIB  # embedding rows and two tables of added tokens
    assert slots_old - slots_new == pytest.approx(tables, rel=0.02)
    kv_old, kv_new = (p.memory_plan(0, 0).case.kv_cache_bytes / GIB for p in (old, new))
    assert kv_old - kv_new == pytest.approx(3.32)


def test_a_class_without_embedding_lora_makes_no_slots_for_it() -> None:
    qwen = Profile.load(QWEN)
    more, fewer = (qwen.memory_plan(n, 16).case.loaded for n in (64, 32))
    per_slot = qwen.model.lora_parameters_per_rank * 16 * 2
    assert (more.allocated_bytes - fewer.allocated_bytes) / 32 == pytest.approx(per_slot, rel=0.04)


def test_a_larger_card_holds_more(llama: Profile) -> None:
    large = replace(llama, gpu=Gpu.named("h200-141gb"))
    gained = large.memory_plan(32, 16).kv_cache_tokens - llama.memory_plan(32, 16).kv_cache_tokens
    gib = (large.gpu.memory_gib - llama.gpu.memory_gib) * 0.9
    assert gained == pytest.approx(gib * GIB / 131072, abs=16)


def test_fewer_requests_at_once_leave_more_for_the_cache(llama: Profile) -> None:
    few, many = (llama.memory_plan(8, 8, max_num_seqs=n).kv_cache_tokens for n in (256, 2048))
    assert few > many


def test_host_memory_is_of_the_adapters_own_rank(llama: Profile) -> None:
    answer = llama.memory_plan(8, 32)
    # Llama-3.1-8B: 2,621,440 values a unit of rank, two bytes each.
    assert answer.host_gib([8, 16]) == pytest.approx(24 * 2_621_440 * 2 / GIB)


def test_the_constant_is_found_again_from_what_the_rule_says(llama: Profile) -> None:
    def measured(truth: float) -> list[tuple[MemoryPlan, int]]:
        assert llama.memory is not None
        other = replace(llama, memory=replace(llama.memory, other_gib=truth))
        plans = [other.memory_plan(n, rank) for n in (8, 32, 96) for rank in (8, 16)]
        return [(answer, answer.kv_cache_tokens) for answer in plans]

    for truth in (0.5, 0.93, 1.7):
        pairs = [(answer.case, tokens) for answer, tokens in measured(truth)]
        assert fit_other_gib(pairs) == pytest.approx(truth, abs=0.002)
    with pytest.raises(ValueError, match="no capacity"):
        fit_other_gib([])


def test_a_profile_without_memory_says_what_to_give(llama: Profile) -> None:
    with pytest.raises(InputError, match="kv_cache_tokens"):
        replace(llama, memory=None).memory_plan(8, 8)
