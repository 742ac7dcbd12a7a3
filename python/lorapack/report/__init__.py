"""A plan and its evidence as one self-contained page: read `page.py` first.

    sources.py    files -> what they hold: plan, comparison, Maxpack curves, sweep, validate's rows
    rooms.py      each GPU as a room filled to its Maxpack, adapters as tiles (squarified treemap)
    timeline.py   one GPU simulated by the twin: running, waiting, KV, preemptions, loads
    figures/      Vega-Lite figures, one file a subject, in the page's own light and dark colours
    page.py       sources -> HTML; page.html is its template, page.css and page.js go inside

Vega is inlined from the `vl-convert-python` package: the page asks the network for nothing, and its
content security policy would not let it.
"""

from __future__ import annotations

from lorapack.report.page import render
from lorapack.report.sources import Sources, read_sources

__all__ = ["Sources", "read_sources", "render"]
