"""The private native module: its stub says what it is, and somebody uses all of it."""

import subprocess
import sys

from lorapack import _native


def test_the_stub_is_what_the_binary_has():
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "lorapack._native"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_name_is_used_by_the_package(repository):
    names = [name for name in dir(_native) if not name.startswith("_")]
    package = repository / "python" / "lorapack"
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    importers = [text for text in sources if "_native" in text]
    assert len(names) > 10
    assert importers
    # Outcomes and tables are met as what `simulate` returns, never by name.
    returned = {"Outcome", "Table"}
    unused = [name for name in names if not any(f"{name}" in text for text in importers)]
    assert set(unused) <= returned


def test_only_the_twin_s_own_rooms_import_it(repository):
    package = repository / "python" / "lorapack"
    importers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "import _native" in path.read_text(encoding="utf-8")
        or "lorapack._native import" in path.read_text(encoding="utf-8")
    }
    allowed = ("twin/", "fidelity/conform.py", "predictor/")
    assert "twin/run.py" in importers
    assert [path for path in importers if not path.startswith(allowed)] == []
