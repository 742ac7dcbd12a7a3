"""Vega-Lite figures of the page, one file a subject; `style.py` is what they share."""

from __future__ import annotations

from lorapack.report.figures.fidelity import fidelity, scores
from lorapack.report.figures.frontier import frontier
from lorapack.report.figures.maxpack import maxpack
from lorapack.report.figures.memory import memory
from lorapack.report.figures.savings import savings
from lorapack.report.figures.style import Figure
from lorapack.report.figures.timeline import timeline

__all__ = ["Figure", "fidelity", "frontier", "maxpack", "memory", "savings", "scores", "timeline"]
