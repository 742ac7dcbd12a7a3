"""Model shapes from config.json: every family against its published parameter count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorapack.errors import InputError
from lorapack.profile.model_shape import FAMILIES, ModelShape


def config(architecture: str, sizes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """A config.json as Hugging Face has it, cut to what matters."""
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    base = dict(zip(keys, sizes, strict=True))
    return {
        "architectures": [architecture],
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 4096,
        **base,
        **more,
    }


LLAMA_8B = config(
    "LlamaForCausalLM",
    (4096, 14336, 32, 32, 8, 128256),
    max_position_embeddings=131072,
    rope_scaling={"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
    tie_word_embeddings=False,
)
QWEN_7B = config(
    "Qwen2ForCausalLM",
    (3584, 18944, 28, 28, 4, 152064),
    sliding_window=131072,
    use_sliding_window=False,
    max_window_layers=28,
    tie_word_embeddings=False,
)

GEMMA3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}

PUBLISHED = {
    "llama-3.1-8b": (LLAMA_8B, 8_030_261_248),
    "llama-3.2-1b": (
        config(
            "LlamaForCausalLM",
            (2048, 8192, 16, 32, 8, 128256),
            head_dim=64,
            tie_word_embeddings=True,
        ),
        1_235_814_400,
    ),
    "qwen2.5-7b": (QWEN_7B, 7_615_616_512),
    "qwen2.5-0.5b": (
        config("Qwen2ForCausalLM", (896, 4864, 24, 14, 2, 151936), tie_word_embeddings=True),
        494_032_768,
    ),
    "qwen3-0.6b": (
        config(
            "Qwen3ForCausalLM",
            (1024, 3072, 28, 16, 8, 151936),
            head_dim=128,
            tie_word_embeddings=True,
        ),
        596_049_920,
    ),
    "qwen3-8b": (
        config("Qwen3ForCausalLM", (4096, 12288, 36, 32, 8, 151936), head_dim=128),
        8_190_735_360,
    ),
    "mistral-7b-v0.3": (
        config("MistralForCausalLM", (4096, 14336, 32, 32, 8, 32768), sliding_window=None),
        7_248_023_552,
    ),
    "mistral-nemo-12b": (
        config("MistralForCausalLM", (5120, 14336, 40, 32, 8, 131072), head_dim=128),
        12_247_782_400,
    ),
    "gemma-2-2b": (
        config("Gemma2ForCausalLM", (2304, 9216, 26, 8, 4, 256000), sliding_window=4096),
        2_614_341_888,
    ),
    "gemma-2-9b": (
        config("Gemma2ForCausalLM", (3584, 14336, 42, 16, 8, 256000), head_dim=256),
        9_241_705_984,
    ),
    "gemma-3-1b": (
        config("Gemma3ForCausalLM", (1152, 6912, 26, 4, 1, 262144), head_dim=256),
        999_885_952,
    ),
    "gemma-3-4b": (GEMMA3_4B, 4_300_079_472),
    "phi-3-mini": (
        config("Phi3ForCausalLM", (3072, 8192, 32, 32, 32, 32064)),
        3_821_079_552,
    ),
    "phi-4": (
        config("Phi3ForCausalLM", (5120, 17920, 40, 40, 10, 100352)),
        14_659_507_200,
    ),
}


def read(folder: Path, content: object) -> ModelShape:
    file = folder / "config.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return ModelShape.from_config(file)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str, tmp_path: Path) -> None:
    content, published = PUBLISHED[name]
    assert read(tmp_path, content).n_parameters == published


def test_every_family_is_checked_against_a_published_model() -> None:
    checked = {content["architectures"][0] for content, _ in PUBLISHED.values()}
    assert checked == set(FAMILIES) - {"GraniteForCausalLM"}


def test_kv_and_weights_of_the_measured_models(tmp_path: Path) -> None:
    llama, qwen = read(tmp_path, LLAMA_8B), read(tmp_path, QWEN_7B)
    assert llama.kv_bytes_per_token() == 131072
    assert llama.kv_bytes_per_token("fp8") == 65536
    assert qwen.kv_bytes_per_token() == 57344
    assert llama.weights_bytes == 2 * 8_030_261_248
    assert llama.max_position_embeddings == 131072


def test_expand_blocks_and_slices_of_the_measured_models(tmp_path: Path) -> None:
    llama, qwen = read(tmp_path, LLAMA_8B), read(tmp_path, QWEN_7B)
    assert (llama.lora_expand_blocks, qwen.lora_expand_blocks) == (384, 436)
    assert (llama.lora_slices, qwen.lora_slices) == (7, 7)


def test_phi_packs_qkv_and_gate_up_as_one_slice_each(tmp_path: Path) -> None:
    phi = read(tmp_path, PUBLISHED["phi-4"][0])
    assert phi.lora_slices == 4
    assert [layer.slices for layer in phi.linear_layers] == [(7680,), (5120,), (35840,), (5120,)]


def test_head_size_need_not_be_hidden_over_heads(tmp_path: Path) -> None:
    qwen3 = read(tmp_path, PUBLISHED["qwen3-0.6b"][0])
    assert qwen3.query_size == 2048
    assert qwen3.hidden_size == 1024


def test_absent_kv_heads_means_as_many_as_heads(tmp_path: Path) -> None:
    content = {**LLAMA_8B, "num_key_value_heads": None}
    assert read(tmp_path, content).num_key_value_heads == 32


def test_gemma3_takes_its_class_defaults_and_nested_text_config(tmp_path: Path) -> None:
    gemma = read(tmp_path, GEMMA3_4B)
    assert (gemma.num_attention_heads, gemma.head_dim, gemma.vocab_size) == (8, 256, 262208)
    assert gemma.tie_word_embeddings
    assert gemma.max_position_embeddings == 8 * 131072


def test_a_folder_with_a_config_names_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B), encoding="utf-8")
    assert ModelShape.from_config(folder).name == "my-model"


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (None, 4096),
        ({"rope_type": "llama3", "factor": 8.0}, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
    ],
)
def test_longest_sequence_follows_the_kind_of_rope_scaling(
    scaling: object, expected: int, tmp_path: Path
) -> None:
    content = {**QWEN_7B, "rope_scaling": scaling}
    assert read(tmp_path, content).max_position_embeddings == expected


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            4 + 16 / 128,
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
    ],
)
def test_quantised_weights_by_method(
    quantization: dict[str, Any], bits: float, tmp_path: Path
) -> None:
    shape = read(tmp_path, {**LLAMA_8B, "quantization_config": quantization})
    assert shape.linear_weight_bits == pytest.approx(bits)
    unquantised = 2 * (shape.n_parameters - shape.linear_parameters)
    assert shape.weights_bytes == pytest.approx(shape.linear_parameters * bits / 8 + unquantised)


@pytest.mark.parametrize(
    ("change", "place", "mend"),
    [
        ({"architectures": ["LlamaForCausalML"]}, "architectures", "LlamaForCausalLM"),
        ({"architectures": []}, "architectures", "class name"),
        ({"num_local_experts": 8}, "num_local_experts", "mixture of experts"),
        ({"n_routed_experts": 64}, "n_routed_experts", "mixture of experts"),
        ({"hidden_size": None}, "hidden_size", "missing"),
        ({"hidden_size": -4}, "hidden_size", "above 0"),
        ({"vocab_size": "many"}, "vocab_size", "whole number"),
        ({"torch_dtype": "int3"}, "torch_dtype", "bfloat16"),
        ({"quantization_config": {"quant_method": "zip"}}, "quant_method", "awq"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors"}},
            "config_groups",
            "num_bits",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_place_and_mend(
    change: dict[str, Any], place: str, mend: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, {**LLAMA_8B, **change})
    assert place in str(caught.value.place)
    assert mend in caught.value.mend
    assert str(caught.value.file).endswith("config.json")


@pytest.mark.parametrize("text", ["{", "[1]", '"text"'])
def test_what_is_no_config_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        ModelShape.from_config(file)


def test_an_absent_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ModelShape.from_config(tmp_path / "nowhere")
