"""What lorapack says of adapters, held against vLLM's own classes and loader, where there is one.

No GPU is needed. CONTRIBUTING.md says how to give it one; held so against 0.8.5.post1 and 0.33.0.
"""

import json
import subprocess
from pathlib import Path

import pytest
from peft_folders import tensors_of, write_adapter

from lorapack.fleet.peft_adapter import read_peft_adapter
from lorapack.fleet.target_modules import lora_modules
from lorapack.profile.model_shape import FAMILIES, ModelShape

VOCABULARY = 320
SERVING = "LlamaForCausalLM"

ATTENTION = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64)}
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD = {
    "base_model.model.lm_head.lora_A.weight": ("F16", [8, 64]),
    "base_model.model.lm_head.lora_B.weight": ("F16", [VOCABULARY, 8]),
}
EMBEDDING = {
    "base_model.model.model.embed_tokens.lora_embedding_A": ("F16", [8, VOCABULARY]),
    "base_model.model.model.embed_tokens.lora_embedding_B": ("F16", [64, 8]),
}
BASE_EMBEDDING = {
    "base_model.model.model.embed_tokens.base_layer.weight": ("F16", [VOCABULARY, 64])
}

FOLDERS = {
    "plain": ({}, {}),
    "rslora": ({"use_rslora": True}, {}),
    "some-layers": ({"layers_to_transform": [0]}, {}),
    "dora": ({"use_dora": True}, {}),
    "dora-tensors": ({}, {f"{Q_PROJ}.lora_magnitude_vector": ("F16", [64])}),
    "bias-all": ({"bias": "all"}, {}),
    "bias-tensors": ({}, {f"{Q_PROJ}.lora_B.bias": ("F16", [64])}),
    "lora-bias": ({"lora_bias": True}, {}),
    "saved-in-config": ({"modules_to_save": ["lm_head"]}, {}),
    "saved-in-tensors": ({}, {"base_model.model.lm_head.weight": ("F16", [VOCABULARY, 64])}),
    "score": (
        {"modules_to_save": ["score"]},
        {"base_model.model.score.weight": ("F16", [2, 64])},
    ),
    "pissa": ({"init_lora_weights": "pissa_niter_16"}, {}),
    "eva": ({"init_lora_weights": "eva"}, {}),
    "gaussian": ({"init_lora_weights": "gaussian"}, {}),
    "alora": ({"alora_invocation_tokens": [1, 2]}, {}),
    "alora-empty": ({"alora_invocation_tokens": []}, {}),
    "layers-copied": ({"layer_replication": [[0, 2]]}, {}),
    "bdlora": ({"use_bdlora": True}, {}),
    "qalora": ({"use_qalora": True}, {}),
    "pattern": ({"rank_pattern": {"q_proj": 8}}, {}),
    "pattern-too-large": ({"rank_pattern": {"q_proj": 600}}, {}),
    "pattern-of-text": ({"rank_pattern": {"q_proj": "8"}}, {}),
    "head": ({}, HEAD),
    "embedding": ({}, EMBEDDING),
    "embedding-and-base": ({}, {**EMBEDDING, **BASE_EMBEDDING}),
    "fused": ({}, tensors_of(8, {"qkv_proj": (64, 128)}, 1, shrink=1)),
    "expert": (
        {},
        {
            "base_model.model.model.layers.0.mlp.w1.lora_A.weight": ("F16", [8, 64]),
            "base_model.model.model.layers.0.mlp.w1.lora_B.weight": ("F16", [96, 8]),
        },
    ),
}
"""Name -> changes of the config, and tensors beside the attention's."""

LATER = {("bias-tensors", "vllm-0.8.5")}
"""Read without complaint, yet activated in a slot that has no room for it: an assertion fails."""


def model_of(architecture):
    return ModelShape(
        name="small",
        architecture=architecture,
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        attention_bias=False,
        dtype_bytes=2,
        linear_weight_bits=16.0,
        other_parameters=0,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("adapters")
    for name, (config, more) in FOLDERS.items():
        held = {**tensors_of(8, ATTENTION, 1, "F16", shrink=1), **more}
        write_adapter(top / name, tensors=held, **config)
    bare = write_adapter(top / "without-alpha", tensors=tensors_of(8, ATTENTION, 1, shrink=1))
    config = json.loads((bare / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (bare / "adapter_config.json").write_text(json.dumps(config))
    return top


@pytest.fixture(scope="module")
def said(vllm_python, folders):
    """What vLLM answers, and the name of its rule set."""
    asked = {
        "architectures": list(FAMILIES),
        "serving": SERVING,
        "vocabulary": VOCABULARY,
        "folders": [str(folder) for folder in sorted(folders.iterdir())],
    }
    done = subprocess.run(
        [vllm_python, str(Path(__file__).with_name("vllm_says.py"))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    release = tuple(map(int, answer["version"].split(".")[:2]))
    return answer, "vllm-0.8.5" if release < (0, 33) else "vllm-0.33"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_modules_are_those_of_vllm_s_own_class(said, architecture):
    answer, engine = said
    named = answer["classes"][architecture]
    known = set(lora_modules(model_of(architecture), engine))
    assert {part for parts in named["packed"].values() for part in parts} <= known
    assert known & {"embed_tokens", "lm_head"} == set(named["embeddings"])


@pytest.mark.parametrize("name", [*FOLDERS, "without-alpha"])
def test_what_vllm_s_own_loader_refuses_is_what_is_said(said, folders, name):
    answer, engine = said
    ours = read_peft_adapter(folders / name, model=model_of(SERVING)).refused_by.get(engine)
    theirs = answer["refusals"][str(folders / name)]
    refused = theirs is not None or (name, engine) in LATER
    assert (ours is not None) == refused, f"vLLM: {theirs}; lorapack: {ours}"
