"""SCENARIO.toml: a file that says everything a simulated run depends on.

Top level: ``profile`` (a name or a path), ``fleet`` (a path) or ``[[adapter]]`` rows,
``duration_s``, ``warmup_s``, ``judge_until_s``, ``seed``, ``max_in_flight``, ``warm``,
``scrape_interval_s``. Tables:
``[engine]`` (settings under the engine's names), ``[arrivals]`` (``kind`` and its parameters, or
``trace``), ``[lengths]`` (``kind`` and its parameters). Paths are seen from the file's folder. An
unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorapack.errors import InputError, did_you_mean
from lorapack.fleet.adapter import COLUMN, COLUMNS
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.read import RawFleet, checked, file_bytes, utf8_text
from lorapack.profile.profile import DEFAULT_PROFILE, Profile
from lorapack.profile.section import number, read_section
from lorapack.trace.trace import Trace
from lorapack.twin.arrivals import ARRIVAL_KINDS, ArrivalLaw, Piecewise
from lorapack.twin.lengths import Constant, Empirical, LengthLaw, Lognormal, OfProfile
from lorapack.twin.scenario import Scenario

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("engine", "arrivals", "lengths")
"""Tables of a SCENARIO.toml."""

LENGTH_KINDS = ("profile", "constant", "lognormal", "empirical")
"""``kind`` in ``[lengths]``."""


@dataclass(frozen=True)
class RunKeys:
    """Keys of the top level; what is left out is ``None`` and takes the default of `Scenario`."""

    profile: str | None = None
    fleet: str | None = None
    duration_s: float | None = number(above=True, optional=True)
    warmup_s: float | None = number(optional=True)
    judge_until_s: float | None = number(optional=True)
    seed: int | None = number(high=2**64 - 1, optional=True)
    max_in_flight: int | None = number(low=1, optional=True)
    warm: bool | None = None
    scrape_interval_s: float | None = number(above=True, optional=True)


@dataclass(frozen=True)
class EngineKeys:
    """Keys of ``[engine]``; what is left out is ``None``."""

    rule_set: str | None = None
    block_size: int | None = number(low=1, optional=True)
    max_loras: int | None = number(optional=True)
    max_lora_rank: int | None = number(low=1, optional=True)
    max_cpu_loras: int | None = number(optional=True)
    max_num_seqs: int | None = number(low=1, optional=True)
    max_num_batched_tokens: int | None = number(low=1, optional=True)
    max_model_len: int | None = number(low=2, optional=True)
    kv_cache_tokens: int | None = number(low=2, optional=True)
    gpu_memory_utilization: float | None = number(above=True, high=1.0, optional=True)
    long_prefill_token_threshold: int | None = number(optional=True)


def read_scenario(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> Scenario:
    """Reads a SCENARIO.toml.

    Args:
        path: The file.
        overrides: Values in place of the file's, by the names of :class:`Scenario`'s arguments;
            those that are ``None`` override nothing.

    Returns:
        The scenario.

    Raises:
        InputError: Anything in it cannot be used; file, key, value and mend are named.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "scenario.toml")
        >>> _ = path.write_text('''
        ... duration_s = 60
        ... [engine]
        ... kv_cache_tokens = 65_536
        ... [[adapter]]
        ... adapter = "summaries"
        ... rank = 16
        ... rate_rps = 0.5
        ... ''')
        >>> read_scenario(path).engine.max_loras
        1
    """
    file = os.fspath(path)
    return scenario_of_document(_read_toml(file), file, overrides)


def _read_toml(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(utf8_text(file, file_bytes(file)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(file, None, None, f"mend the TOML: {error}") from error


def read_fleet_or_scenario(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> Scenario:
    """Reads a SCENARIO.toml, or a fleet that is to run under the overrides alone.

    Args:
        path: A fleet's file or a SCENARIO.toml; a TOML with nothing but adapters is a fleet.
        overrides: As in :func:`read_scenario`.

    Raises:
        InputError: Anything in it cannot be used.
    """
    file = os.fspath(path)
    if Path(file).suffix.lower() == ".toml":
        document = _read_toml(file)
        if not set(document) <= {"adapter", "adapters", "provenance"}:
            return scenario_of_document(document, file, overrides)
    values = _given_only(overrides or {})
    need_rates = "trace" not in values
    if not need_rates:
        values.setdefault("duration_s", None)
    return scenario_of_values({**values, "fleet": Fleet.read(file, need_rates=need_rates)}, file)


def scenario_of_document(
    document: Mapping[str, Any], file: str, overrides: Mapping[str, Any] | None = None
) -> Scenario:
    """The scenario that a parsed SCENARIO.toml describes.

    Args:
        document: What the TOML parser gave.
        file: The file's path: for messages, and because paths are seen from its folder.
        overrides: As in :func:`read_scenario`.

    Raises:
        InputError: Anything in it cannot be used.
    """
    _check_top_level(document, file)
    folder = Path(file).parent
    top = {k: v for k, v in document.items() if k not in TABLES and k != "adapter"}
    run = _given(read_section(RunKeys, top, file=file, place="top level"))
    engine = _given(
        read_section(EngineKeys, document.get("engine", {}), file=file, place="[engine]")
    )
    profile_name = run.pop("profile", DEFAULT_PROFILE)
    arrivals, trace = _arrivals(document.get("arrivals", {}), file)
    values: dict[str, Any] = {
        **run,
        **engine,
        "arrivals": arrivals,
        "trace": trace,
        "lengths": _lengths(document.get("lengths"), file),
        **_given_only(overrides or {}),
    }
    if "profile" not in values:
        values["profile"] = _profile(profile_name, folder)
    if "fleet" not in values or isinstance(values["fleet"], str):
        need_rates = values["trace"] is None or values["arrivals"] is not None
        values["fleet"] = _fleet(document, file, need_rates=need_rates)
    if values["trace"] is not None and values["arrivals"] is None:
        values.setdefault("duration_s", None)
    return scenario_of_values(values, file)


def scenario_of_values(values: dict[str, Any], file: str) -> Scenario:
    """The scenario of these arguments; errors name the file, a missing profile is the default."""
    if "profile" not in values:
        values["profile"] = Profile.load(DEFAULT_PROFILE)
    try:
        return Scenario(**values)
    except InputError as error:
        raise InputError(file, error.place, error.value, error.mend) from error


def _check_top_level(document: Mapping[str, Any], file: str) -> None:
    known = [field.name for field in dataclasses.fields(RunKeys)] + [*TABLES, "adapter"]
    for key in document:
        if key not in known:
            nested = next(
                (name for name, keys in _NESTED.items() if key in keys),
                None,
            )
            mend = f"move it to [{nested}]" if nested else did_you_mean(key, known)
            raise InputError(file, f"top level {key}", "unknown key", mend)
    if "fleet" in document and "adapter" in document:
        mend = "give one of them: a fleet's path, or [[adapter]] rows"
        raise InputError(file, "top level", "fleet and [[adapter]]", mend)


_NESTED = {"engine": [field.name for field in dataclasses.fields(EngineKeys)]}


def _given(section: object) -> dict[str, Any]:
    return _given_only(
        {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    )


def _given_only(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _profile(name: str, folder: Path) -> Profile:
    """A profile by name, or by a path seen from the file's folder."""
    if name in Profile.names():
        return Profile.load(name)
    beside = folder / name
    return Profile.load(beside if beside.is_file() else name)


