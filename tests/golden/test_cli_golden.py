"""What the command line says, word for word: help, good runs and errors."""

import re
from pathlib import Path

import pytest

HELPS = [
    ("pack",),
    ("maxpack",),
    ("compare",),
    ("diff",),
    ("fleet",),
    ("fleet", "show"),
    ("fleet", "from-trace"),
    ("fleet", "from-clients"),
    ("fleet", "from-peft"),
    ("fleet", "from-gateway"),
    ("fleet", "from-vllm"),
    ("deploy",),
    ("report",),
    ("serve",),
    ("validate",),
    ("calibrate",),
    ("doctor",),
]

FLEET = "adapter,rank,rate_rps\na,8,0.5\nb,16,1.5\n"
TRACE = "arrival_s,adapter,prompt_tokens,output_tokens\n0,a,100,10\n1,b,200,20\n3,a,300,30\n"

RUNS = {
    "fleet_show": (["fleet", "show", "in.csv"], "in.csv", FLEET),
    "fleet_show_json": (["fleet", "show", "in.csv", "--json"], "in.csv", FLEET),
    "from_trace_stdout": (
        ["fleet", "from-trace", "in.csv", "--max-model-len", "4096"],
        "in.csv",
        TRACE,
    ),
    "unknown_command": (["pakc"], "in.csv", FLEET),
    "unknown_subcommand": (["fleet", "shwo"], "in.csv", FLEET),
    "negative_rate": (["fleet", "show", "in.csv"], "in.csv", FLEET + "c,8,-1\n"),
    "unknown_rank": (["fleet", "show", "in.csv"], "in.csv", FLEET + "c,1024,1\n"),
    "doubled_adapter": (["fleet", "show", "in.csv"], "in.csv", FLEET + "a,8,1\n"),
    "missing_column": (["fleet", "show", "in.csv"], "in.csv", "adapter,rank,rate\na,8,1\n"),
    "unknown_column": (
        ["fleet", "show", "in.csv"],
        "in.csv",
        "adapter,rank,rate_rps,cvv\na,8,1,1\n",
    ),
    "empty_fleet": (["fleet", "show", "in.csv"], "in.csv", "adapter,rank,rate_rps\n"),
    "damaged_parquet": (["fleet", "show", "in.parquet"], "in.parquet", "PAR1 and no more"),
    "trace_line": (["fleet", "from-trace", "in.csv"], "in.csv", TRACE + "x,b,1,1\n"),
    "trace_of_an_unknown_source": (
        ["fleet", "from-trace", "in.csv"],
        "in.csv",
        "when,in,out\n1,2,3\n",
    ),
    "rank_mix": (["fleet", "from-trace", "in.csv", "--ranks", "8:0.5,999"], "in.csv", TRACE),
    "output_exists": (["fleet", "from-trace", "in.csv", "-o", "in.csv"], "in.csv", TRACE),
}


@pytest.mark.parametrize("path", HELPS, ids="-".join)
def test_help(lorapack, golden, path):
    code, said, complaints = lorapack(*path, "--help")
    assert (code, complaints) == (0, "")
    golden(f"help/{'-'.join(path)}", said)


@pytest.mark.parametrize("name", RUNS)
def test_run(lorapack, golden, tmp_path, name):
    arguments, file, content = RUNS[name]
    (tmp_path / file).write_text(content)
    code, said, complaints = lorapack(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == [file], "nothing may be written"
    assert (tmp_path / file).read_text() == content
    command = f"$ lorapack {' '.join(arguments)}\n-- exit {code}\n"
    complaints = re.sub(r"\((parquet|pyarrow).*\)", "(Polars' own words)", complaints)
    golden(f"runs/{name}", f"{command}-- stdout\n{said}-- stderr\n{complaints}")


def test_no_golden_file_is_left_over():
    names = {f"help/{'-'.join(path)}" for path in HELPS} | {f"runs/{name}" for name in RUNS}
    folder = Path(__file__).parent
    kept = {str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/*.txt")}
    assert kept >= names
    assert {name for name in kept if name.startswith(("help/", "runs/"))} == names
