"""A stand-in for the twin with an answer one can work out by hand.

A GPU's load is the sum of rate x (1 + rank / 64) / 20, dearer by a tenth for each hundred slots; it
holds while the load is at most one and half of its adapters have a slot. Slots of rank r: at most
4,096 / r start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lorapack.profile.profile import Profile
from lorapack.twin.service_level import Violation
from lorapack.twin.trial import Trial, Verdict, n_adapters


def load_of(trial: Trial) -> float:
    work = sum(a.rate_rps * (1 + a.rank / 64) / 20 for a in trial.adapters)
    return work * trial.rate_factor * (1 + trial.max_loras / 1000)


@dataclass
class QuickEvaluator:
    asked: list[Trial] = field(default_factory=list)
    dearer: float = 1.0

    def judge(self, trials: Sequence[Trial]) -> list[Verdict]:
        self.asked += trials
        return [self._judge(trial) for trial in trials]

    def slot_limit(self, profile: Profile, max_lora_rank: int) -> int:
        return 4096 // max_lora_rank

    def kv_cache_tokens(self, profile: Profile, max_loras: int, max_lora_rank: int) -> int:
        return 300_000 - 50 * max_loras * max_lora_rank

    def _judge(self, trial: Trial) -> Verdict:
        if trial.max_loras > self.slot_limit(trial.profile, trial.max_lora_rank):
            return Verdict(trial, refusal="max_model_len")
        load = self.dearer * load_of(trial)
        violations = []
        if load > 1:
            violations.append(Violation("min_served", 0.98, 1 / load))
        if trial.max_loras < n_adapters(trial.adapters) / 2:
            violations.append(Violation("ttft_p99_ms", 2000.0, 9000.0))
        wait = 100 / (1 - load) if load < 1 else 1e5
        return Verdict(
            trial,
            tuple(violations),
            served_fraction=min(1.0, 1 / load) if load else 1.0,
            ttft_p99_ms=wait,
        )
