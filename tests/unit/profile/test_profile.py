"""Profiles: the round trip through TOML, and every way a file can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from lorapack.errors import InputError
from lorapack.profile.front_end import FrontEnd
from lorapack.profile.profile import DEFAULT_PROFILE, Profile


@pytest.fixture(scope="module")
def profile() -> Profile:
    return Profile.load()


@pytest.mark.parametrize("name", Profile.names())
def test_every_profile_that_ships_loads_under_its_name_and_comes_back_equal(name: str) -> None:
    loaded = Profile.load(name)
    assert loaded.name == name
    assert Profile.from_toml(loaded.to_toml()) == loaded
    assert loaded.provenance.source


def test_the_measured_profiles_ship() -> None:
    assert DEFAULT_PROFILE in Profile.names()
    assert "qwen-2.5-7b/h100-64gb/vllm-0.8.5" in Profile.names()


def test_a_written_file_loads_by_its_path(profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    profile.write(file)
    assert Profile.load(file) == profile
    with pytest.raises(InputError, match="exists"):
        profile.write(file)
    profile.write(file, force=True)


def test_a_file_with_a_byte_order_mark_loads(profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "bom.toml"
    file.write_text(profile.to_toml(), encoding="utf-8-sig")
    assert Profile.load(file) == profile


def test_equal_profiles_hash_equal(profile: Profile) -> None:
    assert hash(Profile.from_toml(profile.to_toml())) == hash(profile)


def test_a_profile_of_step_recordings_has_no_memory_and_no_front_end(profile: Profile) -> None:
    text = replace(profile, memory=None).to_toml()
    head, _, tail = text.partition("[front_end]")
    text = head + "[lengths]" + tail.partition("[lengths]")[2]
    read = Profile.from_toml(text)
    assert read.memory is None
    assert read.front_end == FrontEnd.none()


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return change


def rename(key: str, new: str) -> Callable[[str], str]:
    return replaced(f"\n{key} = ", f"\n{new} = ")


def value(key: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        head, _, tail = text.partition(f"\n{key} = ")
        assert tail, key
        return f"{head}\n{key} = {new}\n{tail.partition(chr(10))[2]}"

    return change


def without(key: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(f"{key} = ")]
        assert len(kept) < len(lines)
        return "".join(kept)

    return change


WRONG: dict[str, tuple[Callable[[str], str], str, str]] = {
    "another unit": (rename("fixed_ms", "fixed_us"), "[step_time]", "fixed_ms, in milliseconds"),
    "no unit": (rename("fixed_ms", "fixed"), "[step_time]", "give fixed_ms"),
    "misspelt key": (rename("waiting_ms", "wating_ms"), "[step_time]", "did you mean waiting_ms"),
    "unknown key": (rename("waiting_ms", "zzz"), "[step_time]", "unknown key"),
    "missing key": (without("weights_ms"), "[step_time] weights_ms", "missing: add weights_ms"),
    "not a number": (value("weights_ms", "nan"), "[step_time] weights_ms", "finite"),
    "infinite": (value("weights_ms", "inf"), "[step_time] weights_ms", "finite"),
    "negative": (value("weights_ms", "-9.2"), "[step_time] weights_ms", "at least 0"),
    "zero where impossible": (value("attention_tflops", "0.0"), "attention_tflops", "above 0"),
    "a text": (value("weights_ms", '"9.2"'), "[step_time] weights_ms", "a number"),
    "a switch": (value("weights_ms", "true"), "[step_time] weights_ms", "a number"),
    "a fraction of a whole": (value("block_size", "16.5"), "[engine] block_size", "whole number"),
    "too large": (value("gpu_memory_utilization", "90.0"), "gpu_memory_utilization", "at most 1"),
    "unknown rule set": (value("rule_set", '"vllm-0.9"'), "rule_set", "vllm-0.8.5"),
    "unknown kind": (value("kind", '"guessed"'), "[provenance] kind", "fitted"),
    "unknown KV type": (value("kv_cache_dtype", '"int3"'), "kv_cache_dtype", "fp8"),
    "unknown section": (replaced("[gpu]", "[gpus]"), "top level", "did you mean gpu"),
    "missing section": (replaced("[step_time]", "[price]\n[x]"), "", ""),
    "a key for a section": (
        lambda text: "lengths = 3\n" + text.partition("[lengths]")[0],
        "[lengths]",
        "make it a table",
    ),
    "no name": (without("name"), "top level name", "missing"),
    "nested key": (value("q25_tokens", "-1.0"), "[lengths] prompt q25_tokens", "at least 1"),
    "quartiles that fall": (value("q25_tokens", "900.0"), "[lengths.prompt]", "ascending"),
    "heads that do not divide": (value("num_key_value_heads", "7"), "num_key_value_heads", "32"),
    "correlation above one": (value("correlation", "1.5"), "[lengths] correlation", "at most 1"),
    "not TOML": (lambda text: text + "\n[[", "", "is not TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_file_place_and_mend(case: str, profile: Profile) -> None:
    change, place, mend = WRONG[case]
    text = change(profile.to_toml())
    with pytest.raises(InputError) as caught:
        Profile.from_toml(text, file="mine.toml")
    assert caught.value.file == "mine.toml"
    assert place in str(caught.value.place)
    assert mend in caught.value.mend


def test_each_section_is_required(profile: Profile) -> None:
    optional = {"name", "rule_set", "memory", "front_end", "price"}
    for field in fields(Profile):
        if field.name in optional:
            continue
        sections = profile.to_toml().split("\n[")
        kept = [s for s in sections if not s.startswith((f"{field.name}]", f"{field.name}."))]
        with pytest.raises(InputError, match="missing: add the section"):
            Profile.from_toml("\n[".join(kept))


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        ("llama-3.1-8b/h100-64gb/vllm-0.8", "did you mean llama-3.1-8b/h100-64gb/vllm-0.8.5"),
        ("nowhere.toml", "cannot be read"),
        ("zzz", "known are"),
    ],
)
def test_an_unknown_profile_gives_the_nearest(given: str, mend: str) -> None:
    with pytest.raises(InputError, match=mend):
        Profile.load(given)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="UTF-8"):
        Profile.load(file)
