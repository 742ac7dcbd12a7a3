"""`lp.Packer`: adapters come and go one by one, each placed in microseconds by prediction.

Every GPU keeps the sums that physics needs, so a look at it costs the same with ten adapters or a
thousand. Nothing moves: an adapter goes on the fullest GPU of its rank class that prediction says
still holds it. `verify` asks the twin, and `lorapack pack --from` tidies up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lorapack.errors import Infeasible, InputError
from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.guide import LOAD, MOST_PRESSURE, PRESSURE, first_load
from lorapack.packer.placement import GpuPlacement, Item, item_order
from lorapack.packer.pool import kind_of
from lorapack.twin.physics import Physics, WorkSums, work_of
from lorapack.twin.service_level import ServiceLevel, service_level
from lorapack.twin.trial import HOUR, TwinJudge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lorapack._native import Work
    from lorapack.fleet.adapter import Adapter
    from lorapack.profile.profile import Profile
    from lorapack.twin.trial import Verdict

LOOKS = 4
"""GPUs looked at for a newcomer, the fullest first, and then the emptiest, before one is opened."""

CAUTION = 0.93
"""Share of the load at the cliff up to which GPUs are filled: prediction is a few per cent off."""

MOST_QUEUED = 0.01
"""Of requests that may find all slots in use: those whose wait a 99th percentile leaves out."""


@dataclass
class _Open:
    """One GPU that is open."""

    name: str
    rank: int
    slots: int
    kv_cache_tokens: int
    physics: Physics
    most_queued: float
    sums: WorkSums = field(default_factory=WorkSums)
    adapters: dict[str, tuple[Adapter, Work]] = field(default_factory=dict)
    load: float = 0.0
    refused: float = float("inf")
    """Tokens a second of the smallest adapter refused since one left: larger ones need no look."""

    def look(self) -> float:
        """The predicted load; where slots do not suffice, endless."""
        slots, tokens = self.slots, self.kv_cache_tokens
        row = self.physics.features(self.sums, max_loras=slots, kv_cache_tokens=tokens)[0]
        crowded = slots < self.sums.n_adapters and (
            row[PRESSURE] > MOST_PRESSURE
            or self.physics.queued_share(self.sums, max_loras=slots, kv_cache_tokens=tokens)
            > self.most_queued
        )
        return float("inf") if crowded else float(row[LOAD])


class Packer:
    """Places adapters as they come, forgets them as they go.

    Args:
        profile: Of every GPU.
        slo: The service level or its name.
        rate_headroom: Share by which stated rates are raised.
        max_loras: Slots of every GPU opened; memory may allow fewer.
        max_gpus: GPUs opened at most; None: as many as it takes.

    Example:
        >>> import lorapack as lp
        >>> packer = lp.Packer(lp.Profile.load())
        >>> packer.add(lp.Adapter("summaries", rank=16, rate_rps=0.5))
        'gpu-0'
        >>> packer.add(lp.Adapter("translations", rank=16, rate_rps=1.5))
        'gpu-0'
        >>> packer.remove("summaries")
        >>> packer.n_gpus, packer.gpu_of("translations")
        (1, 'gpu-0')
    """

    def __init__(
        self,
        profile: Profile,
        *,
        slo: str | ServiceLevel = "interactive",
        rate_headroom: float = 0.1,
        max_loras: int = 64,
        max_gpus: int | None = None,
    ) -> None:
        if max_loras < 1:
            raise InputError("Packer", "max_loras", max_loras, "give 1 or more")
        self.profile = profile
        self.slo = service_level(slo) if isinstance(slo, str) else slo
        self.rate_headroom = rate_headroom
        self.max_loras = max_loras
        self.max_gpus = max_gpus
        self._limit = CAUTION * first_load(self.slo)
        self._judge = TwinJudge(self.slo)
        self._gpus: dict[int, list[_Open]] = {}
        self._where: dict[str, _Open] = {}
        self._opened = 0

    @property
    def n_gpus(self) -> int:
        """GPUs that hold an adapter."""
        return sum(bool(gpu.adapters) for group in self._gpus.values() for gpu in group)

    def __len__(self) -> int:
        """Adapters placed."""
        return len(self._where)

    def gpu_of(self, adapter: str) -> str:
        """The name of the GPU that holds an adapter.

        Raises:
            InputError: None does.
        """
        return self._holder(adapter).name

    def add(self, adapter: Adapter) -> str:
        """Places an adapter.

        Returns:
            The name of its GPU.

        Raises:
            InputError: One of that name is placed already.
            Infeasible: It fits on no GPU, or no more may be opened.
        """
        if adapter.adapter in self._where:
            raise InputError("Packer.add", "adapter", adapter.adapter, "remove it first")
        believed = replace(adapter, rate_rps=adapter.rate_rps * (1.0 + self.rate_headroom))
        rank = max_lora_rank_for([adapter])
        work, size = work_of(believed, self.profile, rank), self._tokens_per_s(believed)
        group = self._gpus.setdefault(rank, [])
        room = [gpu for gpu in group if size < gpu.refused]
        room.sort(key=lambda gpu: -gpu.load)
        for gpu in [*room[:LOOKS], *room[LOOKS:][-1:]]:
            if self._join(gpu, believed, work):
                return gpu.name
            gpu.refused = size
        gpu = next((gpu for gpu in group if not gpu.adapters), None) or self._open(rank, group)
        if not self._join(gpu, believed, work):
            raise Infeasible(
                f"adapter {adapter.adapter} at {believed.rate_rps:.3g} requests/s exceeds one GPU",
                "split its traffic over several names, or plan it with lorapack pack",
            )
        return gpu.name

    def remove(self, adapter: str) -> None:
        """Forgets an adapter; its GPU keeps running, empty or not.

        Raises:
            InputError: It is not placed.
        """
        gpu = self._holder(adapter)
        _, work = gpu.adapters.pop(adapter)
        del self._where[adapter]
        gpu.sums.remove(work)
        gpu.load = gpu.look() if gpu.adapters else 0.0
        gpu.refused = float("inf")

    def placement(self) -> Mapping[str, tuple[str, ...]]:
        """GPU -> its adapters, by name."""
        return {
            gpu.name: tuple(sorted(gpu.adapters))
            for group in self._gpus.values()
            for gpu in group
            if gpu.adapters
        }

    def verify(self, seeds: tuple[int, ...] = (0,)) -> dict[str, Verdict]:
        """What the twin says of every GPU over an hour.

        Args:
            seeds: One simulated hour each.

        Returns:
            GPU -> verdict.
        """
        judge = TwinJudge(self.slo, HOUR, seeds)
        kind = kind_of(self.profile)
        open_ = [gpu for group in self._gpus.values() for gpu in group if gpu.adapters]
        trials = []
        for gpu in open_:
            items = sorted((Item(a) for a, _ in gpu.adapters.values()), key=item_order)
            slots = min(gpu.slots, sum(not item.load.is_base for item in items))
            trials.append(GpuPlacement(kind, tuple(items), slots).trial())
        return dict(zip([gpu.name for gpu in open_], judge.judge(trials), strict=True))

    def _join(self, gpu: _Open, adapter: Adapter, work: Work) -> bool:
        gpu.sums.add(work)
        gpu.adapters[adapter.adapter] = (adapter, work)
        load = gpu.look()
        if load <= self._limit:
            gpu.load = load
            self._where[adapter.adapter] = gpu
            return True
        del gpu.adapters[adapter.adapter]
        gpu.sums.remove(work)
        return False

    def _tokens_per_s(self, adapter: Adapter) -> float:
        lengths = self.profile.lengths
        prompt = adapter.prompt_tokens or lengths.prompt.mean_tokens
        return adapter.rate_rps * (prompt + (adapter.output_tokens or lengths.output.mean_tokens))

    def _slots(self, rank: int) -> int:
        """Slots of a new GPU: as many as were asked for, or as memory allows."""
        if self._judge.kv_cache_tokens(self.profile, self.max_loras, rank):
            return self.max_loras  # the limit itself takes a dozen questions
        return self._judge.slot_limit(self.profile, rank)

    def _open(self, rank: int, group: list[_Open]) -> _Open:
        if self.max_gpus is not None and self._opened >= self.max_gpus:
            raise Infeasible(
                f"all {self.max_gpus} GPUs are open and none of rank {rank} has room",
                "raise max_gpus, or remove adapters",
            )
        slots = self._slots(rank)
        if slots == 0:
            raise Infeasible(
                f"no engine of {self.profile.name} starts with a slot of rank {rank}",
                "a shorter max_model_len; `lorapack memory` shows what is missing",
            )
        gpu = _Open(
            name=f"gpu-{self._opened}",
            rank=rank,
            slots=slots,
            kv_cache_tokens=self._judge.kv_cache_tokens(self.profile, slots, rank),
            physics=Physics.of(self.profile, max_lora_rank=rank),
            most_queued=1.0 if self.slo.ttft_p99_ms is None else MOST_QUEUED,
        )
        self._opened += 1
        group.append(gpu)
        return gpu

    def _holder(self, adapter: str) -> _Open:
        if adapter not in self._where:
            raise InputError("Packer", "adapter", adapter, "add it first")
        return self._where[adapter]
