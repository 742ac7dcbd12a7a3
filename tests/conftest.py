"""What all tests share: the slow tier's switch and the place of the measured data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MEASURED_DATA = Path(
    os.environ.get("LORAPACK_MEASURED_DATA", REPOSITORY.parent / "shared" / "data")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tier too (CONTRIBUTING.md)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow tier: pass --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """A Python that has vLLM: ``LORAPACK_VLLM_PYTHON``, else this one; skips aloud without it."""
    python = os.environ.get("LORAPACK_VLLM_PYTHON", sys.executable)
    seek = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    if subprocess.run([python, "-c", seek], check=False).returncode != 0:
        pytest.skip("VLLM ABSENT: nothing was held against vLLM itself (CONTRIBUTING.md)")
    return python


@pytest.fixture(scope="session")
def measured_data() -> Path:
    """The folder of measurements, which the project never carries; skips aloud without it."""
    if not MEASURED_DATA.is_dir():
        pytest.skip(f"MEASURED DATA ABSENT: {MEASURED_DATA} is not there; nothing was compared")
    return MEASURED_DATA
