"""From plan.json to the files that start it: read `files.py` first, it is the whole walk.

plan_reader.py   plan.json -> GPUs, checked once
launch.py        one GPU of the plan -> the server it needs: flags, names, adapters and paths
vllm.py          -> one `vllm serve` script a GPU
kubernetes.py    -> ConfigMap, Deployment, Service a GPU; kserve.py, aibrix.py: the flavours
ray_serve.py     -> one Ray Serve application, one LLMConfig a GPU
routing.py       -> which adapter is where: CSV always, LiteLLM, production-stack; envoy.py
names.py         what a name must not do, and the slug it gets where it may not stand
assemble.py      joins them into texts by file name: nothing is written before all is known
"""

from __future__ import annotations

from lorapack.deploy.files import Deployment, DeploySettings, assemble
from lorapack.deploy.plan_reader import DeployablePlan, PlannedAdapter, PlannedGpu, read_plan

__all__ = [
    "DeploySettings",
    "DeployablePlan",
    "Deployment",
    "PlannedAdapter",
    "PlannedGpu",
    "assemble",
    "read_plan",
]
