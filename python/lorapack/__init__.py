"""lorapack: how few GPUs serve this fleet of LoRA adapters, and which adapter goes where.

The names below are the public ones; each is imported from its room when it is first used, so that
``import lorapack`` and ``lorapack --help`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

    from lorapack.errors import Infeasible as Infeasible
    from lorapack.errors import InputError as InputError
    from lorapack.errors import LorapackError as LorapackError
    from lorapack.fleet.adapter import Adapter as Adapter
    from lorapack.fleet.fleet import Fleet as Fleet
    from lorapack.packer.online import Packer as Packer
    from lorapack.packer.pack import pack as pack
    from lorapack.packer.plan import Plan as Plan
    from lorapack.predictor.gpu_state import GpuState as GpuState
    from lorapack.predictor.predictor import Predictor as Predictor
    from lorapack.profile.profile import Profile as Profile
    from lorapack.sweep.run import run_sweep as run_sweep
    from lorapack.sweep.store import scan_sweep as scan_sweep
    from lorapack.trace.trace import Trace as Trace
    from lorapack.twin.maxpack import maxpack as maxpack
    from lorapack.twin.result import Result as Result
    from lorapack.twin.run import simulate as simulate
    from lorapack.twin.run import simulate_many as simulate_many
    from lorapack.twin.scenario import Scenario as Scenario

_HOMES = {
    "Adapter": "lorapack.fleet.adapter",
    "Fleet": "lorapack.fleet.fleet",
    "GpuState": "lorapack.predictor.gpu_state",
    "Infeasible": "lorapack.errors",
    "InputError": "lorapack.errors",
    "LorapackError": "lorapack.errors",
    "Packer": "lorapack.packer.online",
    "Plan": "lorapack.packer.plan",
    "Predictor": "lorapack.predictor.predictor",
    "Profile": "lorapack.profile.profile",
    "Result": "lorapack.twin.result",
    "Scenario": "lorapack.twin.scenario",
    "Trace": "lorapack.trace.trace",
    "maxpack": "lorapack.twin.maxpack",
    "pack": "lorapack.packer.pack",
    "run_sweep": "lorapack.sweep.run",
    "scan_sweep": "lorapack.sweep.store",
    "simulate": "lorapack.twin.run",
    "simulate_many": "lorapack.twin.run",
}
"""Public name -> the module it lives in."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Imports a public name on first use; `__version__` is that of the installed package."""
    value: object
    if name == "__version__":
        from importlib.metadata import version

        value = version("lorapack")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'lorapack' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *_HOMES, "__version__"})
