"""The linear program behind bounds, solved by HiGHS (Huangfu and Hall 2018).

By its own package, which takes ten milliseconds to import; where that cannot be loaded, by SciPy,
which takes a third of a second: OR-Tools brings a HiGHS of its own, and a process has room for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def dearest_prices(
    worth: Floats, counts: Floats, limits: tuple[Floats, Floats] | None = None
) -> Floats | None:
    """The prices at which sets are worth 1 at most and all items together most.

    Args:
        worth: A row a set: how many it has of each kind of item.
        counts: How many there are in all.
        limits: Between which prices are to lie; None: above zero.

    Returns:
        A price a kind; None where no prices are such.
    """
    least, most = limits or (np.zeros(len(counts)), np.full(len(counts), np.inf))
    try:
        return _by_highs(worth, counts, least, most)
    except ImportError:
        return _by_scipy(worth, counts, least, most)


def _by_highs(worth: Floats, counts: Floats, least: Floats, most: Floats) -> Floats | None:
    from highspy import Highs, HighsModelStatus, ObjSense  # only bounds need it

    n_sets, n_kinds = worth.shape
    solver = Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.addVars(n_kinds, least, most)
    solver.changeColsCost(n_kinds, np.arange(n_kinds, dtype=np.int32), counts)
    solver.changeObjectiveSense(ObjSense.kMaximize)
    rows, columns = np.nonzero(worth)
    solver.addRows(
        n_sets,
        np.full(n_sets, -np.inf),
        np.ones(n_sets),
        len(rows),
        np.searchsorted(rows, np.arange(n_sets)).astype(np.int32),
        columns.astype(np.int32),
        worth[rows, columns],
    )
    solver.run()
    if solver.getModelStatus() != HighsModelStatus.kOptimal:
        return None
    return np.array(solver.getSolution().col_value)


def _by_scipy(worth: Floats, counts: Floats, least: Floats, most: Floats) -> Floats | None:
    from scipy.optimize import linprog  # slow to import

    bounds = np.stack([least, most], axis=1)
    found = linprog(-counts, A_ub=worth, b_ub=np.ones(len(worth)), bounds=bounds, method="highs")
    return None if found.x is None else np.array(found.x)
