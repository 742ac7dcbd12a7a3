"""Gateways' metrics, access logs and a running vLLM become fleets; each assumption is said."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from peft_folders import write_adapter

from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.draw import Popularity, RankMix
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.from_gateway import fleet_from_log, fleet_from_scrape, read_access_log
from lorapack.fleet.from_vllm import fleet_from_vllm, read_models
from lorapack.fleet.lora_requests_info import names_in
from lorapack.fleet.lora_requests_info import slots as lora_slots
from lorapack.fleet.scrape import Window, parse_scrape, read_scrape, read_window
from lorapack.fleet.usage import Ranks

RANKS = Ranks(RankMix.parse("8"))

LLM_D = """\
# HELP llm_d_epp_request_total Counter of requests.
# TYPE llm_d_epp_request_total counter
llm_d_epp_request_total{model_name="a",target_model_name="a-v2",priority="0"} %s
llm_d_epp_request_total{model_name="b",target_model_name="",priority="0"} 40
llm_d_epp_request_total{model_name="b",target_model_name="",priority="1"} 10
llm_d_epp_request_total{model_name="other",target_model_name="other",priority="0"} 7
# TYPE llm_d_epp_request_input_tokens histogram
llm_d_epp_request_input_tokens_bucket{model_name="a",target_model_name="a-v2",le="+Inf"} %s
llm_d_epp_request_input_tokens_sum{model_name="a",target_model_name="a-v2"} 20000
llm_d_epp_request_input_tokens_count{model_name="a",target_model_name="a-v2"} 100
# TYPE llm_d_epp_request_output_tokens histogram
llm_d_epp_request_output_tokens_sum{model_name="a",target_model_name="a-v2"} 5000
llm_d_epp_request_output_tokens_count{model_name="a",target_model_name="a-v2"} 100
"""

OLD_LLM_D = """\
inference_objective_request_total{model_name="a",target_model_name="a"} 60
inference_objective_input_tokens_sum{model_name="a",target_model_name="a"} 6000
inference_objective_output_tokens_sum{model_name="a",target_model_name="a"} 600
"""

MODEL = 'gen_ai_original_model="a",gen_ai_request_model="a-1"'
ENVOY = f"""\
# TYPE gen_ai_client_token_usage_token histogram
gen_ai_client_token_usage_token_sum{{{MODEL},gen_ai_token_type="input"}} 300
gen_ai_client_token_usage_token_count{{{MODEL},gen_ai_token_type="input"}} 3
gen_ai_client_token_usage_token_sum{{{MODEL},gen_ai_token_type="output"}} 30
gen_ai_client_token_usage_token_sum{{{MODEL},gen_ai_token_type="total"}} 330
# TYPE gen_ai_server_request_duration_seconds histogram
gen_ai_server_request_duration_seconds_sum{{{MODEL}}} 9
gen_ai_server_request_duration_seconds_count{{{MODEL}}} 3
"""

LITELLM = """\
# TYPE litellm_requests_metric_total counter
litellm_requests_metric_total{model="hosted_vllm/a",requested_model="",team="x"} 4
litellm_requests_metric_total{model="hosted_vllm/a",requested_model="",team="y"} 2
litellm_requests_metric_total{model="gpt",requested_model="b",team="y"} 1
# TYPE litellm_input_tokens_metric_total counter
litellm_input_tokens_metric_total{model="hosted_vllm/a",requested_model="",team="x"} 600
# TYPE litellm_output_tokens_metric_total counter
litellm_output_tokens_metric_total{model="hosted_vllm/a",requested_model="",team="x"} 60
"""

VLLM = """\
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="base"} %s
vllm:request_success_total{engine="0",finished_reason="length",model_name="base"} 100
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="base"} %s
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="base"} 3000
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters=""} 1.7e+09
"""

MODELS = {
    "object": "list",
    "data": [
        {"id": "base", "object": "model", "root": "meta/llama", "parent": None},
        {"id": "b", "object": "model", "root": "/adapters/b", "parent": "base"},
        {"id": "a", "object": "model", "root": "/adapters/a", "parent": "base"},
    ],
}


def scrape(text):
    return parse_scrape("saved.txt", text.encode())


def seen(text, seconds=1.0):
    """A server's whole life as the window."""
    return Window(scrape(text), scrape(text), seconds)


