"""Every public name has an example in its docstring, and every example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import lorapack

MODULES = sorted(set(lorapack._HOMES.values()))
"""Where the public names live."""

ASKS_A_MODEL = ("lorapack.predictor.gpu_state", "lorapack.predictor.predictor")
"""Their examples load the model that comes with the default profile."""


def run_examples(module_name: str) -> doctest.TestResults:
    module = importlib.import_module(module_name)
    return doctest.testmod(module, optionflags=doctest.ELLIPSIS, verbose=False)


@pytest.mark.parametrize("name", sorted(lorapack.__all__))
def test_a_public_name_has_an_example(name):
    documented = inspect.getdoc(getattr(lorapack, name)) or ""
    assert ">>> " in documented


@pytest.mark.parametrize("module_name", MODULES)
def test_the_examples_run(module_name):
    if module_name in ASKS_A_MODEL:
        from lorapack.predictor.predictor import builtin_models

        if not builtin_models():
            pytest.skip("NO MODEL COMES WITH THIS TREE: examples of the predictor were not run")
    result = run_examples(module_name)
    assert result.attempted, f"{module_name} has no example"
    assert not result.failed


def test_the_reference_lists_every_public_name():
    page = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    listed = {
        line.removeprefix("::: lorapack.") for line in page.splitlines() if line.startswith(":::")
    }
    assert listed == set(lorapack.__all__)


def test_a_wrong_example_would_be_seen():
    assert (
        doctest.DocTestRunner(verbose=False)
        .run(
            doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0),
            out=lambda _: None,
        )
        .failed
    )
