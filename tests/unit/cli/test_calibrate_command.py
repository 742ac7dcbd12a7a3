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
