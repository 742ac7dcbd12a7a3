"""The printer: JSON for machines, tables for people, nothing that a name could smuggle in."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lorapack.cli.output import Printer, Table, cell_text, json_text


@dataclass
class Facts:
    mean: float
    names: tuple[str, ...]


def test_json_takes_what_results_hold():
    data = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": Facts(float("inf"), ("x",)),
        "d": Path("f"),
        "e": {8: np.int64(1)},
        "f": "\u00e9\ud800",
    }
    assert json.loads(json_text(data)) == {
        "a": 0.5,
        "b": [0, 1],
        "c": {"mean": None, "names": ["x"]},
        "d": "f",
        "e": {"8": 1},
        "f": "\u00e9\ud800",
    }
    with pytest.raises(TypeError, match="no form in JSON"):
        json_text({"a": object()})


def test_json_and_quiet_and_text(capsys):
    Printer(json=True).result({"n": 1}, "text")
    assert capsys.readouterr().out == '{"n": 1}\n'
    Printer(quiet=True).result({"n": 1}, "text")
    Printer(quiet=True).note("n")
    Printer(quiet=True).warn("n")
    assert capsys.readouterr() == ("", "")
    Printer().result({"n": 1}, "text")
    Printer().warn("careful")
    assert capsys.readouterr() == ("text\n", "warning: careful\n")


def test_a_piped_table_is_plain_columns(capsys):
    rows = [["a", 1, 0.5], ["long name", 12345, None]]
    Printer().result({}, Table("gpus", ["adapter", "n", "share"], rows))
    assert capsys.readouterr().out.splitlines() == [
        "gpus",
        "adapter         n  share",
        "a               1    0.5",
        "long name  12,345      -",
    ]


def test_cells_cannot_move_the_cursor():
    assert cell_text("a\x1b[2Jb\n") == "a\ufffd[2Jb\ufffd"
    assert cell_text(True) == "yes"


def test_notes_cannot_move_the_cursor(capsys):
    Printer().warn("a\x1b[2Jb")
    assert capsys.readouterr().err == "warning: a\ufffd[2Jb\n"


def test_a_terminal_gets_a_table_with_names_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    Printer().result({}, Table("t", ["adapter"], [["[red]x[/red]"]]))
    assert "[red]x[/red]" in capsys.readouterr().out


def test_progress_without_a_terminal_is_silent(capsys):
    with Printer().progress("working", 3) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_stays_on_stderr(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Printer().progress("working", 3) as advance:
        advance(3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [80, 60, 200])
def test_a_terminal_shows_names_and_numbers_whole(monkeypatch, capsys, width):
    name = "llama-3.1-8b/h100-64gb/vllm-0.8.5"
    columns = ["gpu", "profile", "adapters", "rate_rps", "max_lora_rank", "holds"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    rows = [["gpu-0", name, 12345, 20.31, 32, "yes"]]
    Printer().result({}, Table("", columns, rows))
    said = capsys.readouterr().out
    assert "\u2026" not in said, "nothing is cut off"
    for whole in ("12,345", "20.31", "adapters", "holds", "yes"):
        assert whole in said
    folded = "".join(word for line in said.splitlines() for word in line[7:].split()[:1])
    assert width < 80 or name in folded
