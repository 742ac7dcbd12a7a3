"""The service by its own routes, with stand-ins for the slow parts; its OpenAPI by schemathesis."""

from __future__ import annotations

import re
import threading
import time
from types import SimpleNamespace

import pytest

from lorapack.errors import Infeasible, InputError
from lorapack.fleet.adapter import is_clean_text
from lorapack.packer.pack import pack as pack_fleet
from lorapack.predictor.predictor import Predictor, builtin_models
from lorapack.profile.profile import Profile

fastapi = pytest.importorskip("fastapi", reason="FASTAPI ABSENT: the service was not tested")
from fastapi.testclient import TestClient  # noqa: E402

from lorapack.serve import Predictors, ServiceSettings, create_app  # noqa: E402
from lorapack.serve.messages import CLEAN_TEXT, Prediction  # noqa: E402

NAME = "llama-3.1-8b/h100-64gb/vllm-0.8.5"
ROW = {"adapter": "a", "rank": 16, "rate_rps": 0.5}


class Packed:
    """As far as the service looks at a plan."""

    def to_dict(self):
        return {
            "n_gpus": 1,
            "lower_bound": 0.5,
            "slo": "interactive",
            "verified": True,
            "gpus": [],
            "exempt": [],
            "method": "greedy",
        }


def predicted(profile, request):
    request.fleet()
    return Prediction(
        profile=profile.name, max_loras=1, max_lora_rank=16, targets={"served_fraction": 0.99}
    )


@pytest.fixture(scope="module")
def settings() -> ServiceSettings:
    return ServiceSettings((Profile.load(NAME),), most_bytes=100_000)


def client(settings, **parts):
    app = create_app(
        settings, **{"pack": lambda *_a, **_k: Packed(), "predict": predicted, **parts}
    )
    return TestClient(app, raise_server_exceptions=False)


def test_a_plan_comes_back_with_every_key(settings):
    answer = client(settings).post("/pack", json={"adapters": [ROW]})
    assert answer.status_code == 200
    assert answer.json() == Packed().to_dict()


def test_the_library_is_called_with_what_was_asked(settings):
    seen = {}

    def pack(profile, fleet, **options):
        seen.update(options, profile=profile.name, fleet=[(a.adapter, a.rank) for a in fleet])
        return Packed()

    body = {"adapters": [ROW], "slo": "batch", "ttft_p99_ms": 900.0, "gpus": 4, "seed": 7}
    assert client(settings, pack=pack).post("/pack", json=body).status_code == 200
    assert (seen["profile"], seen["fleet"]) == (NAME, [("a", 16)])
    assert (seen["slo"].name, seen["slo"].ttft_p99_ms) == ("batch", 900.0)
    assert (seen["gpus"], seen["seed"], seen["rate_headroom"]) == (4, 7, 0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"adapters": []},
        {"adapters": [ROW, ROW]},
        {"adapters": [{**ROW, "rank": -1}]},
        {"adapters": [{**ROW, "rank": "16"}]},
        {"adapters": [{**ROW, "rate_rps": -1}]},
        {"adapters": [{**ROW, "cv": 0}]},
        {"adapters": [{**ROW, "adapter": "a\nb"}]},
        {"adapters": [{**ROW, "colour": "red"}]},
        {"adapters": [ROW], "slo": "fast"},
        {"adapters": [ROW], "surplus": 1},
    ],
)
@pytest.mark.parametrize("path", ["/pack", "/predict"])
def test_bad_input_is_422_with_its_place(settings, path, change):
    answer = client(settings).post(path, json=change)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"]


def test_a_file_of_the_machine_is_no_profile(settings, tmp_path):
    Profile.load(NAME).write(tmp_path / "mine.toml")
    body = {"adapters": [ROW], "profile": str(tmp_path / "mine.toml")}
    answer = client(settings).post("/pack", json=body)
    assert (answer.status_code, answer.json()["error"]) == (404, "no_profile")


def test_what_the_library_refuses_is_422_or_409(settings):
    def refuse(*_a, **_k):
        raise InputError("pack", "method", "x", "use another")

    def infeasible(*_a, **_k):
        raise Infeasible("too hot", "half of it fits")

    assert client(settings, pack=refuse).post("/pack", json={"adapters": [ROW]}).status_code == 422
    answer = client(settings, pack=infeasible).post("/pack", json={"adapters": [ROW]})
    assert (answer.status_code, answer.json()["mend"]) == (409, "half of it fits")


def test_without_a_model_predict_says_so(monkeypatch):
    def none(_source):
        raise InputError("predictor", "profile", NAME, "train one")

    monkeypatch.setattr(Predictor, "load", none)
    one = client(ServiceSettings((Profile.load(NAME),)), predict=None)
    answer = one.post("/predict", json={"adapters": [ROW]})
    assert answer.status_code == 503
    assert answer.json()["error"] == "no_predictor"
    assert one.get("/healthz").json()["predictors"] == []


class Model:
    """A predictor that was given: half served, and nothing else known."""

    targets = ("served_fraction", "slo_margin")
    profile = SimpleNamespace(name=NAME)

    def predict(self, features):
        import numpy as np

        assert features.shape[0] == 1
        return np.array([[0.5, np.nan]], dtype=np.float32)


@pytest.fixture
def asked() -> TestClient:
    profiles = (Profile.load(NAME),)
    return client(ServiceSettings(profiles, predictors=Predictors((Model(),))), predict=None)