def test_llm_d_router_by_hand():
    grown = scrape(LLM_D % (100, 100)) - scrape('llm_d_epp_request_total{model_name="x"} 0\n')
    fleet, notes = fleet_from_scrape(grown, 200.0, RANKS)
    assert [(a.adapter, a.rate_rps) for a in fleet] == [("a-v2", 0.5), ("b", 0.25)]
    assert (fleet["a-v2"].prompt_tokens, fleet["a-v2"].output_tokens) == (200, 50)
    assert fleet["b"].prompt_tokens is None
    assert "past its first 1000 as other: left out" in notes[0]
    assert fleet.provenance["source"] == "llm-d router, a window of 200 s"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OLD_LLM_D, [("a", 6.0, 100, 10)]),
        (ENVOY, [("a", 0.3, 100, 10)]),
        (
            ENVOY.replace("_token_sum", "_sum").replace("_duration_seconds", "_duration"),
            [("a", 0.3, 100, 10)],
        ),
        (LITELLM, [("a", 0.6, 100, 10), ("b", 0.1, None, None)]),
    ],
)
def test_other_gateways_and_their_older_spellings(text, expected):
    fleet, _ = fleet_from_scrape(scrape(text), 10.0, RANKS)
    found = [(a.adapter, a.rate_rps, a.prompt_tokens, a.output_tokens) for a in fleet]
    assert found == expected


def test_ranks_are_known_or_drawn_and_it_is_said():
    known = Ranks(RankMix.parse("8"), Fleet([Adapter("b", 64, 0.0, path="/b")]))
    fleet, notes = fleet_from_scrape(scrape(LITELLM), 10.0, known)
    assert [(a.adapter, a.rank, a.path) for a in fleet] == [("a", 8, None), ("b", 64, "/b")]
    assert notes == ("ranks of 1 of 2 adapters drawn 8:1",)


def test_a_window_of_two_subtracts_and_a_reset_counts_from_zero(tmp_path):
    before, after = tmp_path / "before.txt", tmp_path / "after.txt"
    before.write_text(OLD_LLM_D)
    after.write_text(OLD_LLM_D.replace(" 6000", " 7000").replace(" 60\n", " 70\n"))
    window = read_window([str(before), str(after)], 5.0)
    assert window.seconds == 5.0
    assert window.last == read_scrape(str(after))
    fleet, _ = fleet_from_scrape(window.grown, window.seconds, RANKS)
    assert fleet["a"].rate_rps == 2.0
    assert fleet["a"].prompt_tokens == 100.0
    restarted = read_window([str(after), str(before)], 5.0).grown
    assert restarted.totals(["inference_objective_request_total"], lambda _: "x") == {"x": 60.0}


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (b"", "holds no metric"),
        (b"<html>Not Found</html>", "Prometheus"),
        (b'a{b="c} 1', "Prometheus"),
        (b"a one\n", "Prometheus"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_what_is_no_scrape_is_refused(content, mend):
    with pytest.raises(InputError) as caught:
        parse_scrape("saved.txt", content)
    assert mend in caught.value.mend


def test_a_scrape_of_something_else_is_refused():
    with pytest.raises(InputError, match="use from-vllm"):
        fleet_from_scrape(scrape(VLLM % (1, 1)), 1.0, RANKS)
    with pytest.raises(InputError, match="llm_d_epp_request_total"):
        fleet_from_scrape(scrape("up 1\n"), 1.0, RANKS)
    with pytest.raises(InputError, match="no usable name"):
        fleet_from_scrape(
            scrape('litellm_requests_metric_total{requested_model="a\\nb"} 1\n'), 1.0, RANKS
        )


@pytest.mark.parametrize(
    ("sources", "window", "place"),
    [
        (["f"], None, "window"),
        (["f"], -1.0, "window"),
        (["f"], float("nan"), "window"),
        (["f", "g", "h"], 1.0, "sources"),
        (["f", "http://localhost/metrics"], 1.0, "sources"),
        ([], 1.0, "sources"),
    ],
)
def test_a_window_that_cannot_be_is_refused(sources, window, place):
    with pytest.raises(InputError) as caught:
        read_window(sources, window)
    assert caught.value.place == place


def log_line(**changes):
    line = {
        "time": "2026-11-24T10:00:00.5Z",
        "model": "a",
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
    return json.dumps({**line, **changes})


def read_log(tmp_path, *lines):
    path = tmp_path / "access.jsonl"
    path.write_text("\n".join(lines))
    return read_access_log(str(path))


def test_an_access_log_shows_rates_lengths_and_what_was_left_out(tmp_path):
    trace, notes = read_log(
        tmp_path,
        log_line(),
        '{"path": "/health"}',
        "",
        log_line(time="2026-11-24T10:00:02.5Z", model="b"),
        log_line(
            time="2026-11-24T10:00:04.5Z", usage={"prompt_tokens": 300, "completion_tokens": 30}
        ),
        log_line(usage={"prompt_tokens": 5, "completion_tokens": 0}),
    )
    assert trace.frame.rows() == [(0.0, "a", 100, 10), (2.0, "b", 100, 10), (4.0, "a", 300, 30)]
    assert len(notes) == 2
    fleet, said = fleet_from_log(trace, RANKS, notes=notes)
    assert fleet["a"].rate_rps == pytest.approx(2 / 6, rel=1e-5)
    assert fleet["a"].prompt_tokens == 200
    assert set(notes) < set(said)


def test_times_may_be_seconds_or_milliseconds_under_other_keys(tmp_path):
    for times in ((1.7e9, 1.7e9 + 2), (1_700_000_000_000, 1_700_000_002_000)):
        trace, _ = read_log(tmp_path, *(log_line(time=None, created=moment) for moment in times))
        assert trace.frame["arrival_s"].to_list() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("{", "line 2"),
        ("3", "line 2"),
        (log_line(time=None), "line 2"),
        (log_line(time=[1]), "line 2"),
        (log_line(time="yesterday"), "line 2, column time"),
        (log_line(usage={"completion_tokens": 1}), "line 2, column usage.prompt_tokens"),
        (log_line(usage={"prompt_tokens": -1}), "line 2, column usage.prompt_tokens"),
        (log_line(usage={"prompt_tokens": "x"}), "line 2, column usage.prompt_tokens"),
    ],
)
def test_a_damaged_log_line_is_named(tmp_path, line, place):
    with pytest.raises(InputError) as caught:
        read_log(tmp_path, log_line(), line)
    assert caught.value.place == place


