"""lorapack over HTTP, for schedulers that are not in Python: read `app.py` first.

app.py        the routes, and which status an error has
messages.py   what goes in and out, checked by pydantic against the fleet's own limits
prediction.py one GPU asked of the predictor
limits.py     how large a body may be
"""

from __future__ import annotations

from lorapack.serve.app import ServiceSettings, create_app
from lorapack.serve.prediction import Predictors

__all__ = ["Predictors", "ServiceSettings", "create_app"]
