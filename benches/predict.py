"""How long a prediction takes: one row, `GpuState`, batches. Distinct rows, one run.

python benches/predict.py [--model FILE_OR_PROFILE] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lorapack import Adapter, GpuState, Predictor
from lorapack.profile.profile import DEFAULT_PROFILE


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_PROFILE)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model = Predictor.load(arguments.model)
    states = [drawn_state(model, seed) for seed in range(64)]
    rows = [state.features() for state in states]
    rows = [row * np.float32(1 + 1e-4 * i) for i in range(2000) for row in (rows[i % 64],)]
    figures = {
        **spread("one prediction, features to all targets", one_by_one(model.predict, rows)),
        **spread("the same, by name", one_by_one(model.tell, rows)),
        **spread("the same row by onnxruntime", one_by_one(model._run, rows)),
        **spread("GpuState.add + predict", added(states)),
        **spread("GpuState.predict", one_by_one(lambda state: state.predict(), states * 30)),
        "batch of 1,000, a row, us": batch(model, np.concatenate(rows)[:1000]),
    }
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:60s} {value:8.2f}")


def drawn_state(model: Predictor, seed: int) -> GpuState:
    """A GPU with some adapters."""
    draw = np.random.default_rng(seed)
    state = GpuState(model, max_lora_rank=16, max_loras=int(draw.integers(8, 128)))
    for i, rate in enumerate(draw.lognormal(-2.0, 1.0, int(draw.integers(4, 200)))):
        state.add(Adapter(f"a{i}", 16 if i % 2 else 8, float(rate)))
    return state


def one_by_one(call: Callable[[Any], object], rows: Sequence[Any]) -> np.ndarray:
    """Microseconds of each call, after a warm-up."""
    for row in rows[:100]:
        call(row)
    taken = np.empty(len(rows))
    clock = time.perf_counter_ns
    for i, row in enumerate(rows):
        begun = clock()
        call(row)
        taken[i] = clock() - begun
    return taken / 1e3


def added(states: list[GpuState]) -> np.ndarray:
    """Microseconds of adding an adapter and predicting; it is removed outside the clock."""
    adapters = [Adapter(f"new{i}", 8, 0.05 + 0.001 * i) for i in range(2000)]
    taken = np.empty(len(adapters))
    clock = time.perf_counter_ns
    for i, adapter in enumerate(adapters):
        state = states[i % len(states)]
        begun = clock()
        state.add(adapter)
        state.predict()
        taken[i] = clock() - begun
        state.remove(adapter)
    return taken / 1e3


def batch(model: Predictor, rows: np.ndarray) -> float:
    """Microseconds a row, the best of 200 batches."""
    best = np.inf
    for _ in range(200):
        begun = time.perf_counter_ns()
        model.predict_many(rows)
        best = min(best, time.perf_counter_ns() - begun)
    return best / 1e3 / len(rows)


def spread(name: str, taken: np.ndarray) -> dict[str, float]:
    """Median and 99th percentile."""
    return {
        f"{name}, p50 us": float(np.quantile(taken, 0.5)),
        f"{name}, p99 us": float(np.quantile(taken, 0.99)),
    }


if __name__ == "__main__":
    main()
