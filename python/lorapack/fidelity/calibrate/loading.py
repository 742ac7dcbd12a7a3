"""The fit of adapter loading: copies into a slot and reads from disk, by rank.

Twelve measured means say three and two constants a model; non-negative least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import nnls

from lorapack.profile.adapter_loading import AdapterLoading


@dataclass(frozen=True)
class LoadingFit:
    """What the fit came to.

    Attributes:
        loading: The constants.
        gpu_error_percent: Mean absolute error of a copy into a slot, per cent.
        disk_error_percent: Of a read from disk.
        n: Settings measured.
    """

    loading: AdapterLoading
    gpu_error_percent: float
    disk_error_percent: float
    n: int


def fit_loading(path: Path, model: str) -> LoadingFit:
    """Fits one model's rows of ``adapter_loading.csv``.

    Args:
        path: The file.
        model: The model's name in it.
    """
    rows = pl.read_csv(path).filter(pl.col("model") == model)
    rank = rows["adapter_rank"].to_numpy().astype(np.float64)
    partial = (rank < rows["max_lora_rank"].to_numpy()).astype(np.float64)
    gpu_ms = rows["mem_load_ms_mean"].to_numpy()
    disk_ms = rows["disk_load_ms_mean"].to_numpy()
    gpu_design = np.column_stack([np.ones_like(rank), rank, partial])
    disk_design = np.column_stack([np.ones_like(rank), rank])
    gpu, _ = nnls(gpu_design, gpu_ms)
    disk, _ = nnls(disk_design, disk_ms)
    return LoadingFit(
        AdapterLoading(
            gpu_fixed_ms=float(gpu[0]),
            gpu_rank_ms=float(gpu[1]),
            gpu_partial_ms=float(gpu[2]),
            disk_fixed_ms=float(disk[0]),
            disk_rank_ms=float(disk[1]),
        ),
        gpu_error_percent=float(np.mean(np.abs(gpu_design @ gpu / gpu_ms - 1)) * 100),
        disk_error_percent=float(np.mean(np.abs(disk_design @ disk / disk_ms - 1)) * 100),
        n=rows.height,
    )