def test_a_log_without_requests_says_what_belongs_there(tmp_path):
    with pytest.raises(InputError, match=r"usage\.prompt_tokens"):
        read_log(tmp_path, '{"path": "/health"}')


def models(tmp_path, content=MODELS):
    path = tmp_path / "models.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_models(str(path))


def test_vllm_totals_are_split_by_the_stated_rule(tmp_path):
    served = models(tmp_path)
    assert served.base == ("base",)
    assert dict(served.adapters) == {"a": "/adapters/a", "b": "/adapters/b"}
    fleet, notes = fleet_from_vllm(
        served,
        seen(VLLM % (200, 60_000), 100.0),
        RANKS,
        Popularity.parse("zipf:1"),
        base_share=0.25,
    )
    rates = {adapter.adapter: adapter.rate_rps for adapter in fleet}
    assert rates == {"a": 1.5, "b": 0.75, "base": 0.75}
    assert {a.rank for a in fleet} == {0, 8}
    assert fleet["base"].is_base
    assert {(a.prompt_tokens, a.output_tokens) for a in fleet} == {(200.0, 10.0)}
    assert "vLLM counts nothing per adapter" in notes[0]
    assert "split by zipf:1, 0.25 of them to the base model" in fleet.provenance["rule"]


def test_ranks_are_read_where_the_server_s_folders_are_here_too(tmp_path):
    folder = write_adapter(tmp_path / "a", rank=64)
    content = json.loads(json.dumps(MODELS))
    content["data"][2]["root"] = str(folder)
    fleet, _ = fleet_from_vllm(
        models(tmp_path, content), seen(VLLM % (1, 1)), RANKS, Popularity("uniform", 0.0)
    )
    assert fleet["a"].rank == 64
    assert fleet["a"].path == str(folder)
    assert fleet["b"].rank == 8


