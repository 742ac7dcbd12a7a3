"""Files become fleets, the same whatever the format; each fault is named with its place."""

import json
import string
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapack.errors import InputError, OutputExistsError
from lorapack.fleet.adapter import Adapter, is_clean_text
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.read import FORMATS

HEADER = b"adapter,rank,rate_rps\n"
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    is_clean_text
)
words = st.text(string.ascii_letters + string.digits + "-_./,\"#;'", min_size=1).filter(
    is_clean_text
)
numbers = st.floats(1, 1e6, allow_nan=False)


@st.composite
def adapters(draw):
    lognormal = draw(st.booleans())
    return Adapter(
        adapter=draw(texts | words),
        rank=draw(st.integers(0, 512)),
        rate_rps=draw(st.floats(0, 1e6)),
        prompt_tokens=draw(numbers if lognormal else st.none() | numbers),
        output_tokens=draw(numbers if lognormal else st.none() | numbers),
        cv=draw(st.floats(0.01, 100)),
        gaps=draw(st.sampled_from(["gamma", "weibull"])),
        model=draw(st.none() | texts),
        pin=draw(st.none() | words),
        path=draw(st.none() | texts | words),
        keep_apart=draw(st.none() | texts),
        lengths="lognormal" if lognormal else "profile",
        prompt_sigma=draw(st.floats(0, 5)) if lognormal else None,
        output_sigma=draw(st.floats(0, 5)) if lognormal else None,
        correlation=draw(st.none() | st.floats(-1, 1)) if lognormal else None,
    )


keys = texts.filter(lambda text: ":" not in text and not text.startswith("#"))
fleets = st.builds(
    Fleet,
    st.lists(adapters(), min_size=1, max_size=8, unique_by=lambda a: a.adapter),
    st.dictionaries(keys, texts, max_size=3),
)


@settings(deadline=None, max_examples=60)
@given(fleets, st.sampled_from(FORMATS))
def test_what_is_written_is_read_back(fleet, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"fleet{suffix}")
        fleet.write(path)
        again = Fleet.read(path)
    assert again == fleet
    assert again.provenance == fleet.provenance


def read(tmp_path, content, name="fleet.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Fleet.read(path, **options)


def refused(tmp_path, content, name="fleet.csv", **options):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, name, **options)
    assert caught.value.file == str(tmp_path / name)
    assert caught.value.exit_code == 2
    return caught.value


def test_bom_crlf_blanks_and_a_missing_last_newline(tmp_path):
    content = b"\xef\xbb\xbf# seed: 7\r\nadapter, rank ,rate_rps\r\n a ,8,0.5\r\n\r\nb,16.0,1e-2"
    fleet = read(tmp_path, content)
    assert list(fleet) == [Adapter("a", 8, 0.5), Adapter("b", 16, 0.01)]
    assert fleet.provenance == {"seed": "7"}


def test_quoted_cells_may_hold_commas_and_a_later_hash_is_a_name(tmp_path):
    fleet = read(tmp_path, HEADER + b'"a,b",8,1\n#c,8,1\n')
    assert [a.adapter for a in fleet] == ["a,b", "#c"]


CELLS = [
    ("rank", "1024"),
    ("rank", "-8"),
    ("rank", "8.5"),
    ("rank", "eight"),
    ("rank", "1_6"),
    ("rank", "\u0661\u0666"),
    ("rank", ""),
    ("rank", "9" * 400),
    ("rate_rps", "-0.5"),
    ("rate_rps", "nan"),
    ("rate_rps", "inf"),
    ("rate_rps", "1e999"),
    ("rate_rps", "2e6"),
    ("rate_rps", ""),
    ("rate_rps", "0.5 rps"),
]


@pytest.mark.parametrize(("column", "cell"), CELLS)
def test_a_bad_cell_is_named_with_its_line(tmp_path, column, cell):
    row = {"adapter": "b", "rank": "8", "rate_rps": "1", column: cell}
    error = refused(tmp_path, HEADER.decode() + "a,8,1\n\n" + ",".join(row.values()) + "\n")
    assert error.place == f"line 4, column {column}"
    assert error.value == cell
    assert "give" in error.mend


def test_lines_are_counted_over_comments_blank_lines_and_line_breaks_in_cells(tmp_path):
    content = '# rule: x\n# more\nadapter,rank,rate_rps,path\n\n"a",8,1,"x\ny"\n'
    error = refused(tmp_path, content)
    assert error.place == "line 5, column path"


