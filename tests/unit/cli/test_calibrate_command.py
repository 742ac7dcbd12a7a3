"""`lorapack calibrate`: what it is given is told apart, and what it cannot use is named."""

from __future__ import annotations

import pytest

from lorapack.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        ([], "give one folder of measurements"),
        (["{folder}"], "give a folder with serving_runs.csv"),
        (["--prometheus"], "give metric files, or the URL of Prometheus"),
        (["--prometheus", "{folder}/history.json", "--max-loras", "4"], "history.json"),
        (["--url", "http://127.0.0.1:9"], "give the server's slots"),
        (["--url", "http://127.0.0.1:9", "--max-loras", "4"], "lists no models"),
        (["--url", "http://127.0.0.1:9", "{folder}"], "give it alone"),
    ],
)
def test_what_cannot_be_fitted_is_named(arguments, mend, tmp_path, capsys):
    given = [argument.format(folder=tmp_path) for argument in arguments]
    assert run(["calibrate", *given, "-o", str(tmp_path / "profile.toml")]) == 2
    assert mend in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_older_answers_stay_and_no_request_is_sent(tmp_path, monkeypatch, capsys):
    from lorapack.fidelity.calibrate import active

    asked = []
    monkeypatch.setattr(active, "fit_server", lambda url, *_a, **_k: asked.append(url))
    answers = tmp_path / "profile.answers.csv"
    answers.write_text("mine")
    arguments = ["calibrate", "--url", "http://127.0.0.1:9", "--max-loras", "4"]
    arguments += ["-o", str(tmp_path / "profile.toml")]
    assert run(arguments) == 2
    assert "profile.answers.csv: output" in capsys.readouterr().err
    assert asked == []
    assert answers.read_text() == "mine"


def test_forced_the_load_test_begins(tmp_path, capsys):
    answers = tmp_path / "profile.answers.csv"
    answers.write_text("mine")
    arguments = ["calibrate", "--url", "http://127.0.0.1:9", "--max-loras", "4", "--force"]
    assert run([*arguments, "-o", str(tmp_path / "profile.toml")]) == 2
    assert "lists no models" in capsys.readouterr().err
    assert answers.read_text() == "mine", "a load test that fails replaces nothing"
