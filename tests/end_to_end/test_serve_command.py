"""`lorapack serve` as it is started: it says where it listens, answers, and ends with Ctrl-C."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytest.importorskip("uvicorn", reason="UVICORN ABSENT: the service was not started")

ROW = {"adapter": "sql", "rank": 16, "rate_rps": 0.2}


@pytest.fixture
def start():
    """Starts the service; gives the process and the object it prints once it listens."""
    running = []

    def begin(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "lorapack", "serve", "--port", "0", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, json.loads(line)

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def ask(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_it_answers_on_the_port_that_it_tells(start):
    _, said = start()
    status, health = ask(said["url"], "/healthz")
    assert (status, health["profiles"]) == (200, said["profiles"])
    status, told = ask(said["url"], "/predict", {"adapters": [ROW], "max_loras": 8})
    assert status == 200
    assert told["targets"]["served_fraction"] > 0.9
    status, plan = ask(said["url"], "/pack", {"adapters": [ROW], "n_seeds": 1})
    assert (status, plan["n_gpus"]) == (200, 1)
    assert ask(said["url"], "/pack", {"adapters": [{**ROW, "rate_rps": -1}]})[0] == 422


def test_a_model_of_one_s_own_is_asked(start):
    from importlib import resources

    models = resources.files("lorapack.predictor") / "models"
    qwen = next(
        str(file)
        for file in models.iterdir()
        if str(file).endswith(".onnx") and "qwen" in str(file)
    )
    profile = "qwen-2.5-7b/h100-64gb/vllm-0.8.5"
    _, said = start("--predictor", qwen, "--profile", profile)
    assert said["profiles"] == [profile]
    assert ask(said["url"], "/predict", {"adapters": [ROW]})[0] == 200
    assert ask(said["url"], "/predict", {"adapters": [ROW], "profile": "llama"})[0] == 404


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_it_at_once(start):
    process, said = start()
    assert ask(said["url"], "/healthz")[0] == 200
    process.send_signal(signal.SIGINT)
    out, complaints = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (out, complaints.strip()) == ("", "interrupted")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--predictor", "absent.onnx"], "absent.onnx"),
        (["--profile", "no-such-profile"], "no-such-profile"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_is_named(arguments, place):
    done = subprocess.run(
        [sys.executable, "-m", "lorapack", "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert place in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "lorapack", "serve", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "give another --host or --port" in done.stderr
