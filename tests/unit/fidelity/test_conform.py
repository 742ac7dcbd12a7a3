import gzip
import json

import pytest

from lorapack.cli.main import run
from lorapack.errors import InputError
from lorapack.fidelity.conform import conform, recordings_in, replay

BY_HAND = "tests/data/recordings"
SCHEDULE = f"{BY_HAND}/schedule-0.8.5-preempt-skip-stop.jsonl"
RESIDENCY = f"{BY_HAND}/residency-0.8.5-self-eviction.jsonl"


@pytest.fixture
def edit(repository, tmp_path):
    """Writes a recording made by hand, one of its lines changed; returns the path."""

    def editor(source, line, change):
        lines = (repository / source).read_text().splitlines()
        table = json.loads(lines[line - 1])
        change(table)
        lines[line - 1] = json.dumps(table)
        path = tmp_path / "edited.jsonl"
        path.write_text("\n".join(lines))
        return path

    return editor


def test_recordings_made_by_hand_are_reproduced(repository):
    found = conform([repository / BY_HAND])
    assert [str(replay.difference) for replay in found.replays if replay.difference] == []
    assert found.to_dict()["by_kind"] == {
        "residency": {"scenarios": 2, "identical": 2},
        "schedule": {"scenarios": 6, "identical": 6},
    }
    assert set(found.to_dict()["by_version"]) == {"0.8.5", "0.33.0"}


def test_the_hand_made_recordings_show_where_the_versions_differ(repository):
    def steps(name):
        return (repository / BY_HAND / name).read_text().splitlines()[1:]

    for name in ("whole-sequence", "threshold-alone"):
        assert steps(f"schedule-0.8.5-{name}.jsonl") != steps(f"schedule-0.33.0-{name}.jsonl")


@pytest.mark.parametrize("name", ["whole-sequence", "threshold-alone"])
def test_one_version_s_recording_differs_under_the_other_s_rules(repository, edit, name):
    path = edit(
        f"{BY_HAND}/schedule-0.8.5-{name}.jsonl", 1, lambda table: table.update(version="0.33.0")
    )
    assert replay(path).difference is not None


@pytest.mark.parametrize("kind", ["vllm-sched", "vllm-lora"])
def test_every_recording_of_the_real_engine_is_reproduced(measured_data, kind):
    found = conform([measured_data / kind])
    assert found.to_dict()["first_difference"] == []
    assert found.identical
    assert len(found.replays) >= {"vllm-sched": 74, "vllm-lora": 8}[kind]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheduled", [[0, 1], [3, 1]]),
        ("new", [3]),
        ("resumed", [2]),
        ("preempted", []),
        ("finished", [0]),
        ("waiting", 2),
        ("running", 2),
        ("free_blocks", 0),
        ("free_blocks_end", 0),
        ("distinct_adapters", 0),
        ("skipped", 1),
    ],
)
def test_a_change_in_any_field_is_found_and_named(edit, field, value):
    path = edit(SCHEDULE, 3, lambda table: table.update({field: value}))
    difference = replay(path).difference
    assert difference is not None
    assert (difference.file, difference.step, difference.field) == (str(path), 1, field)
    assert difference.recorded != difference.simulated


def test_a_recording_that_stops_early_or_goes_on_differs(repository, tmp_path):
    lines = (repository / SCHEDULE).read_text().splitlines()
    short, long = tmp_path / "short.jsonl", tmp_path / "long.jsonl"
    short.write_text("\n".join(lines[:-1]))
    long.write_text("\n".join([*lines, lines[-1]]))
    assert replay(short).difference.field == "steps"
    assert replay(long).difference.field == "steps"


def test_a_recording_cut_at_its_step_cap_may_stop_early(repository, tmp_path):
    lines = (repository / SCHEDULE).read_text().splitlines()
    header = json.loads(lines[0])
    header["step_cap"] = 3
    path = tmp_path / "cut.jsonl"
    path.write_text("\n".join([json.dumps(header), *lines[1:4]]))
    assert replay(path).identical


