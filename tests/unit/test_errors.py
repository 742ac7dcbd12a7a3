"""Every kind of error has an example, an exit code, and says what to mend."""

import importlib
import pickle
import pkgutil

import pytest

import lorapack
from lorapack.cli.exit import message_of
from lorapack.errors import (
    EXAMPLES,
    Infeasible,
    InputError,
    LorapackError,
    did_you_mean,
    shown,
)


def every_kind() -> set[type[LorapackError]]:
    """All subclasses that importing the whole package defines."""
    imported = 0
    for module in pkgutil.walk_packages(lorapack.__path__, "lorapack."):
        if module.name in ("lorapack.__main__", "lorapack._native"):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as missing:  # an extra that is not installed
            if (missing.name or "").startswith("lorapack."):
                raise
        else:
            imported += 1
    assert imported > 5
    kinds, found = [LorapackError], set()
    while kinds:
        subclasses = kinds.pop().__subclasses__()
        kinds.extend(subclasses)
        found.update(subclasses)
    return found


def test_every_kind_of_error_has_an_example():
    kinds = every_kind()
    assert {kind for kind in kinds if kind.__module__ == "lorapack.errors"} == set(EXAMPLES)
    for kind in kinds:
        # A room may refine a kind for its own use; the user still sees one of the catalogue.
        assert issubclass(kind, tuple(EXAMPLES))


@pytest.mark.parametrize("error", EXAMPLES.values(), ids=lambda error: type(error).__name__)
def test_example_has_an_exit_code_and_tells_what_to_mend(error):
    assert error.exit_code == (3 if isinstance(error, Infeasible) else 2)
    text = message_of(error)
    if isinstance(error, InputError):
        assert f"mend:  {error.mend}" in text
    else:
        assert error.limit in text
        assert error.nearest in text


@pytest.mark.parametrize("error", EXAMPLES.values(), ids=lambda error: type(error).__name__)
def test_errors_survive_the_way_back_from_another_process(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_message_names_file_place_value_and_mend_one_a_line():
    error = InputError("fleet.csv", "line 3, column rank", "x\x1b[31m", "give a rank")
    assert message_of(error).splitlines() == [
        "error: fleet.csv: line 3, column rank",
        r"  found: 'x\x1b[31m'",
        "  mend:  give a rank",
    ]


def test_a_long_value_is_cut():
    assert len(shown("x" * 100_000)) < 100
    assert len(shown(list(range(100_000)))) < 100


def test_an_unknown_name_gets_the_nearest_or_all():
    assert did_you_mean("Rate-RPS", ["rank", "rate_rps"]) == "did you mean rate_rps?"
    assert did_you_mean("q", ["rank", "rate_rps"]) == "known are: rank, rate_rps"
