"""Facts about GPUs: what the vendor states, what a driver reports, and prices seen.

Prices go stale: a profile's ``[price]`` overrides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorapack.errors import InputError, did_you_mean
from lorapack.profile.section import number


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: lorapack's name for it, as in a profile's name.
        memory_gib: Memory that PyTorch sees, GiB.
        bandwidth_gb_per_s: Memory bandwidth at its peak, 10^9 bytes a second; unknown if ``None``.
        bf16_tflops: Dense bfloat16 rate at its peak, 10^12 operations a second.
        host_link_gb_per_s: Host link, one way, at its peak, 10^9 bytes a second.
        power_watts: Board power; unknown if ``None``.
        usd_per_hour: A price seen for an hour; not sold by the hour if ``None``.
    """

    name: str
    memory_gib: float = number(above=True)
    bandwidth_gb_per_s: float | None = number(above=True, optional=True)
    bf16_tflops: float | None = number(above=True, optional=True)
    host_link_gb_per_s: float | None = number(above=True, optional=True)
    power_watts: float | None = number(optional=True)
    usd_per_hour: float | None = number(optional=True)

    @classmethod
    def named(cls, name: str) -> Gpu:
        """The GPU of that name.

        Raises:
            InputError: No such name; the mend holds the nearest.
        """
        if name in GPUS:
            return GPUS[name]
        raise InputError("--gpu", None, name, did_you_mean(name, GPUS))


GIB_PER_GB = 1e9 / 2**30

GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        # Sources: data sheets as collected in ai-dynamo/aiconfigurator's systems/*.yaml; prices are
        # middles of the ranges seen in 2026 on public comparison pages.
        Gpu("l4-24gb", 22.03, 300.0, 121.0, 32.0, 72.0),
        Gpu("a10g-24gb", 22.06, 600.0, 70.0, 32.0, 150.0),
        Gpu("l40s-48gb", 44.39, 864.0, 362.0, 32.0, 350.0),
        Gpu("a100-40gb", 39.39, 1555.0, 312.0, 32.0, 400.0),
        Gpu("a100-80gb", 79.15, 2039.0, 312.0, 32.0, 400.0, 1.90),
        # Its rate is assumed to be the SXM part's; bandwidth and power no source states.
        Gpu("h100-64gb", 63.43, None, 989.0, 64.0),
        Gpu("h100-80gb", 79.10, 3350.0, 989.0, 64.0, 700.0, 2.95),
        Gpu("h200-141gb", 139.81, 4800.0, 989.0, 64.0, 700.0, 4.00),
        Gpu("b200-180gb", 178.35, 7700.0, 2250.0, 64.0, 1000.0, 4.60),
        Gpu("mi300x-192gb", 191.98, 5300.0, 1307.0, 64.0, 750.0),
    )
}
"""The GPUs that lorapack knows, by name."""
