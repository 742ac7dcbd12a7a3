"""Judging by prediction: the memory rule exactly, the rest by the model that the twin taught.

An answer costs microseconds and is no proof: no seed is run, and a model errs most where it
matters, near the edge of the service level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lorapack.packer.evaluate import SlotRule
from lorapack.packer.guide import LOAD, MOST_PRESSURE, PRESSURE, first_load
from lorapack.packer.kv_capacity import KvCapacity
from lorapack.packer.online import CAUTION, MOST_QUEUED
from lorapack.packer.verify import Judges, Lessons
from lorapack.packer.works import Works
from lorapack.predictor.predictor import Predictor
from lorapack.predictor.targets import Prediction
from lorapack.twin.physics import FEATURE_INDEX, Physics
from lorapack.twin.service_level import SERVICE_LEVELS, ServiceLevel, Violation
from lorapack.twin.trial import Trial, TwinJudge, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lorapack.packer.problem import Problem
    from lorapack.packer.settings import Settings
    from lorapack.profile.memory import MemoryPlan
    from lorapack.profile.profile import Profile
    from lorapack.twin.physics import WorkSums

N_ADAPTERS = FEATURE_INDEX["n_adapters"]
EFFECTIVE_ADAPTERS = FEATURE_INDEX["effective_adapters"]
GAP_CV_SQUARE = FEATURE_INDEX["gap_cv_square"]
TTFT, SLOT_WAIT = FEATURE_INDEX["ttft_s"], FEATURE_INDEX["slot_wait_s"]

FEW = 1.5
"""Adapters, by their weight, below which models have seen too little."""

IDLE = 0.02
"""A load below which models have seen nothing, either."""

CALM_CV = 1.5
"""Variation of gaps up to which physics, that knows means, may stand in for a model."""

TAIL = 4.6
"""99th percentile over the mean, of waits that are spread exponentially."""

LEAST_FULL = 1e-6
"""Of what a GPU is full at, at least: one without traffic."""

MOST_STARVED = 0.1
"""A GPU likelier than this to serve less than 0.9 of its tokens does not hold."""


class Question(NamedTuple):
    """A GPU whose engine starts.

    Attributes:
        profile: Of the GPU.
        sums: What its adapters ask for.
        slots: LoRA slots.
        rank: The rank that they are made for.
        tokens: KV capacity.
    """

    profile: Profile
    sums: WorkSums
    slots: int
    rank: int
    tokens: int

    @property
    def is_short(self) -> bool:
        """Whether there are fewer slots than adapters."""
        return self.slots < self.sums.n_adapters


class Told(NamedTuple):
    """An answer: the question, the features made from it, the prediction made from them."""

    question: Question
    row: NDArray[np.float32]
    said: Prediction


@dataclass
class PredictedJudge:
    """Judges trials by prediction, for the whole window of an hour, warm.

    Attributes:
        slo: The service level.
        given: Models that `lorapack train` wrote; for other profiles those that come with them.
        host_memory_gib: Host memory of a GPU for adapters in the CPU cache; None: ample.
        works: What adapters ask of GPUs.
    """

    slo: ServiceLevel
    given: tuple[Predictor, ...] = ()
    host_memory_gib: float | None = None
    works: Works = field(default_factory=Works, repr=False)
    _models: dict[int, Predictor] = field(default_factory=dict, repr=False)
    _limits: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    _physics: dict[tuple[int, int], Physics] = field(default_factory=dict, repr=False)
    _rule: TwinJudge = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rule = TwinJudge(self.slo, host_memory_gib=self.host_memory_gib)

    def judge(self, trials: Sequence[Trial]) -> list[Verdict]:
        """One verdict a trial, in order; those of one profile are predicted together."""
        verdicts = [Verdict(trial, refusal=self._rule.refusal(trial)) for trial in trials]
        asked = [i for i, verdict in enumerate(verdicts) if verdict.refusal is None]
        for i, told in zip(asked, self._told([trials[i] for i in asked]), strict=True):
            said = told.said
            verdicts[i] = Verdict(
                trials[i],
                violations=self.broken(said, told.row, told.question),
                served_fraction=said.served_fraction,
                ttft_p99_ms=said.ttft_p99_ms,
                throughput_tps=said.throughput_tps,
            )
        return verdicts

    def predictions(self, trials: Sequence[Trial]) -> list[Prediction]:
        """What the model says of trials that start, in order."""
        return [told.said for told in self._told(trials)]

    def broken(
        self, said: Prediction, row: NDArray[np.float32], question: Question
    ) -> tuple[Violation, ...]:
        """What of the level a prediction breaks, or physics where it knows more.

        Args:
            said: The prediction.
            row: The features it was made from.
            question: What they were made from.
        """
        found = self._broken_by_model(said, row, short=question.is_short)
        # A queue for slots now and then is rare, and a model knows what is usual.
        if not found and question.is_short and self.slo.ttft_p99_ms is not None:
            queued = self.queued_share(question)
            if queued > MOST_QUEUED:
                return (Violation("queued_share", MOST_QUEUED, queued),)
        return found

    def _broken_by_model(
        self, said: Prediction, row: NDArray[np.float32], *, short: bool
    ) -> tuple[Violation, ...]:
        level = self.slo
        pressure = float(row[PRESSURE]) if short else 0.0
        if _is_for_physics(row):
            return self._broken_by_physics(row, pressure, short=short)
        found: list[Violation] = []
        if said.out_of_range:
            found += self._broken_by_physics(row, pressure, short=short)
        if said.served_fraction < level.min_served:
            found.append(Violation("min_served", level.min_served, said.served_fraction))
        elif said.starved_probability > MOST_STARVED:
            found.append(Violation("starved_probability", MOST_STARVED, said.starved_probability))
        if level.ttft_p99_ms is not None and said.ttft_p99_ms > level.ttft_p99_ms:
            found.append(Violation("ttft_p99_ms", level.ttft_p99_ms, said.ttft_p99_ms))
        if level.tpot_ms is not None and said.itl_mean_ms > level.tpot_ms:
            found.append(Violation("tpot_ms", level.tpot_ms, said.itl_mean_ms))
        if _within_interactive(level) and said.slo_margin < 0.0:
            found.append(Violation("slo_margin", 0.0, said.slo_margin))
        if level.adapter_min_served is not None and pressure > MOST_PRESSURE:
            found.append(Violation("slot_pressure", MOST_PRESSURE, pressure))
        return tuple(found)

    def _broken_by_physics(
        self, row: NDArray[np.float32], pressure: float, *, short: bool
    ) -> tuple[Violation, ...]:
        limit = CAUTION * first_load(self.slo)
        found = []
        if row[LOAD] > limit:
            found.append(Violation("load", limit, float(row[LOAD])))
        if pressure > MOST_PRESSURE:
            found.append(Violation("slot_pressure", MOST_PRESSURE, pressure))
        # With a slot each nobody waits for one, which physics does not take into account.
        wait_s = float(row[TTFT]) - (0.0 if short else float(row[SLOT_WAIT]))
        wait_ms = TAIL * 1e3 * wait_s
        if self.slo.ttft_p99_ms is not None and wait_ms > self.slo.ttft_p99_ms:
            found.append(Violation("ttft_p99_ms", self.slo.ttft_p99_ms, wait_ms))
        return tuple(found)

    def slot_limit(self, profile: Profile, max_lora_rank: int) -> int:
        """The most LoRA slots of that rank with which the engine starts; 0 if none does."""
        key = (id(profile), max_lora_rank)
        if key not in self._limits:
            self._limits[key] = self._rule.slot_limit(profile, max_lora_rank)
        return self._limits[key]

    def kv_cache_tokens(self, profile: Profile, max_loras: int, max_lora_rank: int) -> int:
        """KV capacity of an engine, tokens; 0 if it does not start."""
        return self._rule.kv_cache_tokens(profile, max_loras, max_lora_rank)

    def memory(self, profile: Profile, max_loras: int, max_lora_rank: int) -> MemoryPlan:
        """What the memory rule says of an engine of this profile."""
        return self._rule.memory(profile, max_loras, max_lora_rank)

    def model(self, profile: Profile) -> Predictor:
        """The model of a profile.

        Raises:
            InputError: It has none, or none of its present constants.
        """
        if id(profile) not in self._models:
            named = [model for model in self.given if model.profile.name == profile.name]
            self._models[id(profile)] = named[0] if named else Predictor.load(profile)
        return self._models[id(profile)]

    def row(self, question: Question) -> NDArray[np.float32]:
        """The features of a GPU whose engine starts, shape (1, features)."""
        return self._physics_of(question).features(
            question.sums, max_loras=question.slots, kv_cache_tokens=question.tokens
        )

    def queued_share(self, question: Question) -> float:
        """Share of the requests whose adapter comes for a slot when all are in use, at most."""
        return self._physics_of(question).queued_share(
            question.sums, max_loras=question.slots, kv_cache_tokens=question.tokens
        )

    def fewest_slots(self, question: Question) -> int:
        """The fewest slots with which that is as rare as it must be; those asked about at most."""
        if self.slo.ttft_p99_ms is None:
            return question.slots
        return self._physics_of(question).fewest_slots(
            question.sums,
            MOST_QUEUED,
            max_loras=question.slots,
            kv_cache_tokens=question.tokens,
        )

    def _physics_of(self, question: Question) -> Physics:
        key = (id(question.profile), question.rank)
        if key not in self._physics:
            self._physics[key] = Physics.of(question.profile, max_lora_rank=question.rank)
        return self._physics[key]

    def _told(self, trials: Sequence[Trial]) -> list[Told]:
        found: dict[int, Told] = {}
        for profile in {id(trial.profile): trial.profile for trial in trials}.values():
            mine = [i for i, trial in enumerate(trials) if trial.profile is profile]
            questions = [self._question(trials[i]) for i in mine]
            rows = np.concatenate([self.row(question) for question in questions])
            said = self.model(profile).predict_many(rows).tolist()
            for i, question, row, told in zip(mine, questions, rows, said, strict=True):
                found[i] = Told(question, row, Prediction._make(told))
        return [found[i] for i in range(len(trials))]

    def _question(self, trial: Trial) -> Question:
        profile, slots, rank = trial.profile, trial.max_loras, trial.max_lora_rank
        sums = self.works.sums(trial.adapters, profile, rank, trial.rate_factor)
        return Question(profile, sums, slots, rank, self.kv_cache_tokens(profile, slots, rank))


def predicted_judges(problem: Problem, settings: Settings) -> Judges:
    """Judges who predict, by the problem's level and by `batch`.

    Raises:
        InputError: A profile has no model.
    """
    lessons = Lessons()
    level, relaxed = (
        PredictedJudge(slo, settings.predictors, problem.host_memory_gib, lessons.works)
        for slo in (problem.slo, problem.batch_slo)
    )
    for kind in problem.pool:
        level.model(kind.profile)
    return Judges(level, relaxed, problem.slo, problem.batch_slo, lessons=lessons)


@dataclass
class PredictedSlots:
    """Says by prediction with which slots a GPU holds: those of the shortest wait.

    What physics said of the last full GPU is where the next one is expected to be full.

    Attributes:
        judge: Who predicts.
        profile: Of the GPU.
        rules: Ways to choose slots; the one that held last is asked about first.
    """

    judge: PredictedJudge
    profile: Profile
    rules: Sequence[SlotRule]
    _favoured: SlotRule = field(init=False, repr=False)
    _full: float = field(init=False, repr=False)
    _capacity: KvCapacity = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._favoured = self.rules[0]
        self._full = CAUTION * first_load(self.judge.slo)
        self._capacity = KvCapacity(self.profile, self.judge)

    def holds(self, sums: WorkSums, rank: int) -> bool:
        """Whether the level is kept with the slots that held last, or with others."""
        n, limit = sums.n_adapters, self._limit(sums, rank)
        if n and not limit:
            return False
        first = self._favoured.slots(n, limit)
        if self._holding(sums, rank, [first]):
            return True
        others = self._rules(sums, rank)
        others.pop(first, None)
        holding = self._holding(sums, rank, list(others)) if others else []
        if holding:
            self._favoured = others[min(holding)[1]]
        return bool(holding)

    def slots(self, sums: WorkSums, rank: int) -> int | None:
        """The best number of slots: all worth trying are asked about in one batch.

        Then the best again, with the KV capacity that they really leave.
        """
        if sums.n_adapters and not self._limit(sums, rank):
            return None
        judge, profile = self.judge, self.profile
        for _, slots in sorted(self._holding(sums, rank, list(self._rules(sums, rank)))):
            tokens = judge.kv_cache_tokens(profile, slots, rank)
            question = Question(profile, sums, slots, rank, tokens)
            row = judge.row(question)
            if not judge.broken(judge.model(profile).tell(row), row[0], question):
                return slots
        return None

    def expected(self, sums: WorkSums, rank: int) -> float:
        """By physics, over what it said of the last GPU that was full."""
        return self._said(sums, rank) / self._full

    def learn(self, sums: WorkSums, rank: int) -> None:
        """Remembers what physics says of a GPU that is full."""
        self._full = max(self._said(sums, rank), LEAST_FULL)

    def _said(self, sums: WorkSums, rank: int) -> float:
        """The load with the favoured slots, or the pressure on them."""
        limit = self._limit(sums, rank)
        slots = self._favoured.slots(sums.n_adapters, limit) if limit else 0
        question = self._question(sums, slots, rank)
        row = self.judge.row(question)[0]
        return float(max(row[LOAD], row[PRESSURE])) if question.is_short else float(row[LOAD])

    def _limit(self, sums: WorkSums, rank: int) -> int:
        """The most slots with which the engine starts; 0 for the base model alone."""
        return self._capacity.slot_limit(rank) if sums.n_adapters else 0

    def _rules(self, sums: WorkSums, rank: int) -> dict[int, SlotRule]:
        """Numbers of slots worth trying, the likeliest first, and a rule that gives each.

        Among them the fewest for which nobody queues: each costs engine time, used or not.
        """
        n, limit = sums.n_adapters, self._limit(sums, rank)
        rules = {rule.slots(n, limit): rule for rule in reversed(self.rules)}
        if n > 1:
            fewest = self.judge.fewest_slots(self._question(sums, min(n, limit), rank))
            rules.setdefault(fewest, SlotRule(share=fewest / n))
        return rules

    def _question(self, sums: WorkSums, slots: int, rank: int) -> Question:
        return Question(self.profile, sums, slots, rank, self._capacity.tokens(slots, rank))

    def _holding(
        self, sums: WorkSums, rank: int, choices: Sequence[int]
    ) -> list[tuple[float, int]]:
        """Of some numbers of slots those with which the level is kept, each with its wait."""
        judge, model = self.judge, self.judge.model(self.profile)
        questions = [self._question(sums, slots, rank) for slots in choices]
        rows = [judge.row(question) for question in questions]
        if len(rows) == 1:
            told = [model.tell(rows[0])]
        else:
            answers = model.predict_many(np.concatenate(rows))
            told = [Prediction._make(answer) for answer in answers.tolist()]
        return [
            (said.ttft_p99_ms, question.slots)
            for question, said, row in zip(questions, told, rows, strict=True)
            if not judge.broken(said, row[0], question)
        ]


def _is_for_physics(row: NDArray[np.float32]) -> bool:
    """Whether physics knows more than the model: next to nobody on the GPU, or next to no load."""
    few = row[N_ADAPTERS] == 0 or row[EFFECTIVE_ADAPTERS] < FEW or row[LOAD] < IDLE
    return bool(few and row[GAP_CV_SQUARE] <= CALM_CV**2)


def is_wide(said: Prediction, level: ServiceLevel) -> bool:
    """Whether a prediction leaves open if the level is kept: its interval reaches past the edge."""
    if level.ttft_p99_ms is not None:
        return said.ttft_p99_ms_high > level.ttft_p99_ms
    return said.served_fraction_low < level.min_served


def _within_interactive(level: ServiceLevel) -> bool:
    """Whether the level promises all that `interactive` does, of which models know the margin."""
    asked = SERVICE_LEVELS["interactive"]
    assert asked.ttft_p99_ms is not None, "interactive promises a wait"
    return (
        level.min_served >= asked.min_served
        and level.ttft_p99_ms is not None
        and level.ttft_p99_ms <= asked.ttft_p99_ms
        and (level.adapter_min_served or 0.0) >= (asked.adapter_min_served or 0.0)
    )
