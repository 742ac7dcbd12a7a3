"""Step recordings made from known prices give those prices back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.recordings import (
    fit_recordings,
    is_recordings,
    profile_of_recordings,
    read_recordings,
)

FIXED, REQUEST, TOKEN, ADAPTER, LOAD = 9.0, 0.3, 0.17, 2.7, 5.0


def record(folder: Path, name: str, *, grouped: bool, seed: int, factor: float = 1.0) -> None:
    """Writes a recording whose steps cost what the constants above say, times ``factor``."""
    random = np.random.default_rng(seed)
    n = 400
    decodes, prompts = (
        random.integers(0, 20, n),
        random.integers(0, 2, n) * random.integers(40, 200, n),
    )
    requests = decodes + (prompts > 0)
    distinct = np.minimum(random.integers(1, 9, n), np.maximum(requests, 1))
    loads = (random.random(n) < 0.1).astype(int)
    cost = FIXED + REQUEST * requests + TOKEN * (decodes + prompts) + ADAPTER * distinct
    took = (cost + LOAD * loads) * factor / 1e3
    start = np.concatenate([[0.0], np.cumsum(took)[:-1]])
    steps = pl.DataFrame(
        {
            "t": start,
            "dt": took,
            "batch": requests,
            "tokens": decodes + prompts,
            "distinct": distinct,
            "waiting_after": np.zeros(n, dtype=int),
            "n_load": loads,
            "n_act": np.zeros(n, dtype=int),
        }
    )
    (folder / f"{name}_steps.csv.gz").write_bytes(gzip.compress(steps.write_csv().encode()))
    pl.DataFrame(
        {
            "adapter": [0, 1, 2, 3],
            "in": [100, 120, 140, 90],
            "out": [50, 40, 60, 55],
            "first": [1e9] * 4,
            "done": [2e9] * 4,
        }
    ).write_csv(folder / f"{name}_requests.csv")
    args = {"grouped": grouped, "block_size": 32, "max_num_seqs": 32, "max_batched": 512}
    (folder / f"{name}_summary.json").write_text(json.dumps({"args": args}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record(tmp_path, "grouped_a", grouped=True, seed=1)
    record(tmp_path, "grouped_b", grouped=True, seed=2)
    record(tmp_path, "stock", grouped=False, seed=3, factor=3.0)
    return tmp_path


def test_prices_are_recovered(folder: Path) -> None:
    profile, fit = profile_of_recordings(read_recordings(folder), command="c", source="s")
    step_time = profile.step_time
    assert step_time.fixed_ms == pytest.approx(FIXED, rel=1e-6)
    assert step_time.request_ms == pytest.approx(REQUEST, rel=1e-6)
    assert step_time.token_ms == pytest.approx(TOKEN, rel=1e-6)
    assert step_time.adapter_ms == pytest.approx(ADAPTER, rel=1e-6)
    assert profile.adapter_loading.disk_load_ms(8) == pytest.approx(LOAD, rel=1e-6)
    assert profile.rule_set == "vllm-0.33"
    assert fit.total_error_percent["grouped_a"] == pytest.approx(0.0, abs=1e-6)


def test_another_kernel_is_reported_and_never_mixed_in(folder: Path) -> None:
    _, fit = profile_of_recordings(read_recordings(folder), command="c", source="s")
    assert fit.total_error_percent["stock"] == pytest.approx(-200 / 3, rel=1e-3)


def test_a_recording_is_foretold_from_another(folder: Path) -> None:
    a, b, _ = read_recordings(folder)
    fit = fit_recordings([a], [b])
    assert abs(fit.total_error_percent["grouped_b"]) < 1e-6


def test_the_profile_is_priced_as_its_recordings(folder: Path) -> None:
    profile, _ = profile_of_recordings(read_recordings(folder), command="c", source="s")
    tables = profile.step_time.tables(8, 32, 512)
    step = int(tables.base[110]) + 3 * int(tables.distinct_adapter[110]) + 11 * tables.request_ps
    expected = FIXED + TOKEN * 110 + 3 * ADAPTER + 11 * REQUEST
    assert step * 1e-9 == pytest.approx(expected, rel=1e-3)


def test_a_folder_without_the_kernel_is_refused(tmp_path: Path) -> None:
    record(tmp_path, "stock", grouped=False, seed=3)
    with pytest.raises(InputError, match="grouped"):
        profile_of_recordings(read_recordings(tmp_path), command="c", source="s")


def test_a_missing_companion_is_named(folder: Path) -> None:
    (folder / "grouped_b_summary.json").unlink()
    assert is_recordings(folder)
    with pytest.raises(InputError, match="grouped_b_summary"):
        read_recordings(folder)
