"""A SWEEP.toml as scenarios: numbered points of a design, each a scenario that the twin can run.

A SWEEP.toml has the keys of a SCENARIO.toml, each a value, a list (one of these) or a range
(``{ from = 1, to = 64, scale = "log" }``), plus ``[design]``. Its ``[fleet]`` may be a table: then
fleets are drawn by rule (:mod:`lorapack.sweep.fleet_law`). :meth:`Sweep.scenario` is a function of
the file and the scenario's number alone, so any part of a sweep can be made anywhere, again.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorapack.errors import Infeasible, InputError
from lorapack.profile.digest import digest_of
from lorapack.profile.profile import DEFAULT_PROFILE, Profile
from lorapack.profile.section import choice, number, read_section
from lorapack.sweep.axis import Axis, Choice, Range, is_range, range_of
from lorapack.sweep.fleet_law import FleetLaw, check_groups, check_ranks, draw_fleet
from lorapack.twin.physics import capacity_rps
from lorapack.twin.read import scenario_of_document
from lorapack.twin.scenario import Scenario, rounded_up_rank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorapack.fleet.fleet import Fleet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LIST_KEYS = (
    "fleet.ranks",
    "fleet.groups",
    "arrivals.starts_s",
    "arrivals.factors",
    "lengths.prompt_tokens",
    "lengths.output_tokens",
    "lengths.prompt_weights",
    "lengths.output_weights",
    "lengths.weights",
)
"""Keys whose one value may be a list: several such values are a list of lists."""

KINDS = ("grid", "latin-hypercube", "sobol")
"""How points are laid out."""

Place = tuple[str | int, ...]
"""Where a value stands: keys, and numbers in an array of tables."""


@dataclass(frozen=True)
class Design:
    """The ``[design]`` of a SWEEP.toml.

    Attributes:
        kind: ``grid`` (every combination), ``latin-hypercube`` or ``sobol`` (n points).
        n: Points of a sampled design; a grid has as many as it has.
        seed: Of the design, and of what its points draw unless they say otherwise; 0 if not given.
        seeds: Scenarios a point, alike but for ``seed`` (which counts up); 1 if not given.
        fit_memory: Lower ``max_loras`` to what starts; else such a point is a row that says so.
        adapters: Keep a row for each adapter, too.
        most_requests: Shorten ``duration_s`` where more requests than so many would be offered.
    """

    kind: str = choice(*KINDS)
    n: int | None = number(low=1, optional=True)
    seed: int | None = number(optional=True)
    seeds: int | None = number(low=1, optional=True)
    fit_memory: bool | None = None
    adapters: bool | None = None
    most_requests: float | None = number(above=True, optional=True)


@dataclass(frozen=True)
class Refused:
    """A point whose engine would not start.

    Attributes:
        document: Its SCENARIO.toml.
        refusal: Which limit forbids it.
    """

    document: Mapping[str, Any]
    refusal: str


@dataclass(frozen=True)
class Sweep:
    """A SWEEP.toml, read and checked.

    Attributes:
        file: Its path: for messages, and because paths in it are seen from its folder.
        document: Its tables without ``[design]``.
        design: How its points are laid out.
        axes: What varies, in the order of the file.

    Example:
        >>> sweep = Sweep.from_toml('''
        ...     duration_s = 60
        ...     [engine]
        ...     max_loras = [8, 16]
        ...     [design]
        ...     kind = "grid"
        ...     [fleet]
        ...     n_adapters = { from = 4, to = 64, scale = "log", n = 3 }
        ...     rates = "equal"
        ...     rate_rps = 0.1
        ... ''')
        >>> len(sweep), sweep.point(5)
        (6, {'engine.max_loras': 16, 'fleet.n_adapters': 64})
    """

    file: str
    document: Mapping[str, Any]
    design: Design
    axes: Mapping[Place, Axis] = field(default_factory=dict)

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], *, profile: str | None = None, seed: int = 0
    ) -> Sweep:
        """Reads a SWEEP.toml.

        Args:
            path: The file, or ``training``: the definition that predictors are trained on.
            profile: Name or path, seen from here, that overrides the file's.
            seed: Of the design, where the file gives none.

        Raises:
            InputError: Something in it cannot be used.
        """
        given = os.fspath(path)
        builtin = Path(__file__).with_name("builtin") / f"{given}.toml"
        source = builtin if given == builtin.stem and builtin.is_file() else Path(given)
        try:
            text = source.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise InputError(given, None, None, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(given, None, None, f"is not UTF-8 text: {error}") from error
        return cls.from_toml(text, file=given, profile=profile, seed=seed)

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        file: str = "sweep",
        profile: str | None = None,
        seed: int = 0,
    ) -> Sweep:
        """Reads the text of a SWEEP.toml; see :meth:`read`."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(file, None, None, f"is not TOML: {error}") from error
        if profile is not None:
            named = profile in Profile.names()
            document["profile"] = profile if named else os.fspath(Path(profile).absolute())
        return cls.from_document(document, file=file, seed=seed)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, file: str, seed: int = 0) -> Sweep:
        """Takes the parsed tables of a SWEEP.toml.

        Raises:
            InputError: Something in it cannot be used.
        """
        tables = copy.deepcopy(dict(document))
        if "design" not in tables:
            mend = f"add [design] and kind = one of {', '.join(KINDS)}"
            raise InputError(file, "[design]", "missing table", mend)
        design = read_section(Design, tables.pop("design"), file=file, place="[design]")
        if design.seed is None:
            design = replace(design, seed=seed)
        sweep = cls(file, tables, design, dict(_axes(tables, file)))
        sweep._check()
        return sweep

    def __len__(self) -> int:
        """Scenarios: points times seeds."""
        return self.n_points * (self.design.seeds or 1)

    @functools.cached_property
    def n_points(self) -> int:
        """Points of the design."""
        if self.design.kind == "grid":
            return math.prod(len(axis.grid()) for axis in self.axes.values())
        return self.design.n or 0

    @functools.cached_property
    def identity(self) -> str:
        """A hash of all that the scenarios depend on: files that it names, profiles' constants."""
        parts = {
            "document": self.document,
            "design": [self.design.kind, self.design.n, self.design.seed, self.design.seeds],
            "fit_memory": bool(self.design.fit_memory),
            "most_requests": self.design.most_requests,
            "adapters": bool(self.design.adapters),
            "axes": [[_dotted(place), repr(axis)] for place, axis in self.axes.items()],
            "profiles": [digest_of(profile) for profile in self.profiles()],
            "files": [_digest(path) for path in self._files()],
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def profiles(self) -> list[Profile]:
        """The profiles that its scenarios may have."""
        axis = self.axes.get(("profile",))
        named = axis.grid() if axis else (self.document.get("profile"),)
        return [self._profile(name) for name in named]

    @property
    def folder(self) -> Path:
        """Where paths in it are seen from."""
        return Path(self.file).parent

    def _profile(self, name: object) -> Profile:
        if name is None or name in Profile.names():
            return _load_profile(DEFAULT_PROFILE if name is None else str(name))
        beside = self.folder / str(name)
        return _load_profile(os.fspath(beside) if beside.is_file() else str(name))

    def point(self, index: int) -> dict[str, object]:
        """What scenario ``index`` has of the keys that vary: dotted key -> value."""
        values = self._values(index // (self.design.seeds or 1))
        return {_dotted(place): value for place, value in zip(self.axes, values, strict=True)}

    def scenario(self, index: int) -> Scenario | Refused:
        """Scenario number ``index`` (from 0).

        Raises:
            InputError: Its values cannot go together; the message names the point.
        """
        point, repetition = divmod(index, self.design.seeds or 1)
        first = self._last_point.get(point)
        if first is None:
            first = self._first_scenario(point)
            # Its repetitions, which come next, are the same but for the seed.
            self._last_point.clear()
            self._last_point[point] = first
        if isinstance(first, Refused):
            seed = first.document["seed"] + repetition
            return Refused({**first.document, "seed": seed}, first.refusal)
        return replace(first, seed=first.seed + repetition) if repetition else first

    @functools.cached_property
    def _last_point(self) -> dict[int, Scenario | Refused]:
        return {}

    def _first_scenario(self, point: int) -> Scenario | Refused:
        document = copy.deepcopy(dict(self.document))
        for place, value in zip(self.axes, self._values(point), strict=True):
            _put(document, place, value)
        if document.get("seed") is None:
            # Points of a sampled design share no draws; those of a grid differ by their keys alone.
            sampled = self.design.kind != "grid"
            document["seed"] = self._seed_of(point) if sampled else self.design.seed or 0
        try:
            return self._scenario(document, point)
        except Infeasible as error:
            return Refused(document, error.limit)
        except InputError as error:
            index = point * (self.design.seeds or 1)
            where = f"scenario {index}: {error.place}" if error.place else f"scenario {index}"
            raise InputError(self.file, where, error.value, error.mend) from error

    def _check(self) -> None:
        design = self.design
        if design.kind == "grid":
            if design.n is not None:
                raise InputError(
                    self.file, "[design] n", design.n, "leave it out: a grid has its own"
                )
            for place, axis in self.axes.items():
                if isinstance(axis, Range) and axis.n is None:
                    mend = "give the range an n: how many values a grid takes of it"
                    raise InputError(self.file, _dotted(place), "a range without n", mend)
        elif design.n is None:
            raise InputError(
                self.file, "[design] n", "missing key", "add `n = ...`, points to draw"
            )

    def _values(self, point: int) -> Sequence[object]:
        if not 0 <= point < self.n_points:
            raise IndexError(f"point {point} of {self.n_points}")
        if self.design.kind == "grid":
            grids = [axis.grid() for axis in self.axes.values()]
            places = np.unravel_index(point, [len(grid) for grid in grids]) if grids else ()
            return [grid[int(place)] for grid, place in zip(grids, places, strict=True)]
        shares = self._shares[point]
        return [
            axis.at(float(share)) for axis, share in zip(self.axes.values(), shares, strict=True)
        ]

    @functools.cached_property
    def _shares(self) -> NDArray[np.float64]:
        """A row of shares (0..1) a point, a column an axis."""
        from scipy.stats import qmc  # slow to import, and a grid has no use for it

        n, seed = self.n_points, self.design.seed or 0
        if not self.axes:
            return np.zeros((n, 0))
        generator = np.random.Generator(np.random.PCG64(seed))
        if self.design.kind == "sobol":
            sobol = qmc.Sobol(len(self.axes), scramble=True, rng=generator)
            rows = sobol.random_base2(max(0, math.ceil(math.log2(n))))[:n]
        else:
            rows = qmc.LatinHypercube(len(self.axes), rng=generator).random(n)
        return np.asarray(rows, dtype=np.float64)

    def _seed_of(self, point: int) -> int:
        return ((self.design.seed or 0) << 32) + (point << 8)

    def _scenario(self, document: dict[str, Any], point: int) -> Scenario:
        profile = self._profile(document.get("profile"))
        law = document.get("fleet")
        if isinstance(law, Mapping):
            del document["fleet"]
            spare = law.get("spare_slots") is not False
            build = functools.partial(self._with_fleet, document, profile, spare)
            scenario = build(self._draw(dict(law), point, profile, build))
        else:
            scenario = scenario_of_document(document, self.file, {"profile": profile})
            scenario = self._fitted(scenario)
        _ = scenario.engine  # an engine that does not start says so here
        return self._shortened(scenario)

    def _draw(
        self,
        law: dict[str, Any],
        point: int,
        profile: Profile,
        build: Callable[[Fleet], Scenario],
    ) -> Fleet:
        ranks = check_ranks(law.pop("ranks", None), self.file)
        groups = check_groups(law.pop("groups", None), self.file)
        rules = read_section(FleetLaw, law, file=self.file, place="[fleet]")
        rules.check(self.file)
        seed = rules.seed
        if seed is None:
            seed = self.design.seed or 0 if self.design.kind == "grid" else self._seed_of(point)
        means = profile.lengths.prompt.mean_tokens, profile.lengths.output.mean_tokens
        return draw_fleet(
            rules, ranks, groups, seed, means, lambda fleet: capacity_rps(build(fleet))
        )

    def _with_fleet(
        self, document: Mapping[str, Any], profile: Profile, spare_slots: bool, fleet: Fleet
    ) -> Scenario:
        overrides = {"profile": profile, "fleet": fleet}
        scenario = scenario_of_document(document, self.file, overrides)
        if not spare_slots and scenario.max_loras is not None:
            n_adapters = sum(not adapter.is_base for adapter in fleet)
            scenario = replace(scenario, max_loras=min(scenario.max_loras, n_adapters))
        return self._fitted(scenario)

    def _shortened(self, scenario: Scenario) -> Scenario:
        """With no more requests offered than wished."""
        most, rate_rps = self.design.most_requests, scenario.fleet.rate_rps
        duration_s = scenario.duration_s
        if most is None or duration_s is None or rate_rps * duration_s <= most:
            return scenario
        return replace(scenario, duration_s=max(most / rate_rps, scenario.warmup_s + 1.0))

    def _fitted(self, scenario: Scenario) -> Scenario:
        """With no more LoRA slots than start, if that is wished."""
        wanted = scenario.max_loras
        if not (self.design.fit_memory and wanted) or scenario.kv_cache_tokens is not None:
            return scenario
        rank = scenario.max_lora_rank or rounded_up_rank(scenario.fleet.largest_rank)
        settings = (scenario.max_num_seqs, scenario.max_model_len, scenario.gpu_memory_utilization)
        most = _most_slots(scenario.profile, rank, *settings)
        return replace(scenario, max_loras=min(wanted, max(most, 1)))

    def _files(self) -> Iterator[Path]:
        for key in ("fleet", "trace"):
            axis = self.axes.get((key,))
            named = axis.grid() if axis else (self.document.get(key),)
            yield from (self.folder / str(name) for name in named if isinstance(name, str))
        arrivals = self.document.get("arrivals")
        if isinstance(arrivals, Mapping) and isinstance(arrivals.get("trace"), str):
            yield self.folder / arrivals["trace"]


def _checked(scenario: Scenario) -> Scenario:
    """The scenario, once its engine is known to start."""
    _ = scenario.engine
    return scenario


def _axes(document: Any, file: str, place: Place = ()) -> Iterator[tuple[Place, Axis]]:  # noqa: ANN401 - TOML
    """Finds what varies, in the order of the file."""
    if isinstance(document, Mapping):
        if is_range(document):
            yield place, range_of(document, file=file, place=_dotted(place))
            return
        for key, value in document.items():
            yield from _axes(value, file, (*place, key))
        return
    if not isinstance(document, list) or not place:
        return
    if document and all(isinstance(item, Mapping) for item in document):
        for i, item in enumerate(document):
            yield from _axes(item, file, (*place, i))
        return
    if _dotted(place) in LIST_KEYS and not (document and isinstance(document[0], list)):
        return
    if not document:
        raise InputError(file, _dotted(place), "[]", "give at least one value")
    yield place, Choice(tuple(document))


def _put(document: Any, place: Place, value: object) -> None:  # noqa: ANN401 - TOML
    *path, last = place
    for key in path:
        document = document[key]
    document[last] = value


def _dotted(place: Place) -> str:
    return ".".join(str(key) for key in place)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(path, None, None, f"cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=64)
def _load_profile(name_or_path: str) -> Profile:
    return Profile.load(name_or_path)


@functools.lru_cache(maxsize=4096)
def _most_slots(
    profile: Profile,
    rank: int,
    max_num_seqs: int | None,
    max_model_len: int | None,
    gpu_memory_utilization: float | None,
) -> int:
    """The most LoRA slots with which the engine starts; 0 if none does."""

    def starts(max_loras: int) -> bool:
        return profile.memory_plan(
            max_loras=max_loras,
            max_lora_rank=rank,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
        ).starts

    low, high = 0, 1
    while starts(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if starts(middle) else (low, middle)
    return low
