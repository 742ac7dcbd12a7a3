"""Which adapters an engine version refuses for their modules, by the base model's class."""

import json

import pytest
from peft_folders import tensors_of, write_adapter

from lorapack.cli.main import run
from lorapack.errors import InputError
from lorapack.fleet.from_peft import read_peft_folders, taken_by
from lorapack.fleet.peft_adapter import read_peft_adapter
from lorapack.fleet.target_modules import lora_modules
from lorapack.profile.model_shape import ModelShape

SIZES = {
    "name": "small",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "dtype_bytes": 2,
    "linear_weight_bits": 16.0,
    "other_parameters": 0,
}
ATTENTION = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64)}
MLP = {"gate_proj": (64, 96), "up_proj": (64, 96), "down_proj": (96, 64)}
FUSED = {"qkv_proj": (64, 128), "gate_up_proj": (64, 192)}

HEAD = {
    "base_model.model.lm_head.lora_A.weight": ("F16", [8, 64]),
    "base_model.model.lm_head.lora_B.weight": ("F16", [320, 8]),
}
EMBEDDING = {
    "base_model.model.model.embed_tokens.lora_embedding_A": ("F16", [8, 320]),
    "base_model.model.model.embed_tokens.lora_embedding_B": ("F16", [64, 8]),
}
BASE_EMBEDDING = {"base_model.model.model.embed_tokens.base_layer.weight": ("F16", [320, 64])}


def model_of(architecture):
    return ModelShape(architecture=architecture, **SIZES)


def tensors(modules, layers=1):
    return tensors_of(8, modules, layers, shrink=1)


def refusals(tmp_path, architecture, held, **config):
    folder = write_adapter(tmp_path / "a", tensors=held, **config)
    return dict(read_peft_adapter(folder, model=model_of(architecture)).refused_by)


@pytest.mark.parametrize(
    "architecture",
    [
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "GraniteForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
    ],
)
def test_parts_of_packed_layers_are_taken_and_the_packed_names_are_not(tmp_path, architecture):
    assert refusals(tmp_path, architecture, tensors({**ATTENTION, **MLP})) == {}
    fused = refusals(tmp_path, architecture, tensors(FUSED))
    assert set(fused) == {"vllm-0.8.5", "vllm-0.33"}
    for (reason,) in fused.values():
        assert reason.startswith(f"target modules gate_up_proj, qkv_proj: {architecture} takes ")


def test_phi3_takes_the_fused_names_and_no_others(tmp_path):
    others = {"o_proj": (64, 64), "down_proj": (96, 64)}
    assert refusals(tmp_path, "Phi3ForCausalLM", tensors({**FUSED, **others})) == {}
    parts = refusals(tmp_path, "Phi3ForCausalLM", tensors({**ATTENTION, **MLP}))
    for engine in ("vllm-0.8.5", "vllm-0.33"):
        (reason,) = parts[engine]
        assert reason.startswith("target modules gate_proj, k_proj, q_proj, up_proj, v_proj: ")


@pytest.mark.parametrize(
    ("architecture", "by"),
    [
        ("LlamaForCausalLM", set()),
        ("GraniteForCausalLM", set()),
        ("Phi3ForCausalLM", set()),
        ("MistralForCausalLM", {"vllm-0.33"}),
        ("Qwen3ForCausalLM", {"vllm-0.8.5"}),
        ("Qwen2ForCausalLM", {"vllm-0.8.5", "vllm-0.33"}),
        ("Gemma2ForCausalLM", {"vllm-0.8.5", "vllm-0.33"}),
        ("Gemma3ForCausalLM", {"vllm-0.8.5", "vllm-0.33"}),
    ],
)
@pytest.mark.parametrize(("module", "held"), [("lm_head", HEAD), ("embed_tokens", EMBEDDING)])
def test_the_embeddings_are_taken_by_class_and_version(tmp_path, architecture, by, module, held):
    refused = refusals(tmp_path, architecture, {**tensors({"o_proj": (64, 64)}), **held})
    assert set(refused) == by
    for reasons in refused.values():
        assert reasons[0].startswith(f"target modules {module}: {architecture} takes q_proj")


def test_a_vision_tower_s_modules_are_taken_where_there_is_one(tmp_path):
    stem = "base_model.model.vision_tower.vision_model.encoder.layers.0"
    tower = {
        f"{stem}.mlp.fc1.lora_A.weight": ("F16", [8, 1152]),
        f"{stem}.mlp.fc1.lora_B.weight": ("F16", [4304, 8]),
        f"{stem}.self_attn.q_proj.lora_A.weight": ("F16", [8, 1152]),
        f"{stem}.self_attn.q_proj.lora_B.weight": ("F16", [1152, 8]),
    }
    assert refusals(tmp_path, "Gemma3ForConditionalGeneration", tower) == {}
    refused = refusals(tmp_path, "Gemma3ForCausalLM", tower)
    assert "target modules fc1: " in refused["vllm-0.33"][0]


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Phi3ForCausalLM"])
def test_experts_and_unheard_of_modules_are_refused_by_name(tmp_path, architecture):
    stem = "base_model.model.model.layers.0"
    strange = {
        f"{stem}.block_sparse_moe.experts.3.w1.lora_A.weight": ("F16", [8, 64]),
        f"{stem}.block_sparse_moe.experts.3.w1.lora_B.weight": ("F16", [96, 8]),
        f"{stem}.\x1b[2J.lora_A.weight": ("F16", [8, 64]),
        f"{stem}.\x1b[2J.lora_B.weight": ("F16", [64, 8]),
    }
    (reason,) = refusals(tmp_path, architecture, strange)["vllm-0.8.5"]
    assert "'\\x1b[2J', w1" in reason
    assert "\x1b" not in reason


