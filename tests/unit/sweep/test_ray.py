"""The same sweep on a real Ray cluster of two worker processes, one of which is killed."""

import os
import pathlib
import signal
import threading
import time

import pytest

from lorapack.sweep import run_sweep

ray = pytest.importorskip("ray", reason="needs lorapack[ray]")

DEFINITION = """
duration_s = 120
[engine]
max_loras = { from = 1, to = 16, scale = "log" }
[design]
kind = "latin-hypercube"
n = 96
fit_memory = true
[fleet]
n_adapters = { from = 1, to = 30, scale = "log" }
rates = ["equal", "zipf", "clients"]
load = { from = 0.1, to = 2.0, scale = "log" }
"""


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _metrics_export_port=None)
    yield
    ray.shutdown()


def parent_of(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def workers_of_this_cluster():
    """Processes at work on a task whose raylet is a child of ours."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            at_work = "_run_on_worker" in (entry / "cmdline").read_text()
            if at_work and parent_of(parent_of(entry.name)) == os.getpid():
                found.append(int(entry.name))
        except (OSError, ValueError, IndexError):
            continue  # no process, or one that has just ended
    return found


def kill_one_worker(killed, stop):
    while not killed and not stop.is_set():
        for pid in workers_of_this_cluster():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return
        time.sleep(0.01)


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="finds workers in /proc")
def test_a_killed_worker_loses_nothing_and_doubles_nothing(cluster, tmp_path):
    definition = tmp_path / "sweep.toml"
    definition.write_text(DEFINITION)
    run_sweep(definition, tmp_path / "here", chunk=8)
    killed, stop = [], threading.Event()
    killer = threading.Thread(target=kill_one_worker, args=(killed, stop))
    killer.start()
    done = run_sweep(definition, tmp_path / "ray", chunk=8, backend="ray")
    stop.set()
    killer.join()
    assert killed, "no worker was caught at work"
    assert done.done == 96
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
