"""What memory allows, as those who judge trials see it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorapack.profile.profile import Profile
from lorapack.twin.service_level import SERVICE_LEVELS
from lorapack.twin.trial import TwinJudge


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen-2.5-7b"])
@pytest.mark.parametrize("rank", [8, 64, 512])
@pytest.mark.parametrize("max_model_len", [None, 1024, 131_072])
def test_one_slot_more_than_the_limit_does_not_start(
    name: str, rank: int, max_model_len: int | None
) -> None:
    profile = Profile.load(f"{name}/h100-64gb/vllm-0.8.5")
    if max_model_len is not None:
        profile = replace(profile, engine=replace(profile.engine, max_model_len=max_model_len))
    limit = TwinJudge(SERVICE_LEVELS["interactive"]).slot_limit(profile, rank)
    assert limit == 0 or profile.memory_plan(limit, rank).starts
    assert not profile.memory_plan(limit + 1, rank).starts


def test_no_slot_at_all_where_one_is_too_many() -> None:
    profile = Profile.load()
    small = replace(profile, gpu=replace(profile.gpu, memory_gib=24.0))
    judge = TwinJudge(SERVICE_LEVELS["interactive"])
    assert judge.slot_limit(small, 512) == 0
    assert judge.kv_cache_tokens(small, 1, 512) == 0
