"""``simulate`` and ``conform``, word for word: help and errors (figures are not golden)."""

import pytest

RUNS = {
    "scenario_unknown_key": (
        ["simulate", "in.toml"],
        "in.toml",
        "duration_s = 60\n[engine]\nmax_lora = 3\n[[adapter]]\nadapter = 'a'\nrank = 8\n"
        "rate_rps = 1\n",
    ),
    "scenario_bad_arrivals": (
        ["simulate", "in.toml"],
        "in.toml",
        "[arrivals]\nkind = 'gama'\n[[adapter]]\nadapter = 'a'\nrank = 8\nrate_rps = 1\n",
    ),
    "slots_below_the_fleet_s_rank": (
        ["simulate", "in.csv", "--max-lora-rank", "8"],
        "in.csv",
        "adapter,rank,rate_rps\na,16,1\n",
    ),
    "recording_damaged": (["conform", "in.jsonl.gz"], "in.jsonl.gz", "\x1f no gzip"),
}


@pytest.mark.parametrize("command", ["simulate", "conform"])
def test_help(lorapack, golden, command):
    code, said, complaints = lorapack(command, "--help")
    assert (code, complaints) == (0, "")
    golden(f"simulate/help-{command}", said)


@pytest.mark.parametrize("name", RUNS)
def test_error(lorapack, golden, tmp_path, name):
    arguments, file, content = RUNS[name]
    (tmp_path / file).write_text(content)
    code, said, complaints = lorapack(*arguments)
    assert (code, said) == (2, "")
    golden(f"simulate/{name}", f"$ lorapack {' '.join(arguments)}\n-- exit {code}\n{complaints}")