def test_a_folder_here_that_is_no_adapter_is_noted_not_fatal(tmp_path):
    (tmp_path / "empty").mkdir()
    huge = write_adapter(tmp_path / "huge", rank=1024)
    content = json.loads(json.dumps(MODELS))
    content["data"][1]["root"] = str(huge)
    content["data"][2]["root"] = str(tmp_path / "empty")
    fleet, notes = from_vllm(tmp_path, "", content)
    assert [(a.adapter, a.rank, a.path) for a in fleet] == [("a", 8, None), ("b", 8, None)]
    assert any("the rank of a is not read" in note for note in notes)
    assert any("the rank of b is not read" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("{", None),
        ("[]", "data"),
        ('{"data": [1]}', "data"),
        ('{"data": [{"id": 3}]}', "data[0].id"),
        ('{"data": [{"id": "a", "parent": "b"}, {"id": "a", "parent": "b"}]}', "data[1].id"),
    ],
)
def test_what_is_no_answer_of_models_is_refused(tmp_path, content, place):
    with pytest.raises(InputError) as caught:
        models(tmp_path, content)
    assert caught.value.place == place


def test_metrics_without_requests_are_refused(tmp_path):
    law = Popularity("uniform", 0.0)
    with pytest.raises(InputError, match="vLLM's own /metrics"):
        fleet_from_vllm(models(tmp_path), seen("up 1\n"), RANKS, law)
    idle = seen('vllm:request_success_total{finished_reason="stop"} 0\n')
    with pytest.raises(InputError, match="take a longer window"):
        fleet_from_vllm(models(tmp_path), idle, RANKS, law)
    with pytest.raises(InputError, match="share from 0 to 1"):
        fleet_from_vllm(models(tmp_path), idle, RANKS, law, base_share=1.5)


UNIFORM = Popularity("uniform", 0.0)


def info(running, waiting="", at="1.7e+09"):
    labels = f'max_lora="4",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}"'
    return f"vllm:lora_requests_info{{{labels}}} {at}\n"


COUNTS = """\
vllm:request_success_total{finished_reason="stop"} 100
vllm:prompt_tokens_total 1000
vllm:generation_tokens_total 100
"""


def from_vllm(tmp_path, gauge, content=MODELS):
    return fleet_from_vllm(models(tmp_path, content), seen(COUNTS + gauge), RANKS, UNIFORM)


def test_adapters_that_run_or_wait_unlisted_are_added_and_it_is_said(tmp_path):
    fleet, notes = from_vllm(tmp_path, info("a,new", "later"))
    assert [adapter.adapter for adapter in fleet] == ["a", "b", "later", "new"]
    assert {adapter.rate_rps for adapter in fleet} == {25.0}
    assert "run or wait and are not listed, so added: later, new" in notes


def test_the_gauge_takes_no_adapter_away(tmp_path):
    for gauge in ("", info("", ""), info("a")):
        fleet, notes = from_vllm(tmp_path, gauge)
        assert [adapter.adapter for adapter in fleet] == ["a", "b"]
        assert not any("added" in note for note in notes)


def test_of_all_combinations_ever_seen_the_last_counts(tmp_path):
    gauge = info("gone", at="1.7e+09") + info("here", at="1.8e+09") + info("old", at="12")
    fleet, _ = from_vllm(tmp_path, gauge)
    assert [adapter.adapter for adapter in fleet] == ["a", "b", "here"]
    fleet, _ = from_vllm(tmp_path, gauge + info("no-time", at="NaN") + info("far", at="+Inf"))
    assert [adapter.adapter for adapter in fleet] == ["a", "b", "here"]


def test_the_last_scrape_counts_not_the_growth(tmp_path):
    before, after = tmp_path / "before.txt", tmp_path / "after.txt"
    before.write_text(COUNTS + info("was-here", at="100") + info("stays", at="300"))
    after.write_text(
        COUNTS.replace(" 100\n", " 150\n", 1)
        + info("was-here", at="100")
        + info("stays", at="300.5")
        + info("a", at="300.25")
    )
    window = read_window([str(before), str(after)], 10.0)
    fleet, _ = fleet_from_vllm(models(tmp_path), window, RANKS, UNIFORM)
    assert [adapter.adapter for adapter in fleet] == ["a", "b", "stays"]
    assert fleet.rate_rps == pytest.approx(5.0, rel=1e-5)


def listing(*names):
    base = {"id": "base", "root": "meta/llama", "parent": None}
    return {"data": [base, *({"id": name, "parent": "base"} for name in names)]}


