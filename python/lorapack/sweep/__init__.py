"""Sweeps: many scenarios, run side by side, into Parquet.

Reading guide: `axis.py` is one key that varies, `fleet_law.py` a fleet drawn by rule, `grid.py` a
SWEEP.toml as numbered scenarios; `run.py` runs them in chunks (`ray.py` on a cluster), `store.py`
is the folder they end in and how it is read.
"""

from lorapack.sweep.grid import Refused, Sweep
from lorapack.sweep.run import SweepDone, run_sweep
from lorapack.sweep.store import read_sweep_definition, scan_sweep

__all__ = ["Refused", "Sweep", "SweepDone", "read_sweep_definition", "run_sweep", "scan_sweep"]