def _fleet(document: Mapping[str, Any], file: str, *, need_rates: bool) -> Fleet:
    if "adapter" in document:
        return _fleet_of_rows(document["adapter"], file, need_rates=need_rates)
    if "fleet" not in document:
        raise InputError(file, "top level fleet", None, "give a fleet's path, or [[adapter]] rows")
    return Fleet.read(Path(file).parent / document["fleet"], need_rates=need_rates)


def _fleet_of_rows(rows: object, file: str, *, need_rates: bool) -> Fleet:
    """The fleet of ``[[adapter]]`` tables, by the rules of a fleet's file."""
    usable = isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    if not isinstance(rows, list) or not usable:
        raise InputError(file, "adapter", rows, "give one [[adapter]] table for each adapter")
    for index, row in enumerate(rows):
        for key in row:
            if key not in COLUMN:
                mend = did_you_mean(key, COLUMN)
                raise InputError(file, f"adapter[{index}] {key}", "unknown key", mend)
    columns = {
        column.name: [row.get(column.name) for row in rows]
        for column in COLUMNS
        if any(column.name in row for row in rows)
    }
    if not need_rates:
        columns.setdefault("rate_rps", [0.0] * len(rows))
    return checked(RawFleet(file, columns, "[[adapter]]", lambda i, name: f"adapter[{i}] {name}"))


