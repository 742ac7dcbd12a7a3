"""The fleet: all the adapters to be served, and the ways to come by one.

Read in this order: ``adapter.py`` (what an adapter is, and the only list of columns), ``fleet.py``
(many of them), ``read.py`` and ``write.py`` (CSV, Parquet, JSON, TOML), then one file a source:
``from_trace.py``, ``from_clients.py``, ``from_peft.py``, ``from_gateway.py``, ``from_vllm.py``.
"""
