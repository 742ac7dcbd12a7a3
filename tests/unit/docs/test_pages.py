"""Every code block of the site runs, page by page from top to bottom; the site builds strictly.

- ```` ```python ```` runs in the page's own namespace;
- ```` ```console ````: lines after `$ ` run in a shell, and what they print must match the lines
  below (`...` stands for anything, within a line or for lines);
- ```` ```csv title="fleet.csv" ```` (any language with a title) writes that file;
- `<!-- not run: reason -->` before a block leaves it out (one that needs the models that come with
  the profiles is run where they are there); indented blocks and those of other languages without a
  title are there to be read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorapack.predictor.predictor import builtin_models

ROOT = Path(__file__).resolve().parents[3]
NEEDS_MODELS = "needs the models that come with the profiles"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*?) -->\n)?^```(?P<language>[a-z]+)(?P<options>[^\n]*)\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    text: str
    line: int
    reason: str | None


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["options"])
        line = text[: match.start("text")].count("\n")
        found.append(
            Block(match["language"], title and title[1], match["text"], line, match["reason"])
        )
    return found


def commands(text: str) -> list[tuple[str, str]]:
    """(command, expected output) of a console block."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            assert found, f"output before any command: {line}"
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def matches(expected: str, said: str) -> bool:
    """`...` as a whole line stands for any lines, within a line for any text."""
    pattern = ""
    for line in expected.splitlines():
        if line == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split("...")) + r"\n"
    return re.fullmatch(pattern, said) is not None


def run_console(block: Block, folder: Path) -> None:
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
        "COLUMNS": "120",
    }
    for command, expected in commands(block.text):
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert matches(expected, done.stdout), f"$ {command}\n{done.stdout}\nexpected\n{expected}"


def run_page(page: Path, folder: Path) -> int:
    (folder / "examples").symlink_to(ROOT / "examples")
    namespace: dict[str, object] = {"__name__": "__docs__"}
    n_run = 0
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.reason is not None and not (block.reason == NEEDS_MODELS and builtin_models()):
            assert block.reason.strip(), f"{page}:{block.line}: say why it is not run"
            continue
        if block.title is not None:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            here = Path.cwd()
            os.chdir(folder)
            try:
                exec(code, namespace)
            finally:
                os.chdir(here)
        elif block.language in ("console", "sh", "bash"):
            if block.language == "console":
                run_console(block, folder)
            else:
                script = "".join(f"$ {line}\n...\n" for line in block.text.splitlines())
                run_console(Block("console", None, script, block.line, None), folder)
        else:
            continue
        n_run += 1
    return n_run


def test_there_are_pages():
    assert len(PAGES) >= 5


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_the_pages_code_runs(page, tmp_path):
    if not blocks(page.read_text(encoding="utf-8")):
        pytest.skip("no code on this page")
    run_page(page, tmp_path)


@pytest.mark.slow
def test_the_tutorial_prints_its_figures(measured_data, tmp_path):
    """Also the blocks that need the public traces, which do not come with lorapack."""
    shutil.copy(measured_data / "traces" / "AzureLLMInferenceTrace_conv.csv", tmp_path)
    for name in ("clients.csv", "hourly_rates.parquet"):
        shutil.copy(measured_data / "servegen" / name, tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    whole = re.sub(r"<!-- not run: needs [^\n]* -->\n", "", text)
    assert whole != text
    page = tmp_path / "tutorial.md"
    page.write_text(whole, encoding="utf-8")
    run_page(page, tmp_path)


def test_a_wrong_block_would_be_seen(tmp_path):
    for number, text in enumerate(
        [
            "```python\nassert 1 == 2\n```",
            "```console\n$ false\n```",
            "```console\n$ echo a\nb\n```",
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        page = folder / "page.md"
        page.write_text(text)
        with pytest.raises(AssertionError):
            run_page(page, folder)


def test_dots_stand_for_what_changes():
    assert matches("a\n...\nd ... f\n", "a\nb\nc\nd e f\n")
    assert matches("...\n", "")
    assert not matches("a\n", "a\nb\n")
    assert not matches("a ... c\n", "a b\n")


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("material", reason="MKDOCS-MATERIAL ABSENT: the site was not built")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "faq" / "index.html").is_file()
