"""The private native module: its stub says what it is, and somebody uses all of it."""

import ast
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


def imports_native(tree: ast.AST) -> bool:
    """Whether a module imports the native one at run time: what only type checkers read is free."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (
            node.module == "lorapack._native"
            or (node.module == "lorapack" and any(name.name == "_native" for name in node.names))
        ):
            return True
        if imports_native(node):
            return True
    return False


def test_only_the_twin_s_own_rooms_and_the_allocator_s_import_it(repository):
    package = repository / "python" / "lorapack"
    importers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if imports_native(ast.parse(path.read_text(encoding="utf-8")))
    }
    allowed = ("twin/", "fidelity/conform.py", "predictor/", "profile/allocator.py")
    assert "twin/run.py" in importers
    assert [path for path in importers if not path.startswith(allowed)] == []
