"""The wheel and the sdist, each installed in an empty environment, do the main job (slow tier)."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DATA = ("report/page.html", "report/page.css", "report/page.js", "py.typed", "_native.pyi")
"""Files that are no modules and must travel along."""


def run(*command: object, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(repository, tmp_path_factory) -> tuple[Path, Path]:
    """A wheel built from the sdist, so that both are whole; and the sdist."""
    if shutil.which("cargo") is None:
        pytest.skip("RUST ABSENT: no package was built")
    folder = tmp_path_factory.mktemp("dist")
    maturin = [sys.executable, "-m", "maturin"]
    run(*maturin, "sdist", "--out", folder, cwd=repository)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = next(path for path in folder.iterdir() if path.is_dir())
    run(*maturin, "build", "--release", "--locked", "--out", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel, sdist


def test_the_wheel_is_for_the_stable_abi_and_complete(packages, repository):
    wheel, _ = packages
    assert "-cp310-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"lorapack/{name}" for name in DATA} <= names
    assert "lorapack/_native.abi3.so" in names or "lorapack/_native.pyd" in names
    profiles = (repository / "python/lorapack/profile/builtin").glob("*.toml")
    assert {f"lorapack/profile/builtin/{path.name}" for path in profiles} <= names
    assert not [name for name in names if "/tests/" in name or name.endswith(".rs")]


def test_the_wheel_does_the_main_job_without_rust(packages, repository, tmp_path):
    wheel, _ = packages
    run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    binaries = tmp_path / "empty" / "bin"
    bare = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path)}
    assert shutil.which("cargo", path=bare["PATH"]) is None
    index = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    run(binaries / "pip", "install", "-q", wheel, cwd=tmp_path, environment={**bare, **index})
    out = tmp_path / "plan.json"
    fleet = repository / "examples" / "fleet.csv"
    run(binaries / "lorapack", "pack", fleet, "-o", out, cwd=tmp_path, environment=bare)
    assert json.loads(out.read_text())["verified"] is True
    doctor = json.loads(
        run(binaries / "lorapack", "doctor", "--json", cwd=tmp_path, environment=bare)
    )
    assert doctor["ok"]
    assert min(start_up_s(binaries, tmp_path, bare) for _ in range(3)) < 1.0


def start_up_s(binaries: Path, folder: Path, environment: dict[str, str]) -> float:
    """Seconds until `pack` has begun its work: here, until it says what is wrong with the fleet.

    The processor's, since the clock's are those of whatever else runs.
    """
    fleet = folder / "broken.csv"
    fleet.write_text("adapter,rank,rate_rps\nsql,16,fast\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [binaries / "lorapack", "pack", fleet], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, b"rate_rps" in done.stderr) == (2, True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_the_sdist_builds_and_does_the_main_job(packages, tmp_path):
    _, sdist = packages
    run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    binaries = tmp_path / "empty" / "bin"
    run(binaries / "pip", "install", "-q", sdist, cwd=tmp_path)
    fleet = tmp_path / "fleet.csv"
    fleet.write_text("adapter,rank,rate_rps\nsql,16,0.2\nsummaries,8,0.4\n")
    run(binaries / "lorapack", "pack", fleet, "-o", "plan.json", cwd=tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["n_gpus"] == 1
