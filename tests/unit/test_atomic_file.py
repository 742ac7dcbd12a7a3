"""A file is whole or not there."""

import os

import pytest

from lorapack.atomic_file import atomic_file, write_text
from lorapack.errors import InputError, OutputExistsError


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    old = tmp_path / "plan.json"
    old.write_text("old")

    def write_half():
        with atomic_file(old, force=True) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
    assert old.read_text() == "old"


def test_an_existing_file_is_replaced_only_with_force(tmp_path):
    path = tmp_path / "plan.json"
    write_text(path, "1")
    with pytest.raises(OutputExistsError, match="--force"):
        write_text(path, "2")
    assert path.read_text() == "1"
    write_text(path, "3", force=True)
    assert path.read_text() == "3"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "plan.json", tmp_path / "plan.json"
    target.write_text("1")
    link.symlink_to(target)
    write_text(link, "2", force=True)
    assert link.is_symlink()
    assert target.read_text() == "2"


@pytest.mark.parametrize("name", ["", "absent/plan.json"])
def test_a_folder_or_a_path_into_nowhere_is_refused(tmp_path, name):
    with pytest.raises(InputError):
        write_text(tmp_path / name, "1", force=True)
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_to_directly():
    write_text(os.devnull, "gone")
