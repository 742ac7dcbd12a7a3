"""A load test against a small server that speaks the same API: its known delays come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from statistics import median

import pytest

from lorapack.errors import InputError
from lorapack.fidelity.calibrate.active import Bounds, adapters_of, fit_server
from lorapack.profile.profile import Profile

FIXED_MS, REQUEST_MS, ADAPTER_MS = 20.0, 2.0, 4.0
ADAPTERS = [f"adapter-{i}" for i in range(4)]
BOUNDS = Bounds(requests=120, seconds=30, output_tokens=14, waves=2)


@dataclass
class Engine:
    """Steps of `fixed + request x running + adapter x distinct`, one token a request each."""

    running: dict[int, tuple[str, int, Queue[bool]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    served: int = 0
    took_ms: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    stopped: bool = False

    def add(self, adapter: str, tokens: int) -> Queue[bool]:
        made: Queue[bool] = Queue()
        with self.lock:
            self.served += 1
            self.running[self.served] = (adapter, tokens, made)
        return made

    def loop(self) -> None:
        while not self.stopped:
            with self.lock:
                batch = list(self.running.items())
            distinct = len({adapter for _, (adapter, _, _) in batch})
            step_ms = FIXED_MS + REQUEST_MS * len(batch) + ADAPTER_MS * distinct
            begin = time.perf_counter()
            time.sleep((step_ms if batch else 1.0) / 1e3)
            self.took_ms.setdefault((len(batch), distinct), []).append(
                (time.perf_counter() - begin) * 1e3
            )
            with self.lock:
                for number, (adapter, left, made) in batch:
                    made.put(left > 1)
                    if left > 1:
                        self.running[number] = (adapter, left - 1, made)
                    else:
                        del self.running[number]


@pytest.fixture
def server() -> Iterator[tuple[str, Engine]]:
    engine = Engine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = [{"id": "base", "parent": None}]
            models += [{"id": name, "parent": "base"} for name in ADAPTERS]
            self._send(json.dumps({"data": models}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if body["model"] not in ADAPTERS:
                self.send_error(404)
                return
            made = engine.add(body["model"], body["max_tokens"])
            self.send_response(200)
            self.end_headers()
            more = True
            while more:
                more = made.get()
                self.wfile.write(b'data: {"choices": [{"text": "x"}]}\n\n')
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    http = Server(("127.0.0.1", 0), Handler)
    threads = [
        threading.Thread(target=loop, daemon=True) for loop in (http.serve_forever, engine.loop)
    ]
    for thread in threads:
        thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}", engine
    engine.stopped = True
    http.shutdown()


def test_the_delays_of_a_known_server_are_recovered(server: tuple[str, Engine]) -> None:
    url, engine = server
    base = Profile.load()
    fit = fit_server(url, base, max_loras=4, max_lora_rank=16, bounds=BOUNDS)
    assert fit.requests <= BOUNDS.requests
    assert engine.served <= BOUNDS.requests
    # Four first uses, then levels of twice their requests, until the next would pass the bound.
    levels = set(fit.answers.select("concurrency", "adapters").iter_rows())
    assert levels == {(1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (8, 1), (8, 4), (16, 1)}

    def step_ms(requests: int, adapters: int) -> float:
        tables = fit.profile.step_time.tables(4, 16, 2048, 4)
        ps = int(tables.base[requests]) + adapters * int(tables.distinct_adapter[requests])
        return (ps + requests * tables.request_ps) * 1e-9

    full = {batch for batch, took in engine.took_ms.items() if len(took) >= 8 and batch[0] > 0}
    assert {(1, 1), (4, 4), (8, 4)} <= full
    for requests, adapters in sorted(full & levels):
        # What the delays came to: a busy machine oversleeps.
        known = median(engine.took_ms[requests, adapters])
        assert known >= FIXED_MS + REQUEST_MS * requests + ADAPTER_MS * adapters
        assert step_ms(requests, adapters) == pytest.approx(known, rel=0.12), (requests, adapters)


def test_bounds_hold_before_a_request_is_sent(server: tuple[str, Engine]) -> None:
    url, engine = server
    bounds = Bounds(requests=7, seconds=30, output_tokens=4, waves=2)
    fit = fit_server(url, Profile.load(), max_loras=4, max_lora_rank=16, bounds=bounds)
    assert engine.served <= 7
    assert set(fit.answers["concurrency"]) == {1}


def test_adapters_are_the_models_with_a_parent(server: tuple[str, Engine]) -> None:
    assert adapters_of(server[0]) == ADAPTERS


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9"):
        adapters_of("http://127.0.0.1:9")
    with pytest.raises(InputError, match="http"):
        adapters_of("ftp://somewhere")