def test_many_unknown_modules_are_counted_not_all_named(tmp_path):
    held = {}
    for number in range(40):
        stem = f"base_model.model.strange_{number:02d}"
        held[f"{stem}.lora_A.weight"] = ("F16", [8, 4])
        held[f"{stem}.lora_B.weight"] = ("F16", [4, 8])
    (reason,) = refusals(tmp_path, "LlamaForCausalLM", held)["vllm-0.33"]
    assert "strange_04 and 35 more" in reason


def test_tensors_of_another_model_are_told_by_their_sizes(tmp_path):
    other = tensors({"q_proj": (128, 64), "v_proj": (64, 32)}, layers=2)
    refused = refusals(tmp_path, "LlamaForCausalLM", other)
    expected = ("tensors of another model: q_proj is 128 -> 64, small's 64 -> 64",)
    assert refused == {"vllm-0.8.5": expected, "vllm-0.33": expected}


def test_the_embedding_saved_beside_a_lora_stops_one_version_only(tmp_path):
    held = {**tensors(ATTENTION), **EMBEDDING, **BASE_EMBEDDING}
    assert refusals(tmp_path, "LlamaForCausalLM", held) == {
        "vllm-0.8.5": ("modules_to_save embed_tokens",)
    }


def test_without_a_model_modules_are_not_judged(tmp_path):
    folder = write_adapter(tmp_path / "a", tensors=tensors(FUSED))
    assert dict(read_peft_adapter(folder).refused_by) == {}


def test_modules_and_sizes_by_hand():
    assert lora_modules(model_of("Qwen3ForCausalLM"), "vllm-0.33") == {
        **ATTENTION,
        **MLP,
        "embed_tokens": None,
        "lm_head": None,
    }


def test_the_refused_are_parted_from_the_taken(tmp_path):
    write_adapter(tmp_path / "good", tensors=tensors(ATTENTION))
    write_adapter(tmp_path / "headed", tensors={**tensors(ATTENTION), **HEAD})
    found = read_peft_folders([tmp_path], model_of("MistralForCausalLM"))
    taken, refused = taken_by(found, "vllm-0.8.5")
    assert [adapter.name for adapter in taken] == ["good", "headed"]
    assert refused == ()
    taken, (refusal,) = taken_by(found, "vllm-0.33")
    assert [adapter.name for adapter in taken] == ["good"]
    assert "vllm-0.33 refuses it: target modules lm_head" in refusal.mend


CONFIG = {
    "architectures": ["MistralForCausalLM"],
    **{key: value for key, value in SIZES.items() if isinstance(value, int)},
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "_name_or_path": "small"}))
    write_adapter(tmp_path / "adapters" / "good", tensors=tensors(ATTENTION))
    write_adapter(tmp_path / "adapters" / "headed", tensors={**tensors(ATTENTION), **HEAD})
    return tmp_path


def from_peft(*arguments):
    return run(["fleet", "from-peft", "adapters", *arguments])


def test_a_config_names_the_model_and_a_refusal_is_a_note(folders, capsys):
    assert from_peft("--model", "config.json", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["n_adapters"] == 2
    refused = {one["name"]: one["refused_by"] for one in answer["peft"]}
    assert refused["good"] == {}
    assert list(refused["headed"]) == ["vllm-0.33"]
    assert any("headed: vllm-0.33 refuses it: target modules lm_head" in n for n in answer["notes"])
    assert not any("no base model" in note for note in answer["notes"])


def test_an_engine_makes_it_an_error_unless_skipped(folders, capsys):
    asked = ("--model", "config.json", "--engine", "vllm-0.33")
    assert from_peft(*asked) == 2
    assert "target modules lm_head: MistralForCausalLM takes" in capsys.readouterr().err
    assert from_peft(*asked, "--skip", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["n_adapters"] == 1
    assert "lm_head" in answer["refused"][0]


def test_a_profile_says_model_and_engine(folders, capsys):
    profile = ("--profile", "qwen-2.5-7b/h100-64gb/vllm-0.8.5")
    assert from_peft(*profile) == 2
    said = capsys.readouterr().err
    assert "vllm-0.8.5 refuses it" in said
    assert "Qwen2ForCausalLM takes" in said
    assert "q_proj is 64 -> 64, qwen-2.5-7b's 3584 -> 3584" in said


def test_no_model_is_said_and_two_are_refused(folders, capsys):
    assert from_peft("--quiet") == 0
    assert from_peft() == 0
    assert "held against no base model: give --profile or --model" in capsys.readouterr().err
    assert from_peft("--model", "config.json", "--profile", "x") == 2
    assert "not both" in capsys.readouterr().err
    (folders / "config.json").write_text("{")
    assert from_peft("--model", "config.json") == 2
    assert from_peft("--model", "absent.json") == 2
    with pytest.raises(InputError):
        ModelShape.from_config(folders / "config.json")
