"""Recorded requests: what arrived when, for which adapter, how long.

Read in this order: ``trace.py`` (the columns), ``table.py`` (files as cells that know their
line), ``read.py`` (which source a file is from), then one file a source: ``azure.py``,
``burstgpt.py``, ``mooncake.py``, ``generic.py``; ``servegen.py`` reads clients, which are rates
rather than requests.
"""
