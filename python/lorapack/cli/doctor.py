"""`lorapack doctor`: what is installed, what is missing, and whether the native module works."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

import click

from lorapack.cli.output import Printer, Table, common_options

OK, MISSING, BROKEN = "ok", "missing", "broken"

MOST_NAMED = 4
"""Packages named in one line; of more, their number."""

_REQUIREMENT = re.compile(
    r"^([A-Za-z0-9_.-]+)(\[[^]]*\])?[^;]*(?:;.*extra *== *['\"]([^'\"]+)['\"])?"
)


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        state: `ok`, `missing` (something optional is not there) or `broken`.
        detail: What was found.
        mend: What to do about it; empty where nothing is to be done.
    """

    name: str
    state: str
    detail: str
    mend: str = ""


@click.command("doctor", epilog="Example: lorapack doctor --json")
@common_options
def command(out: Printer, seed: int) -> None:
    """Check what is installed.

    Says what is missing and how to get it. `ok` in the JSON is false when something is broken.
    """
    checks = [*_machine(), _guarded("native module", lambda: _native(seed)), *_extras()]
    checks += _profiles()
    out.result(
        {"ok": all(check.state != BROKEN for check in checks), "checks": checks},
        Table(
            "",
            ["check", "state", "found", "mend"],
            [[check.name, check.state, check.detail, check.mend or None] for check in checks],
        ),
    )


def _machine() -> Iterator[Check]:
    version = platform.python_version()
    new_enough = sys.version_info >= (3, 10)
    yield Check("python", OK if new_enough else BROKEN, f"{version} on {platform.platform()}")
    yield Check("lorapack", OK, metadata.version("lorapack"))
    yield Check("cores", OK, f"{len(_cores())} of {os.cpu_count()} may be used")


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _native(seed: int) -> Check:
    """Replays a minute of one adapter: the module loads, and what it says can be true."""
    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.profile.profile import Profile
    from lorapack.twin.run import simulate

    fleet = Fleet([Adapter("probe", rank=8, rate_rps=1.0)])
    profile = Profile.load(Profile.names()[0])
    result = simulate(profile, fleet, duration_s=60.0, seed=seed, max_loras=1)
    found = f"a minute replayed in {result.wall_s * 1e3:.3g} ms"
    return Check("native module", OK if result.completed > 0 else BROKEN, found)


def _extras() -> Iterator[Check]:
    """One check an extra of lorapack: are its packages there?"""
    needs: dict[str, list[str]] = {}
    for requirement in metadata.requires("lorapack") or []:
        parts = _REQUIREMENT.match(requirement)
        if parts and parts[3] and parts[1].lower() != "lorapack":
            needs.setdefault(parts[3], []).append(parts[1])
    for extra, packages in sorted(needs.items()):
        missing = [package for package in packages if not _installed(package)]
        if missing:
            mend = f"pip install 'lorapack[{extra}]'"
            yield Check(f"extra {extra}", MISSING, f"without {', '.join(missing)}", mend)
        else:
            many = len(packages) > MOST_NAMED
            found = f"{len(packages)} packages" if many else ", ".join(packages)
            yield Check(f"extra {extra}", OK, found)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _profiles() -> Iterator[Check]:
    """One check a built-in profile: it loads, its engine starts, and has it a predictor?"""
    from lorapack.profile.profile import Profile

    for name in Profile.names():
        yield _guarded(f"profile {name}", lambda name=name: _profile(name))  # type: ignore[misc]
        yield _guarded(f"predictor {name}", lambda name=name: _predictor(name))  # type: ignore[misc]


def _profile(name: str) -> Check:
    from lorapack.profile.profile import Profile

    plan = Profile.load(name).memory_plan(max_loras=8, max_lora_rank=16)
    found = f"{plan.kv_cache_tokens:,} KV tokens beside 8 slots of rank 16"
    return Check(f"profile {name}", OK if plan.starts else BROKEN, plan.refusal or found)


def _predictor(name: str) -> Check:
    from lorapack.errors import InputError
    from lorapack.predictor.predictor import Predictor
    from lorapack.profile.profile import Profile

    try:
        Predictor.load(Profile.load(name))
    except InputError as error:
        return Check(f"predictor {name}", MISSING, "no model answers for it", error.mend)
    return Check(f"predictor {name}", OK, "loads")


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:
        return Check(name, BROKEN, _first_line(error), "install lorapack again")


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