def test_a_changed_load_is_found_and_named(edit):
    path = edit(RESIDENCY, 3, lambda table: table["events"].reverse())
    difference = replay(path).difference
    assert (difference.step, difference.field) == (1, "events")


def test_gzip_and_plain_are_the_same(repository, tmp_path):
    path = tmp_path / "packed.jsonl.gz"
    path.write_bytes(gzip.compress((repository / SCHEDULE).read_bytes()))
    assert replay(path).identical


@pytest.mark.parametrize(
    ("line", "change", "words"),
    [
        (1, {"version": "0.9.0"}, "known are the rules of"),
        (1, {"version": 3}, "version"),
        (1, {"requests": 3}, "requests"),
        (1, {"requests": [{"arrival_step": 0}]}, "requests[0].adapter"),
        (1, {"settings": {}}, "settings.max_num_seqs"),
        (1, {"settings": 3}, "header"),
        (2, {"waiting": None}, "line 2, waiting"),
        (2, {"waiting": -1}, "line 2, waiting"),
        (3, {"waiting": True}, "line 3, waiting"),
        (3, {"scheduled": [[1, 2, 3]]}, "line 3, scheduled"),
        (3, {"scheduled": 1}, "line 3, scheduled"),
        (3, {"new": ["x"]}, "line 3, new"),
        (3, {"step": 2**40}, "line 3, step"),
    ],
)
def test_a_faulty_value_names_file_and_line(edit, line, change, words):
    path = edit(SCHEDULE, line, lambda table: table.update(change))
    with pytest.raises(InputError) as caught:
        replay(path)
    assert words in str(caught.value)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("block_size", 0),
        ("num_blocks", 1),
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 3),
        ("max_model_len", 0),
    ],
)
def test_settings_no_engine_takes_are_refused(edit, setting, value):
    path = edit(SCHEDULE, 1, lambda table: table["settings"].update({setting: value}))
    with pytest.raises(InputError, match=setting):
        replay(path)


@pytest.mark.parametrize(
    ("line", "change", "words"),
    [
        (1, {"settings": {"max_loras": 2, "max_cpu_loras": 1}}, "max_cpu_loras"),
        (1, {"settings": {"max_loras": 0, "max_cpu_loras": 1}}, "max_loras"),
        (2, {"batch": [2**30]}, "below"),
        (2, {"events": [["load_tape", 1]]}, "line 2, events"),
        (2, {"step": "x"}, "line 2, step"),
    ],
)
def test_faulty_residency_is_refused(edit, line, change, words):
    path = edit(RESIDENCY, line, lambda table: table.update(change))
    with pytest.raises(InputError) as caught:
        replay(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"{", b"[]", b"3", b"{}", b"\xff\xfe", b'{"settings": {}}\n{"step": '],
)
def test_a_damaged_file_is_an_input_error(tmp_path, content):
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        replay(path)
    assert caught.value.file == str(path)


def test_a_truncated_archive_is_an_input_error(repository, tmp_path):
    path = tmp_path / "cut.jsonl.gz"
    packed = gzip.compress((repository / SCHEDULE).read_bytes())
    for content in (packed[: len(packed) // 2], b"no gzip", packed[:-4] + b"1234"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            replay(path)


def test_paths_that_name_no_recording_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError):
            recordings_in([path])


def test_exit_codes_and_json(repository, edit, capsys, tmp_path):
    assert run(["conform", str(repository / BY_HAND), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scenarios"], found["identical"], found["first_difference"]) == (8, 8, [])
    path = edit(SCHEDULE, 3, lambda table: table.update(waiting=9))
    assert run(["conform", str(path), "--json"]) == 1
    said = capsys.readouterr()
    (difference,) = json.loads(said.out)["first_difference"]
    assert difference == {
        "file": str(path),
        "step": 1,
        "field": "waiting",
        "recorded": "9",
        "simulated": "3",
    }
    assert "step 1: waiting: recorded 9, simulated 3" in said.err
    assert run(["conform", str(tmp_path / "absent")]) == 2
    assert run(["conform"]) == 2
