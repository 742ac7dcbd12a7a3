"""The names of the package itself."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import lorapack as lp


def test_version_is_the_installed_packages() -> None:
    assert lp.__version__ == version("lorapack")
    assert "__version__" in dir(lp)


def test_importing_the_package_reads_no_metadata() -> None:
    code = "import lorapack, sys; print('importlib.metadata' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'packs'"):
        lp.packs  # noqa: B018
