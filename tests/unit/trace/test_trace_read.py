"""Public traces and lorapack's own become the same columns; each fault is named with its line."""

import gzip
import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapack.errors import InputError
from lorapack.trace.trace import SCHEMA, Trace

AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
MOONCAKE = '{"timestamp": %s, "input_length": %s, "output_length": %s, "hash_ids": [0, 1]}'
OURS = b"arrival_s,adapter,prompt_tokens,output_tokens\n"


def read(tmp_path, content, name="trace.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Trace.read(path, **options)


def refused(tmp_path, content, name="trace.csv", **options):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, name, **options)
    return caught.value


def test_azure_of_2023_with_seven_digits_crlf_and_no_last_newline(tmp_path):
    rows = b"2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109"
    trace = read(tmp_path, AZURE + rows)
    assert trace.frame.rows() == [(0.0, None, 374, 44), (pytest.approx(4.314579), None, 396, 109)]
    assert not trace.names_adapters
    assert trace.span_s == pytest.approx(4.314579, abs=1e-9)


def test_azure_of_2024_with_a_zone_and_out_of_order(tmp_path):
    rows = b"2024-05-10 00:00:01+00:00,20,2\n2024-05-10 00:00:00.009930+00:00,10,1\n"
    trace = read(tmp_path, AZURE + rows + b"2024-05-10T02:00:02.5+02:00,30,3\n")
    assert trace.frame["prompt_tokens"].to_list() == [10, 20, 30]
    assert trace.frame["arrival_s"].to_list() == pytest.approx([0, 0.99007, 2.49007])


def test_burstgpt_old_and_new_columns_leave_failures_out(tmp_path):
    old = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    new = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Log Type\n"
    one = read(tmp_path, old + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,9,0,9,API log\n")
    assert one.frame.rows() == [(0.0, None, 472, 18)]
    assert one.notes == ("1 of 2 requests have 0 tokens and were left out",)
    two = read(tmp_path, new + "5.5,s,1.2,ChatGPT,472,18,API log\n")
    assert two.frame.rows() == [(0.0, None, 472, 18)]


def test_mooncake_counts_milliseconds(tmp_path):
    lines = [MOONCAKE % (3000, 10, 1), "", MOONCAKE % (1500, 20, 2)]
    trace = read(tmp_path, "\r\n".join(lines), "trace.jsonl")
    assert trace.frame.rows() == [(0.0, None, 20, 2), (1.5, None, 10, 1)]


def test_our_own_keeps_its_clock_and_its_adapters(tmp_path):
    trace = read(tmp_path, b"# rule: by hand\n" + OURS + b"2,b,20,2\n1.5, a ,10,1\n\n")
    assert trace.frame.rows() == [(1.5, "a", 10, 1), (2.0, "b", 20, 2)]
    assert trace.names_adapters


def test_other_columns_can_be_named(tmp_path):
    content = "when,tenant,in,out\n2023-11-16T18:15:46Z,x,10,1\n2023-11-16T18:15:47Z,y,20,2\n"
    columns = {
        "arrival_s": "when",
        "adapter": "tenant",
        "prompt_tokens": "in",
        "output_tokens": "out",
    }
    trace = read(tmp_path, content, columns=columns)
    assert trace.frame.rows() == [(0.0, "x", 10, 1), (1.0, "y", 20, 2)]
    wrong = refused(tmp_path, content, columns={**columns, "output_tokens": "outt"})
    assert wrong.mend == "add column outt, or say which it is (is it out?)"
    assert "did you mean adapter?" in refused(tmp_path, content, columns={"adaptr": "x"}).mend


def test_gzip_is_read_and_a_cut_one_refused(tmp_path):
    whole = gzip.compress(OURS + b"1,a,10,1\n")
    assert len(read(tmp_path, whole, "trace.csv.gz")) == 1
    assert "cut short" in refused(tmp_path, whole[:-9], "trace.csv.gz").mend


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6),
            st.sampled_from(["a", "b,c", 'd"', "\u00e9"]),
            st.integers(1, 2**31),
            st.integers(1, 2**31),
        ),
        min_size=1,
    ),
    st.sampled_from([".csv", ".parquet"]),
)
def test_what_is_written_is_read_back(tmp_path_factory, rows, suffix):
    frame = pl.DataFrame(sorted(rows, key=lambda row: row[0]), schema=dict(SCHEMA), orient="row")
    path = tmp_path_factory.mktemp("trace") / f"trace{suffix}"
    Trace(frame, "by hand").write(path, provenance={"rule": "by hand"})
    assert Trace.read(path).frame.equals(frame)