@pytest.mark.parametrize(
    ("listed", "running", "added"),
    [
        (["a,b", "c"], "a,b,c", []),
        (["a,b", "c"], "c,a,b,d", ["d"]),
        # All is known one way only: a and b,c, never a,b and an unknown c.
        (["a,b", "a", "b,c"], "a,b,c", []),
        (["a,,b"], "a,,b", []),
        (["a"], ",a,, ,", []),
        (["a"], "base,a", []),
        (["a,b"], "b,a", ["a", "b"]),
        (["a", "a,b,c,d"], "a,b,c", ["b", "c"]),
    ],
)
def test_names_with_commas_are_told_by_what_is_listed(tmp_path, listed, running, added):
    fleet, _ = from_vllm(tmp_path, info(running), listing(*listed))
    assert sorted(a.adapter for a in fleet) == sorted([*listed, *added])


def test_a_server_that_lists_none_may_still_show_some(tmp_path):
    served = models(tmp_path, listing())
    assert dict(served.adapters) == {}
    fleet, _ = from_vllm(tmp_path, info("only-seen"), listing())
    assert [(a.adapter, a.path) for a in fleet] == [("only-seen", None)]
    with pytest.raises(InputError, match="start it with --lora-modules") as caught:
        from_vllm(tmp_path, "", listing())
    assert caught.value.value == "base"
    assert caught.value.file.endswith("models.json")


@pytest.mark.parametrize("name", ["a\\nb", " blank", "\x1b[2J", "a\u2028b"])
def test_a_name_seen_that_cannot_be_one_is_refused(tmp_path, name):
    with pytest.raises(InputError) as caught:
        from_vllm(tmp_path, info(name))
    assert (caught.value.file, caught.value.place) == ("saved.txt", "vllm:lora_requests_info")


def test_a_long_hostile_label_is_read_in_time():
    started = time.monotonic()
    known = [",".join("x" * n) for n in range(1, 200)]
    assert len(names_in(",".join("x" * 1500), known)) < 200
    assert names_in("," * 100_000) == ()
    assert time.monotonic() - started < 20


def test_slots_are_read_where_they_are_a_number():
    assert lora_slots({"max_lora": "4"}) == 4
    for text in ("", "four", "-1", "²"):
        assert lora_slots({"max_lora": text}) is None


class Server(http.server.BaseHTTPRequestHandler):
    """A vLLM that has served 10 requests more at each scrape, and wants a key for its models."""

    scrapes = 0

    def do_GET(self):
        if self.path == "/metrics":
            type(self).scrapes += 1
            body = VLLM % (10 * self.scrapes, 1000 * self.scrapes)
        elif self.path == "/v1/models":
            if self.headers.get("Authorization") != "Bearer secret":
                self.send_error(401)
                return
            body = json.dumps(MODELS)
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.scrapes = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_running_server_is_scraped_twice(server, monkeypatch):
    monkeypatch.setenv("LORAPACK_API_KEY", "secret")
    served = read_models(f"{server}/v1/models")
    window = read_window([f"{server}/metrics"], 0.05)
    assert 0.05 <= window.seconds < 5
    fleet, _ = fleet_from_vllm(served, window, RANKS, Popularity("uniform", 0.0))
    assert fleet.rate_rps == pytest.approx(10 / window.seconds, rel=1e-5)
    assert fleet["a"].prompt_tokens == 100.0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_in_a_window_ends_at_once_with_130_and_writes_nothing(server, tmp_path):
    command = ["fleet", "from-gateway", f"{server}/metrics", "--window", "600", "-o", "fleet.csv"]
    running = subprocess.Popen(
        [sys.executable, "-m", "lorapack", *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if Server.scrapes:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    _, complaints = running.communicate(timeout=10)
    assert running.returncode == 130
    assert complaints.strip() == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_servers_that_refuse_or_are_not_there_are_named(server, monkeypatch):
    monkeypatch.delenv("LORAPACK_API_KEY", raising=False)
    with pytest.raises(InputError, match="set LORAPACK_API_KEY"):
        read_models(f"{server}/v1/models")
    with pytest.raises(InputError, match="HTTP 404"):
        read_scrape(f"{server}/absent")
    with pytest.raises(InputError, match="cannot be fetched"):
        read_scrape("http://127.0.0.1:9/metrics")
    with pytest.raises(InputError, match="cannot be fetched"):
        read_scrape("http://[broken/metrics")
    with pytest.raises(InputError, match="cannot be fetched"):
        read_scrape(f"{server}/a b\x00")
