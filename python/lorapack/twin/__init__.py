"""The twin: one GPU that serves many adapters, replayed step by step.

Read in this order: ``scenario.py`` (a fleet, a profile and settings become one scenario;
``arrivals.py`` and ``lengths.py`` are the laws it may name, ``read.py`` its file), ``native.py``
(the scenario in integers and tables), ``run.py`` (the native module runs it), ``result.py`` (what
came of it), ``service_level.py`` (whether that is good enough).
"""