@pytest.mark.parametrize(
    ("content", "place", "mend"),
    [
        (OURS + b"1,a,10,1\n\n2,a,x,1\n", "line 4, column prompt_tokens", "finite number"),
        (b"# c\n" + OURS + b"1,a,10,1\n2,a,0,1\n", "line 4, column prompt_tokens", "1 or more"),
        (OURS + b"1,a,10.5,1\n", "line 2, column prompt_tokens", "whole number"),
        (OURS + b"1,a,10,1e99\n", "line 2, column output_tokens", "whole number"),
        (OURS + b"1,a,10,\n", "line 2, column output_tokens", "finite number"),
        (OURS + b"nan,a,10,1\n", "line 2, column arrival_s", "finite number"),
        (OURS + b"inf,a,10,1\n", "line 2, column arrival_s", "finite number"),
        (OURS + b"-1,a,10,1\n", "line 2, column arrival_s", "start of the scenario"),
        (OURS + b"1,a,10,1\n2,,10,1\n", "line 3, column adapter", "in every row"),
        (OURS + b"1,a,10,1,7\n", "line 2", "give 4 cells, not 5"),
        (OURS + b'1,"a,10,1\n', "line 2", "mend the CSV"),
        (OURS + b"1,a,10,1\n1,\xff,10,1\n", "line 3", "UTF-8"),
        (OURS, None, "holds no request"),
        (b"", None, "is empty"),
        (b"\xef\xbb\xbf \n", None, "is empty"),
        (AZURE + b"yesterday,1,1\n", "line 2, column TIMESTAMP", "give a date"),
        (AZURE + b"2023-11-16 18:15:46,-1,1\n", "line 2, column ContextTokens", "0 or more"),
        (AZURE + b"2023-11-16 18:15:46,1,0\n", None, "no request with a prompt"),
    ],
)
def test_a_damaged_csv_is_refused(tmp_path, content, place, mend):
    error = refused(tmp_path, content)
    assert error.place == place
    assert mend in error.mend


@pytest.mark.parametrize(
    ("content", "place", "mend"),
    [
        (MOONCAKE % (1, 2, 3) + "\n{", "line 2", "mend the JSON"),
        ("[1]", "line 1", "one JSON object"),
        (MOONCAKE % (1, 2, '"x"'), "line 1, column output_length", "finite number"),
        (MOONCAKE % (1, 2, "null"), "line 1, column output_length", "finite number"),
        (MOONCAKE % ("NaN", 2, 1), "line 1, column timestamp", "finite number"),
        (MOONCAKE % (1, "[2]", 1), "line 1, column input_length", "finite number"),
        (MOONCAKE % (1, 1, "9" * 400), "line 1, column output_length", "finite number"),
        (MOONCAKE % (1, "true", 1), "line 1, column input_length", "finite number"),
        ('{"timestamp": 1}', "columns", "known are"),
        ("[" * 100_000, "line 1", "mend the JSON"),
    ],
)
def test_a_damaged_jsonl_is_refused(tmp_path, content, place, mend):
    error = refused(tmp_path, content, "trace.jsonl")
    assert error.place == place
    assert mend in error.mend


def test_a_cut_parquet_is_refused(tmp_path):
    frame = pl.DataFrame([(1.0, "a", 10, 1)], schema=dict(SCHEMA), orient="row")
    Trace(frame, "by hand").write(tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    for keep in (3, 100, len(content) - 1):
        assert "cut short" in refused(tmp_path, content[:keep], "cut.parquet").mend
    assert "a trace is .csv" in refused(tmp_path, content, "trace.xlsx").mend


@pytest.mark.parametrize(
    ("name", "rows", "mean_prompt"),
    [
        ("AzureLLMInferenceTrace_conv.csv", 19_366, 1154.697),
        ("AzureLLMInferenceTrace_code.csv", 8_819, 2047.848),
        ("mooncake_conversation_trace.jsonl", 12_031, 12_035.061),
    ],
)
def test_the_public_traces_are_read_whole(measured_data, name, rows, mean_prompt):
    trace = Trace.read(measured_data / "traces" / name)
    assert len(trace) == rows
    assert trace.frame["prompt_tokens"].mean() == pytest.approx(mean_prompt, abs=1e-3)
    assert 3400 < trace.span_s < 3600


def test_jsonl_of_our_own(tmp_path):
    row = {"arrival_s": 1, "prompt_tokens": 10, "output_tokens": 1, "adapter": "a", "more": {}}
    assert read(tmp_path, json.dumps(row), "t.jsonl").frame.rows() == [(1.0, "a", 10, 1)]
