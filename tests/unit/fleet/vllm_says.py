"""Run by a Python that has vLLM: says what its model classes take, and what its loader refuses.

Reads one JSON object, ``architectures`` (class names) and ``folders`` (of adapters, read for the
class ``serving``); prints another. Adapters are read on the CPU, as vLLM's worker reads them.
"""

import inspect
import json
import os
import sys
from importlib.metadata import version

ANSWER = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM logs to stdout


def classes(names):
    from vllm import ModelRegistry

    found = {}
    for name in names:
        model = ModelRegistry.models[name].load_model_cls()
        found[name] = {
            "packed": {layer: list(parts) for layer, parts in model.packed_modules_mapping.items()},
            "embeddings": sorted(getattr(model, "embedding_modules", None) or ()),
        }
    return found


def refusal(folder, expected, vocabulary):
    """The words of the refusal; None where the adapter is taken."""
    import torch
    from vllm.config import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    try:
        from vllm.lora.lora_model import LoRAModel
    except ImportError:  # 0.8.5
        from vllm.lora.models import LoRAModel
    torch.Tensor.pin_memory = lambda tensor, *_: tensor  # there is no GPU to copy to
    load = LoRAModel.from_local_checkpoint
    further = {
        "model_vocab_size": vocabulary,  # 0.33
        "embedding_padding_modules": ["lm_head"],  # 0.8.5
    }
    known = inspect.signature(load).parameters
    try:
        config = PEFTHelper.from_local_dir(folder, None)
        config.validate_legal(LoRAConfig(max_lora_rank=512, max_loras=1))
        load(
            folder,
            expected,
            peft_helper=config,
            lora_model_id=1,
            device="cpu",
            dtype=torch.bfloat16,
            **{name: value for name, value in further.items() if name in known},
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main():
    asked = json.load(sys.stdin)
    said = classes(asked["architectures"])
    serving = said[asked["serving"]]
    # `_load_adapter` of the worker: every linear layer's last name, packed ones by their parts.
    linear = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", *serving["embeddings"]}
    expected = {part for name in linear for part in serving["packed"].get(name, [name])}
    refusals = {
        folder: refusal(folder, expected, asked["vocabulary"]) for folder in asked["folders"]
    }
    answer = {"version": version("vllm"), "classes": said, "refusals": refusals}
    print(json.dumps(answer), file=ANSWER)


if __name__ == "__main__":
    main()