def test_predict_answers_through_the_predictor(asked):
    body = {"adapters": [ROW, {**ROW, "adapter": "b", "rank": 32}], "max_loras": 1}
    answer = asked.post("/predict", json=body)
    assert answer.status_code == 200
    assert answer.json() == {
        "profile": NAME,
        "max_loras": 1,
        "max_lora_rank": 32,
        "targets": {"served_fraction": 0.5, "slo_margin": None},
    }
    assert asked.get("/healthz").json()["predictors"] == [NAME]


def test_an_engine_that_does_not_start_has_no_prediction(asked):
    rows = [{"adapter": f"a{n}", "rank": 512, "rate_rps": 0.1} for n in range(600)]
    answer = asked.post("/predict", json={"adapters": rows, "max_loras": 600})
    assert answer.status_code == 409
    assert answer.json()["error"] == "infeasible"


def test_the_model_that_comes_with_lorapack_answers():
    if NAME not in builtin_models():
        pytest.skip("NO BUILT-IN MODEL: the shipped predictor was not asked")
    one = client(ServiceSettings((Profile.load(NAME),)), predict=None)
    answer = one.post("/predict", json={"adapters": [ROW], "max_loras": 8})
    assert answer.status_code == 200
    assert answer.json()["targets"]["served_fraction"] > 0.9


def test_a_second_pack_is_told_to_wait(settings):
    started, leave = threading.Event(), threading.Event()

    def slow(*_a, **_k):
        started.set()
        assert leave.wait(20)
        return Packed()

    with client(settings, pack=slow) as one:
        first = threading.Thread(
            target=one.post, args=("/pack",), kwargs={"json": {"adapters": [ROW]}}
        )
        first.start()
        assert started.wait(20)
        answer = one.post("/pack", json={"adapters": [ROW]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert one.get("/healthz").status_code == 200
        assert "lorapack_packs_in_progress 1.0" in one.get("/metrics").text
        leave.set()
        first.join(20)
        assert one.post("/pack", json={"adapters": [ROW]}).status_code == 200


def test_a_large_body_is_cut_off_whatever_its_header_says(settings):
    def body():
        for _ in range(1000):
            yield b" " * 1000

    assert client(settings).post("/pack", content=body()).status_code == 413


def test_metrics_count_requests_by_route_and_status(settings):
    one = client(settings)
    one.get("/healthz")
    one.get("/no/such/path")
    text = one.get("/metrics").text
    assert 'lorapack_http_requests_total{path="/healthz",status="200"} 1.0' in text
    assert 'lorapack_http_requests_total{path="other",status="404"} 1.0' in text


def names_repeat(body) -> bool:
    rows = body.get("adapters") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return False
    names = [row["adapter"] for row in rows if isinstance(row, dict) and "adapter" in row]
    return len(names) != len({str(name) for name in names})


def test_openapi_holds_for_drawn_requests(settings):
    schemathesis = pytest.importorskip(
        "schemathesis", reason="SCHEMATHESIS ABSENT: OpenAPI was not tested"
    )
    from hypothesis import HealthCheck, given
    from hypothesis import settings as hypothesis_settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    app = create_app(settings, pack=lambda *_a, **_k: Packed(), predict=predicted)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen = []
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @hypothesis_settings(
            max_examples=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def holds(case) -> None:
            # JSON Schema has no word for "no two of one name", which both POSTs refuse with 422:
            # only there may a request that fits the schema be turned down.
            excluded = [positive_data_acceptance] if names_repeat(case.body) else []
            case.call_and_validate(excluded_checks=excluded)

        holds()
        seen.append(operation.path)
    assert sorted(seen) == ["/healthz", "/metrics", "/pack", "/predict"]


def test_the_pattern_of_names_is_the_library_s_own_rule():
    pattern = re.compile(CLEAN_TEXT.removesuffix("$") + r"\Z")
    for point in range(0x11000):
        if 0xD800 <= point < 0xE000:
            continue  # no text that JSON can carry
        letter = chr(point)
        for text in (letter, f"a{letter}b", f"{letter}b", f"a{letter}"):
            assert bool(pattern.search(text)) == is_clean_text(text), ascii(text)
    assert not pattern.search("")


def test_openapi_tells_the_letters_of_a_name_and_the_methods(settings):
    schemas = client(settings).get("/openapi.json").json()["components"]["schemas"]
    row = schemas["AdapterRow"]["properties"]
    assert row["adapter"]["pattern"] == CLEAN_TEXT
    for name in ("model", "pin", "keep_apart", "path"):
        assert row[name]["anyOf"][0]["pattern"] == CLEAN_TEXT
    assert "greedy-paper" in schemas["PackRequest"]["properties"]["method"]["enum"]


def test_an_unknown_method_is_422_with_the_nearest(settings):
    answer = client(settings, pack=pack_fleet).post(
        "/pack", json={"adapters": [ROW], "method": "gredy"}
    )
    assert answer.status_code == 422
    assert "did you mean greedy?" in answer.json()["detail"][0]["msg"]


def test_a_bounded_load_on_loopback(settings):
    """200 requests over 8 threads against a real server on this machine."""
    import httpx
    import uvicorn

    app = create_app(settings, pack=lambda *_a, **_k: Packed(), predict=predicted)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not server.started and time.monotonic() < end:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        statuses: list[int] = []

        def ask() -> None:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False
            ) as one:
                for _ in range(25):
                    answer = one.post("/predict", json={"adapters": [ROW]})
                    statuses.append(answer.status_code)

        clients = [threading.Thread(target=ask) for _ in range(8)]
        for one in clients:
            one.start()
        for one in clients:
            one.join(60)
        assert statuses == [200] * 200
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
