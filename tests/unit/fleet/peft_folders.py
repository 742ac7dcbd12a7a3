"""Makes adapter folders as PEFT writes them, without torch: shapes are real, data are zeros."""

import json
import struct
from pathlib import Path

BYTES = {"F32": 4, "BF16": 2, "F16": 2}

LLAMA = {"q_proj": (4096, 4096), "v_proj": (4096, 1024)}
"""Llama-3.1-8B's in and out of two linear layers; tests shrink them by 64."""


def tensors_of(rank, modules=LLAMA, layers=2, dtype="F32", shrink=64):
    """Name -> (dtype, shape) of a LoRA on some modules."""
    found = {}
    for layer in range(layers):
        for module, (size_in, size_out) in modules.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            found[f"{stem}.lora_A.weight"] = (dtype, [rank, size_in // shrink])
            found[f"{stem}.lora_B.weight"] = (dtype, [size_out // shrink, rank])
    return found


def safetensors(tensors, metadata=None):
    """The bytes of a file: header and zeros."""
    header, at = {"__metadata__": metadata or {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return packed(header, at)


def packed(header, data_bytes):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def write_adapter(folder, rank=8, tensors=None, **config):
    """Writes a folder as ``save_pretrained`` does; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "auto_mapping": None,
        "base_model_name_or_path": "meta-llama/Llama-3.1-8B",
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2))
    content = safetensors(tensors_of(rank) if tensors is None else tensors)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder
