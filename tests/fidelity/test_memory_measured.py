"""The memory rule against 84 measured engine starts, when the measurements are there."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lorapack.profile.memory import GIB, MemoryPlan, fit_other_gib
from lorapack.profile.profile import Profile

MODELS = {
    "llama-3.1-8b-instruct": "llama-3.1-8b/h100-64gb/vllm-0.8.5",
    "qwen-2.5-7b-instruct": "qwen-2.5-7b/h100-64gb/vllm-0.8.5",
}


@pytest.fixture(scope="module")
def starts(measured_data: Path) -> list[tuple[dict[str, str], MemoryPlan]]:
    """Each measured start beside what the rule says of it."""
    file = measured_data / "vllm-h100" / "kv_cache_tokens.csv"
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 84
    return [(row, planned(row)) for row in rows]


def planned(row: dict[str, str]) -> MemoryPlan:
    profile = Profile.load(MODELS[row["model"]])
    return profile.memory_plan(int(row["max_loras"]), int(row["max_lora_rank"]))


def test_all_starts_and_refusals_with_the_reason(
    starts: list[tuple[dict[str, str], MemoryPlan]],
) -> None:
    differing = [row for row, plan in starts if (row["refusal"] or None) != plan.refusal]
    assert differing == []


def test_capacities_within_a_thousandth(
    starts: list[tuple[dict[str, str], MemoryPlan]],
) -> None:
    errors = [
        plan.kv_cache_tokens / float(row["kv_cache_tokens"]) - 1
        for row, plan in starts
        if row["kv_cache_tokens"]
    ]
    assert len(errors) == 65
    assert max(map(abs, errors)) < 0.001
    # The replay is exact to the block but where a fragment fell otherwise.
    assert sum(error == 0 for error in errors) > 55


def test_what_loading_took_is_what_the_engine_printed(
    starts: list[tuple[dict[str, str], MemoryPlan]],
) -> None:
    differences = [
        float(row["model_loading_gib"]) - plan.case.loaded.allocated_bytes / GIB
        for row, plan in starts
        if row["model_loading_gib"]
    ]
    assert len(differences) > 70
    # Some 0.3 MiB of index tables are not replayed.
    assert all(0 < difference < 0.0006 for difference in differences)


def test_what_was_left_is_what_the_engine_printed(
    starts: list[tuple[dict[str, str], MemoryPlan]],
) -> None:
    differences = [
        float(row["kv_available_gib"]) - plan.case.kv_cache_bytes / GIB
        for row, plan in starts
        if row["kv_available_gib"]
    ]
    assert len(differences) >= 8
    assert max(map(abs, differences)) < 0.02


def test_the_shipped_constants_are_what_the_fit_gives(
    starts: list[tuple[dict[str, str], MemoryPlan]],
) -> None:
    for model, name in MODELS.items():
        measured = [
            (plan.case, int(float(row["kv_cache_tokens"])))
            for row, plan in starts
            if row["model"] == model and row["kv_cache_tokens"]
        ]
        memory = Profile.load(name).memory
        assert memory is not None
        assert memory.other_gib == pytest.approx(fit_other_gib(measured), abs=5e-4)
