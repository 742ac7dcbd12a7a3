"""Run by a Python that has vLLM: prints what its model classes say of LoRA, as one JSON object."""

import json
import os
import sys
from importlib.metadata import version

ANSWER = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM logs to stdout


def main(architectures):
    from vllm import ModelRegistry

    classes = {}
    for name in architectures:
        model = ModelRegistry.models[name].load_model_cls()
        classes[name] = {
            "packed": {layer: list(parts) for layer, parts in model.packed_modules_mapping.items()},
            "embeddings": sorted(getattr(model, "embedding_modules", None) or ()),
        }
    print(json.dumps({"version": version("vllm"), "classes": classes}), file=ANSWER)


if __name__ == "__main__":
    main(sys.argv[1:])
