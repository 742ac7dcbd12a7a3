"""Runs a command line and holds what it said against a file; --update-golden writes the file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def lorapack(tmp_path):
    """Runs ``lorapack`` in an empty folder; returns exit code, stdout and stderr."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "lorapack", *arguments],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"},
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def golden(request):
    """Compares a text with ``tests/golden/NAME.txt``."""

    def compare(name, text):
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), (
            f"no {path.name}: run pytest tests/golden --update-golden, and read it"
        )
        assert text == path.read_text(encoding="utf-8")

    return compare