def _arrivals(table: object, file: str) -> tuple[ArrivalLaw | None, Trace | None]:
    """``[arrivals]``: a law, a trace, or both."""
    keys = _table(table, file, "[arrivals]")
    trace = None
    if "trace" in keys:
        trace = Trace.read(_path(keys.pop("trace"), file, "[arrivals] trace"))
    kind = keys.pop("kind", None)
    if kind is None or kind == "trace":
        if kind == "trace" and trace is None:
            raise InputError(file, "[arrivals] trace", None, "give the trace's path")
        for key in keys:
            mend = did_you_mean(key, ["kind", "trace"]) if kind else "give `kind` first"
            raise InputError(file, f"[arrivals] {key}", "unknown key", mend)
        return None, trace
    if kind not in ARRIVAL_KINDS:
        mend = did_you_mean(str(kind), [*ARRIVAL_KINDS, "trace"])
        raise InputError(file, "[arrivals] kind", kind, mend)
    law = ARRIVAL_KINDS[kind]
    if law is Piecewise:
        return _piecewise(keys, file), trace
    return read_section(law, keys, file=file, place="[arrivals]"), trace


def _piecewise(keys: dict[str, Any], file: str) -> Piecewise:
    names = ("starts_s", "factors")
    _check_keys(keys, names, file, "[arrivals]")
    columns = [_numbers(keys, name, file, "[arrivals]") for name in names]
    try:
        return Piecewise(*(tuple(column.tolist()) for column in columns))
    except InputError as error:
        raise InputError(file, f"[arrivals] {error.place}", error.value, error.mend) from error


def _lengths(table: object, file: str) -> LengthLaw | None:
    """``[lengths]``: a law in place of the adapters' own."""
    if table is None:
        return None
    keys = _table(table, file, "[lengths]")
    kind = keys.pop("kind", None)
    sections = {"profile": OfProfile, "constant": Constant, "lognormal": Lognormal}
    if kind in sections:
        return read_section(sections[kind], keys, file=file, place="[lengths]")
    if kind == "empirical":
        return _empirical(keys, file)
    mend = did_you_mean(str(kind), LENGTH_KINDS) if kind else f"give {', '.join(LENGTH_KINDS)}"
    raise InputError(file, "[lengths] kind", kind, mend)


def _empirical(keys: dict[str, Any], file: str) -> Empirical:
    """Rows of a trace, or values with weights; ``joint = false`` draws the two apart."""
    apart = [name for name in _WEIGHTS if name in keys]
    joint = keys.get("joint", not apart)
    if not isinstance(joint, bool):
        raise InputError(file, "[lengths] joint", joint, "give true or false")
    if joint and apart:
        raise InputError(file, f"[lengths] {apart[0]}", None, "give `weights`, or joint = false")
    if "trace" in keys:
        _check_keys(keys, ("trace", "joint"), file, "[lengths]")
        frame = Trace.read(_path(keys["trace"], file, "[lengths] trace")).frame
        values = {name: frame[name].to_numpy() for name in _VALUES}
    else:
        known = (*_VALUES, "joint", *(("weights",) if joint else _WEIGHTS))
        _check_keys(keys, known, file, "[lengths]")
        values = {name: _numbers(keys, name, file, "[lengths]") for name in _VALUES}
    weights = {
        name: _numbers(keys, name, file, "[lengths]")
        for name in (*_WEIGHTS, "weights")
        if name in keys
    }
    tokens = {name: column.astype(np.float32) for name, column in values.items()}
    try:
        if joint:
            return Empirical.joint(**tokens, **weights)
        return Empirical.independent(**tokens, **weights)
    except InputError as error:
        raise InputError(file, f"[lengths] {error.place}", error.value, error.mend) from error


_VALUES = ("prompt_tokens", "output_tokens")
_WEIGHTS = ("prompt_weights", "output_weights")


def _table(table: object, file: str, place: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise InputError(file, place, table, f"make it a table: {place} and its keys below")
    return dict(table)


def _check_keys(keys: Mapping[str, Any], known: tuple[str, ...], file: str, place: str) -> None:
    for key in keys:
        if key not in known:
            raise InputError(file, f"{place} {key}", "unknown key", did_you_mean(key, known))


def _numbers(keys: Mapping[str, Any], name: str, file: str, place: str) -> NDArray[np.float64]:
    values = keys.get(name)
    if not isinstance(values, list) or not values:
        raise InputError(file, f"{place} {name}", values, "give a list of numbers")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(file, f"{place} {name}[{index}]", value, "give a finite number")
    return np.asarray(values, dtype=np.float64)


def _path(value: object, file: str, place: str) -> Path:
    if not isinstance(value, str):
        raise InputError(file, place, value, "give a path in quotes")
    return Path(file).parent / value