def test_a_name_that_stands_twice_names_both_lines(tmp_path):
    error = refused(tmp_path, HEADER + b"a,8,1\nb,8,1\na,16,2\n")
    assert error.place == "line 4, column adapter"
    assert error.value == "a"
    assert "line 2, column adapter" in error.mend


def test_a_missing_column_lists_those_present_and_the_nearest(tmp_path):
    error = refused(tmp_path, b"adapter,rank,rate\na,8,1\n")
    assert error.value == "adapter, rank, rate"
    assert error.mend == "add column rate_rps, or rename rate to it"


def test_an_unknown_column_gets_the_nearest(tmp_path):
    error = refused(tmp_path, b"adapter,rank,rate_rps,promt_tokens\na,8,1,1\n")
    assert error.value == "promt_tokens"
    assert "did you mean prompt_tokens?" in error.mend


@pytest.mark.parametrize(
    ("content", "place", "mend"),
    [
        (b"", None, "is empty"),
        (b"\n \n", None, "is empty"),
        (b"# seed: 1\n", None, "no header"),
        (HEADER, None, "holds no adapter"),
        (b"adapter;rank;rate_rps\na;8;1\n", "line 1 (the header)", "commas"),
        (b"adapter,rank,rate_rps,rank\na,8,1,8\n", "line 1 (the header)", "once"),
        (b"adapter,rank,rate_rps,\na,8,1,\n", "line 1 (the header)", "a name"),
        (HEADER + b"a,8\n", "line 2", "give 3 cells"),
        (HEADER + b"a,8,1,2\n", "line 2", "give 3 cells"),
        (HEADER + b'a,8,"1\n', "line 2", "mend the CSV"),
        (HEADER + b"a,8,1\nb\xff,8,1\n", "line 3", "UTF-8"),
        (HEADER + b"a\x00b,8,1\n", "line 2, column adapter", "control characters"),
        ("adapter,rank,rate_rps\na,8,1\n".encode("utf-16"), "line 1", "UTF-8"),
    ],
)
def test_a_damaged_csv_is_refused(tmp_path, content, place, mend):
    error = refused(tmp_path, content)
    assert error.place == place
    assert mend in error.mend


def test_rates_may_be_left_out_only_beside_a_trace(tmp_path):
    content = b"adapter,rank\na,8\n"
    assert "add column rate_rps" in refused(tmp_path, content).mend
    assert read(tmp_path, content, need_rates=False)["a"].rate_rps == 0.0


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "whole.parquet"
    Fleet([Adapter(f"a{i}", 8, 1.0) for i in range(100)]).write(path)
    return path.read_bytes()


@pytest.mark.parametrize("keep", [1, 4, 30, 200, -1, -8])
def test_a_truncated_parquet_is_refused(tmp_path, parquet, keep):
    assert "damaged or cut short" in refused(tmp_path, parquet[:keep], "fleet.parquet").mend


@pytest.mark.parametrize(
    ("column", "values", "row"),
    [
        ("rank", [8, 600], 2),
        ("rank", [8.0, 8.5], 2),
        ("rank", ["8", "x"], 2),
        ("rank", [[8], [8]], 1),
        ("rank", [True, False], 1),
        ("rate_rps", [1.0, float("nan")], 2),
        ("rate_rps", [1.0, None], 2),
        ("adapter", [1, 2], 1),
        ("adapter", ["a", None], 2),
    ],
)
def test_a_bad_parquet_cell_is_named_with_its_row(tmp_path, column, values, row):
    columns = {"adapter": ["a", "b"], "rank": [8, 8], "rate_rps": [1.0, 1.0], column: values}
    path = tmp_path / "fleet.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(InputError) as caught:
        Fleet.read(path)
    assert caught.value.place == f"row {row}, column {column}"


def test_parquet_of_other_integer_and_float_types_is_read(tmp_path):
    path = tmp_path / "fleet[1].parquet"
    schema = {"adapter": pl.Categorical, "rank": pl.UInt8, "rate_rps": pl.Float32}
    pl.DataFrame({"adapter": ["a"], "rank": [8], "rate_rps": [0.5]}, schema=schema).write_parquet(
        path
    )
    assert list(Fleet.read(path)) == [Adapter("a", 8, 0.5)]


