"""The workflows: valid by GitHub's schema, with the jobs and targets promised, and safe to run."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

FILES = ("ci.yml", "build.yml", "release.yml")


@pytest.fixture(scope="module")
def folder(repository):
    return repository / ".github" / "workflows"


@pytest.fixture(scope="module")
def workflows(folder):
    found = {path.name: yaml.safe_load(path.read_text()) for path in folder.glob("*.yml")}
    assert set(found) == set(FILES)
    return found


def check_schema(path):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.github-workflows",
            path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", FILES)
def test_githubs_schema_holds(folder, name):
    done = check_schema(folder / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_can_fail(tmp_path):
    broken = tmp_path / "broken.yml"
    broken.write_text("on: push\njobs: {a: {runs-on: x, stepz: []}}\n")
    assert check_schema(broken).returncode != 0


def steps_of(workflow):
    found = [
        (name, step) for name, job in workflow["jobs"].items() for step in job.get("steps", ())
    ]
    assert found or all("uses" in job for job in workflow["jobs"].values())
    return found


def test_scripts_parse_and_take_nothing_from_expressions(workflows):
    """An expression inside a script is pasted in as code: values go through `env`."""
    scripts = [step["run"] for w in workflows.values() for _, step in steps_of(w) if "run" in step]
    assert len(scripts) >= 8
    for script in scripts:
        assert "${{" not in script
        done = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
        assert done.returncode == 0, script


def test_jobs_need_jobs_that_exist_and_end_by_themselves(workflows):
    for name, workflow in workflows.items():
        for job in workflow["jobs"].values():
            needs = job.get("needs", [])
            assert set([needs] if isinstance(needs, str) else needs) <= set(workflow["jobs"]), name
            assert "uses" in job or job["timeout-minutes"] <= 90


def test_rights_are_few(workflows):
    for workflow in workflows.values():
        assert workflow["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in workflow.get(True, {})
        for name, job in workflow["jobs"].items():
            assert ("permissions" in job) == (name == "publish")


def test_actions_are_pinned_to_a_version(workflows):
    used = [s["uses"] for w in workflows.values() for _, s in steps_of(w) if "uses" in s]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+|stable)", action), action


def test_every_platform_promised_is_built(workflows):
    wheels = workflows["build.yml"]["jobs"]["wheel"]["strategy"]["matrix"]["include"]
    assert [row["name"] for row in wheels] == [
        "manylinux-x86_64",
        "manylinux-aarch64",
        "musllinux-x86_64",
        "musllinux-aarch64",
        "macos-x86_64",
        "macos-arm64",
        "windows-x64",
    ]
    publish = workflows["release.yml"]["jobs"]["publish"]["steps"]
    (count,) = [s["run"] for s in publish if "All eight" in s.get("name", "")]
    assert f"-eq {len(wheels)}" in count


def test_a_release_is_checked_built_attested_then_published(workflows):
    jobs = workflows["release.yml"]["jobs"]
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("version", "build")
    used = [step.get("uses", "") for step in jobs["publish"]["steps"]]
    attest = next(i for i, u in enumerate(used) if u.startswith("actions/attest-"))
    publish = next(i for i, u in enumerate(used) if u.startswith("pypa/"))
    assert attest < publish
    assert jobs["publish"]["permissions"]["attestations"] == "write"


def test_ci_and_release_build_by_the_same_file(workflows):
    assert workflows["ci.yml"]["jobs"]["build"]["uses"] == "./.github/workflows/build.yml"
    assert workflows["release.yml"]["jobs"]["build"]["uses"] == "./.github/workflows/build.yml"


def test_ci_runs_the_script_that_developers_run(workflows):
    assert "bash .ci/run" in [s.get("run") for _, s in steps_of(workflows["ci.yml"])]


def test_the_wheels_name_is_what_the_bindings_build(repository):
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

    cargo = tomllib.loads((repository / "rust/bindings/Cargo.toml").read_text())
    assert "abi3-py310" in cargo["dependencies"]["pyo3"]["features"]
