"""The caching allocator's six rules, each on a sequence small enough to check by hand."""

from __future__ import annotations

import random

import pytest

from lorapack.profile.allocator import MIB, CachingAllocator
from lorapack.profile.profile import Profile
from lorapack.profile.tensors import load


def test_sizes_round_up_to_512_bytes() -> None:
    allocator = CachingAllocator()
    allocator.take(1)
    allocator.take(513)
    assert allocator.allocated == 512 + 1024


def test_up_to_one_mib_shares_a_segment_of_two() -> None:
    allocator = CachingAllocator()
    allocator.take(MIB)
    allocator.take(MIB)
    assert allocator.reserved == 2 * MIB
    allocator.take(512)
    assert allocator.reserved == 4 * MIB


def test_under_ten_mib_shares_a_segment_of_twenty() -> None:
    allocator = CachingAllocator()
    allocator.take(9 * MIB)
    allocator.take(9 * MIB)
    assert allocator.reserved == 20 * MIB


def test_ten_mib_and_more_get_their_own_segment_rounded_to_two() -> None:
    allocator = CachingAllocator()
    allocator.take(10 * MIB)
    allocator.take(11 * MIB)
    assert allocator.reserved == (10 + 12) * MIB


def test_small_and_large_tensors_never_share() -> None:
    allocator = CachingAllocator()
    allocator.take(2 * MIB)  # leaves 18 MiB of a segment free
    allocator.take(512)
    assert allocator.reserved == 22 * MIB


def test_the_smallest_free_block_that_holds_it_is_taken() -> None:
    allocator = CachingAllocator()
    allocator.take(16 * MIB)
    allocator.take(14 * MIB)
    allocator.take(9 * MIB)  # a segment of 20: leaves 11
    five = allocator.take(5 * MIB)  # from the 11: leaves 6
    allocator.take(6 * MIB)  # fits exactly
    allocator.give(five)
    before = allocator.reserved
    allocator.take(3 * MIB)  # from the 5
    assert allocator.reserved == before


def test_a_remainder_of_one_mib_or_less_stays_with_a_large_tensor() -> None:
    allocator = CachingAllocator()
    allocator.take(11 * MIB)  # a segment of 12: the last MiB is not split off
    assert allocator.allocated == 12 * MIB
    allocator = CachingAllocator()
    allocator.take(11 * MIB - 512)  # 1 MiB and 512 bytes: split off
    assert allocator.allocated == 11 * MIB - 512


def test_freed_neighbours_merge_and_hold_a_larger_tensor() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.take(5 * MIB) for _ in range(4)]
    assert allocator.reserved == 20 * MIB
    for block in blocks[:2]:
        allocator.give(block)
    allocator.take(9 * MIB)
    assert allocator.reserved == 20 * MIB


def test_emptying_the_cache_gives_back_whole_segments_only() -> None:
    allocator = CachingAllocator()
    first, second = allocator.take(9 * MIB), allocator.take(9 * MIB)
    own = allocator.take(30 * MIB)
    allocator.give(own)
    allocator.give(first)
    allocator.empty_cache()
    assert allocator.reserved == 20 * MIB
    allocator.give(second)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.allocated) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_reserved_is_what_is_taken_and_what_is_free(seed: int) -> None:
    draw = random.Random(seed)
    allocator, held = CachingAllocator(), []
    for _ in range(300):
        if held and draw.random() < 0.4:
            allocator.give(held.pop(draw.randrange(len(held))))
        else:
            held.append(allocator.take(int(2 ** draw.uniform(0, 26))))
        assert allocator.allocated == sum(block.size for block in held)
        assert allocator.reserved >= allocator.allocated
    for block in held:
        allocator.give(block)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.allocated) == (0, 0)


@pytest.mark.parametrize(
    ("profile", "max_loras", "max_lora_rank", "allocated", "reserved"),
    [
        ("llama-3.1-8b", 0, 0, 16094076928, 16112418816),
        ("llama-3.1-8b", 1, 8, 16148652032, 16158556160),
        ("llama-3.1-8b", 16, 16, 17707311104, 17725128704),
        ("llama-3.1-8b", 60, 64, 38746464256, 38910558208),
        ("llama-3.1-8b", 333, 8, 33571741696, 34160508928),
        ("qwen-2.5-7b", 1, 8, 15339760640, 15397289984),
        ("qwen-2.5-7b", 16, 16, 16603556864, 16710107136),
        ("qwen-2.5-7b", 60, 64, 34678909952, 35313942528),
        ("qwen-2.5-7b", 96, 8, 19197209600, 19639828480),
    ],
)
def test_loads_take_to_the_byte_what_a_replay_in_python_took(
    profile: str, max_loras: int, max_lora_rank: int, allocated: int, reserved: int
) -> None:
    model = Profile.load(f"{profile}/h100-64gb/vllm-0.8.5").model
    loaded = load(model, "vllm-0.8.5", max_loras, max_lora_rank)
    assert (loaded.allocated_bytes, loaded.reserved_bytes) == (allocated, reserved)