def test_json_is_a_list_or_an_object_that_holds_one(tmp_path):
    row = {"adapter": "a", "rank": 8, "rate_rps": 1}
    assert read(tmp_path, json.dumps([row]), "f.json") == Fleet([Adapter("a", 8, 1.0)])
    whole = {"provenance": {"seed": 3}, "adapters": [{**row, "pin": 2}]}
    fleet = read(tmp_path, json.dumps(whole), "f.json")
    assert fleet["a"].pin == "2"
    assert fleet.provenance == {"seed": "3"}


GOOD = '{"adapter": "a", "rank": 8, "rate_rps": 1}'


@pytest.mark.parametrize(
    ("content", "place", "mend"),
    [
        ("[" + GOOD, "line 1, column 44", "mend the JSON"),
        ("3", None, "list of adapters"),
        ("[]", "adapters", "holds no adapter"),
        ('{"adapters": {}}', "adapters", "list of adapters"),
        ('{"adapter": [1]}', "adapter", "list of adapters"),
        (f'{{"adapters": [{GOOD}], "sed": 1}}', "top level", "unknown key"),
        (f'{{"adapters": [{GOOD}], "provenance": 1}}', "provenance", "texts by name"),
        (f'[{GOOD}, {{"adapter": "b", "rnk": 8}}]', "adapters[1]", "did you mean rank?"),
        (f'[{GOOD}, {{"adapter": "b", "rank": 8}}]', "adapters[1].rate_rps", "finite rate"),
        ('[{"adapter": "a", "rank": 8, "rate_rps": NaN}]', "adapters[0].rate_rps", "finite"),
        ('[{"adapter": "a", "rank": true, "rate_rps": 1}]', "adapters[0].rank", "whole number"),
        ('[{"adapter": "a", "rank": 8, "rank": 16, "rate_rps": 1}]', None, "stands twice"),
        ('[{"adapter": "\\ud800", "rank": 8, "rate_rps": 1}]', "adapters[0].adapter", "name"),
        ("[" * 100_000, None, "mend the JSON"),
        ('[{"adapter": "a", "rank": %s, "rate_rps": 1}]' % ("9" * 5000), None, "mend the JSON"),
    ],
)
def test_a_damaged_json_is_refused(tmp_path, content, place, mend):
    error = refused(tmp_path, content, "fleet.json")
    assert mend in error.mend
    assert error.place == place


def test_toml_is_a_list_of_adapter_tables(tmp_path):
    content = '[provenance]\nseed = 1\n[[adapter]]\nadapter = "a"\nrank = 8\nrate_rps = 0.5\n'
    assert read(tmp_path, content, "f.toml") == Fleet([Adapter("a", 8, 0.5)])
    error = refused(tmp_path, content.replace("rank", "rnk"), "f.toml")
    assert error.place == "adapter[0]"
    assert "mend the TOML" in refused(tmp_path, "adapter = [", "f.toml").mend


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Fleet.read(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        Fleet.read(tmp_path / "folder.csv")
    with pytest.raises(InputError, match=r"\.parquet"):
        Fleet.read(tmp_path / "fleet.xlsx")


def test_nothing_is_written_when_the_name_is_wrong_or_taken(tmp_path):
    fleet = Fleet([Adapter("a", 8, 1.0)])
    with pytest.raises(InputError, match=r"\.toml"):
        fleet.write(tmp_path / "fleet.xlsx")
    fleet.write(tmp_path / "fleet.csv")
    with pytest.raises(OutputExistsError):
        Fleet([Adapter("b", 8, 1.0)]).write(tmp_path / "fleet.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["fleet.csv"]
    assert Fleet.read(tmp_path / "fleet.csv") == fleet


def test_the_same_fleet_gives_the_same_bytes(tmp_path):
    fleet = Fleet([Adapter(f"a{i}", 8, i / 7) for i in range(50)], {"seed": "1"})
    for suffix in FORMATS:
        for name in ("one", "two"):
            fleet.write(tmp_path / f"{name}{suffix}")
        one, two = (tmp_path / f"{name}{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_the_example_fleet_is_what_its_script_makes(repository):
    fleet = Fleet.read(repository / "examples" / "fleet.csv")
    assert len(fleet) == 200
    assert {adapter.rank for adapter in fleet} == {8, 16, 32}
    assert fleet.provenance["seed"] == "2024"
