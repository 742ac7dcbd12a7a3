"""What it costs to bring an adapter in."""

from __future__ import annotations

import pytest

from lorapack.profile.adapter_loading import AdapterLoading

LOADING = AdapterLoading(
    gpu_fixed_ms=3.0, gpu_rank_ms=0.01, gpu_partial_ms=0.5, disk_fixed_ms=6.0, disk_rank_ms=0.5
)


def test_a_full_rank_loads_quicker_than_a_partial_one() -> None:
    assert LOADING.gpu_load_ms(16, 16) == pytest.approx(3.16)
    assert LOADING.gpu_load_ms(16, 32) == pytest.approx(3.66)


def test_disk_reads_follow_the_adapters_own_rank() -> None:
    assert LOADING.disk_load_ms(32) == pytest.approx(22.0)
    assert LOADING.disk_load_ps(8) == 10_000_000_000


def test_the_base_model_is_never_loaded() -> None:
    assert LOADING.gpu_load_ps(0, 16) == 0
    assert LOADING.disk_load_ps(0) == 0
