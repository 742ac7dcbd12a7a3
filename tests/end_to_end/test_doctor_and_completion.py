"""`lorapack doctor` tells the truth, and the shell can complete commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lorapack.cli import doctor
from lorapack.cli.main import run


def checks(capsys):
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found["ok"], {check["name"]: check for check in found["checks"]}


def test_a_working_installation_is_ok(capsys):
    ok, found = checks(capsys)
    assert ok
    assert found["native module"]["state"] == "ok"
    assert found["profile llama-3.1-8b/h100-64gb/vllm-0.8.5"]["state"] == "ok"
    assert any(name.startswith("extra ") for name in found)


def test_a_broken_native_module_is_said(capsys, monkeypatch):
    def broken(_seed):
        raise ImportError("undefined symbol: PyExc_Nothing")

    monkeypatch.setattr(doctor, "_native", broken)
    ok, found = checks(capsys)
    assert not ok
    assert found["native module"]["state"] == "broken"
    assert "undefined symbol" in found["native module"]["detail"]


def test_a_missing_package_is_said_with_its_extra(capsys, monkeypatch):
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda p: p != "altair" and installed(p))
    ok, found = checks(capsys)
    assert ok, "an extra that is not installed breaks nothing"
    assert found["extra report"]["state"] == "missing"
    assert found["extra report"]["mend"] == "pip install 'lorapack[report]'"


@pytest.mark.parametrize(
    ("typed", "offered"), [("lorapack dep", "deploy"), ("lorapack deploy --for", "--format")]
)
def test_the_shell_completes(typed, offered):
    words = typed.split()
    done = subprocess.run(
        [sys.executable, "-c", "from lorapack.cli.main import cli; cli(prog_name='lorapack')"],
        env={
            **os.environ,
            "_LORAPACK_COMPLETE": "bash_complete",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"plain,{offered}" in done.stdout.split()
