"""ServeGen's clients, reduced or raw, become the same frame."""

import json

import polars as pl
import pytest

from lorapack.errors import InputError
from lorapack.trace.servegen import read_clients

HEADER = "client,mean_rate_rps,peak_hour_rate_rps,cv,gaps,input_mean,output_mean\n"


@pytest.fixture
def raw(tmp_path):
    """Two clients: one of two hours with a histogram a window, one without lengths."""
    folder = tmp_path / "m-tiny"
    folder.mkdir()
    (folder / "chunk-0-trace.csv").write_text(
        "0,1.0,2.0,Gamma,0.25,1\n600,3.0,1.0,Weibull,1,1\n3600,8.0,1.0,Weibull,1,1\n"
    )
    (folder / "chunk-10-trace.csv").write_text("0,0.5,1,,0,0\n600,0,0,,,")
    histograms = {
        "0": {"input_tokens": "{100: 0.5, 300.0: 0.5}", "output_tokens": "{10: 1.0}"},
        "600": {"input_tokens": "{}", "output_tokens": "{}"},
        "3600": {"input_tokens": "{200: 1.0}", "output_tokens": "{20: 3, 40: 1}"},
    }
    (folder / "chunk-0-dataset.json").write_text(json.dumps(histograms))
    return folder


def test_raw_clients_are_measured_by_hand(raw):
    clients = read_clients(raw)
    first, second = clients.frame.to_dicts()
    assert first["client"] == "m-tiny-0"
    assert first["mean_rate_rps"] == pytest.approx(4.0)
    assert first["peak_hour_rate_rps"] == pytest.approx(8.0)
    assert first["cv"] == pytest.approx((1 * 2 + 3 + 8) / 12)
    assert first["gaps"] == "weibull"
    assert first["input_mean"] == pytest.approx((1 * 200 + 8 * 200) / 9)
    assert first["output_mean"] == pytest.approx((1 * 10 + 8 * 25) / 9)
    assert (first["output_p10"], first["output_p50"], first["output_p90"]) == (10, 20, 40)
    assert second["client"] == "m-tiny-10"
    assert second["gaps"] == "gamma"
    assert second["input_mean"] is None
    assert clients.hourly.rows() == [
        ("m-tiny-0", 0, 2.0),
        ("m-tiny-0", 1, 8.0),
        ("m-tiny-10", 0, 0.25),
    ]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("chunk-0-trace.csv", "0,1,1,Gamma\n600,x,1,Gamma\n", "line 2"),
        ("chunk-0-trace.csv", "0,-1,1,Gamma\n", "line 1"),
        ("chunk-0-trace.csv", "\n", None),
        ("chunk-0-dataset.json", "{", None),
        ("chunk-0-dataset.json", "[]", None),
        ("chunk-0-dataset.json", '{"0": {"input_tokens": "__import__(1)"}}', "0.input_tokens"),
        ("chunk-0-dataset.json", '{"0": {"input_tokens": "{1: -1}"}}', "0.input_tokens"),
        ("chunk-0-dataset.json", '{"0": 3}', "0.input_tokens"),
    ],
)
def test_damaged_raw_files_are_named(raw, name, content, where):
    (raw / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_clients(raw)
    assert caught.value.file == str(raw / name)
    assert caught.value.place == where


def test_an_empty_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(InputError, match=r"chunk-N-trace\.csv"):
        read_clients(tmp_path)


def test_reduced_clients_may_lack_lengths(tmp_path):
    (tmp_path / "clients.csv").write_text(
        HEADER + "m-0,1,2,1.5,Gamma,100,10\nm-1,3,4,1,Weibull,,\n"
    )
    clients = read_clients(tmp_path)
    assert clients.hourly is None
    assert clients.frame["gaps"].to_list() == ["gamma", "weibull"]
    assert clients.frame["input_mean"].to_list() == [100.0, None]


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (",1,2,1,Gamma,1,1", "line 2, column client"),
        ("a,1,2,1,Pareto,1,1", "line 2, column gaps"),
        ("a,-1,2,1,Gamma,1,1", "line 2, column mean_rate_rps"),
        ("a,1,nan,1,Gamma,1,1", "line 2, column peak_hour_rate_rps"),
        ("a,1,2,x,Gamma,1,1", "line 2, column cv"),
        ("a,1,2,1,Gamma,x,1", "line 2, column input_mean"),
        ("a,1,2,1,Gamma,1,-1", "line 2, column output_mean"),
        ("a,1,2,1,Gamma,1,1\na,1,2,1,Gamma,1,1", "line 3, column client"),
    ],
)
def test_a_bad_client_is_named(tmp_path, row, place):
    path = tmp_path / "clients.csv"
    path.write_text(HEADER + row + "\n")
    with pytest.raises(InputError) as caught:
        read_clients(path)
    assert caught.value.place == place


def test_hourly_rates_must_be_of_known_clients(tmp_path):
    (tmp_path / "clients.csv").write_text(HEADER + "a,1,2,1,Gamma,1,1\n")
    hourly = {"client": ["a", "b"], "hour": [0, 0], "rate_rps": [1.0, 1.0]}
    pl.DataFrame(hourly).write_parquet(tmp_path / "hourly_rates.parquet")
    with pytest.raises(InputError, match=r"name a client of clients\.csv"):
        read_clients(tmp_path)


def test_the_measured_clients_are_read(measured_data):
    clients = read_clients(measured_data / "servegen")
    assert clients.frame.height == 205
    assert clients.frame["input_mean"].null_count() == 20
    assert clients.hourly.height == 205 * 336
