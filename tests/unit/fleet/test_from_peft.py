"""PEFT folders are read from config and header alone; what is damaged is refused by name."""

import json
import struct

import pytest
from peft_folders import packed, safetensors, tensors_of, write_adapter

from lorapack.errors import InputError
from lorapack.fleet.draw import Popularity
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.from_peft import (
    features_in,
    fleet_from_peft,
    read_peft_folders,
    taken_by,
)
from lorapack.fleet.peft_adapter import read_peft_adapter
from lorapack.fleet.safetensors_header import read_header


def test_an_adapter_is_measured_by_hand(tmp_path):
    found = read_peft_adapter(write_adapter(tmp_path / "summaries", rank=16, use_rslora=True))
    # Two layers; q: 16 x 64 + 64 x 16, v: 16 x 64 + 16 x 16 numbers.
    elements = 2 * (16 * 64 + 64 * 16 + 16 * 64 + 16 * 16)
    assert found.name == "summaries"
    assert (found.rank, found.config_rank, found.n_modules) == (16, 16, 4)
    assert found.target_modules == ("q_proj", "v_proj")
    assert found.elements == elements
    assert found.file_bytes == elements * 4
    assert found.served_bytes == elements * 2
    assert found.base_model == "meta-llama/Llama-3.1-8B"
    assert found.features == ("rsLoRA",)
    assert found.notes == ()
    assert dict(found.refused_by) == {}


def test_the_header_agrees_with_the_library(tmp_path):
    library = pytest.importorskip("safetensors")
    folder = write_adapter(tmp_path / "a", tensors=tensors_of(8, dtype="BF16"))
    with library.safe_open(folder / "adapter_model.safetensors", framework="numpy") as theirs:
        shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
    ours = read_header(folder / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes


def test_the_tensors_are_trusted_over_the_config(tmp_path):
    found = read_peft_adapter(write_adapter(tmp_path / "a", rank=8, tensors=tensors_of(32)))
    assert (found.rank, found.config_rank) == (32, 8)
    assert found.notes == ("the config says rank 8, the tensors have [32]",)


def test_a_rank_pattern_is_named_and_the_largest_rank_counts(tmp_path):
    tensors = {**tensors_of(8, layers=1), **tensors_of(64, {"o_proj": (4096, 4096)}, layers=1)}
    folder = write_adapter(tmp_path / "a", tensors=tensors, rank_pattern={"o_proj": 64})
    found = read_peft_adapter(folder)
    assert found.rank == 64
    assert "rank_pattern" in found.features
    assert len(found.notes) == 1
    assert "0.8.5 ignores rank_pattern" in found.notes[0]


HEAD = {
    "base_model.model.lm_head.lora_A.weight": ("F16", [8, 4]),
    "base_model.model.lm_head.lora_B.weight": ("F16", [257_500, 8]),
}
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
MAGNITUDE = {f"{Q_PROJ}.lora_magnitude_vector": ("F32", [64])}
BIAS = {f"{Q_PROJ}.lora_B.bias": ("F32", [64])}
SAVED = {"base_model.model.lm_head.weight": ("F32", [100, 64])}
SCORE = {"base_model.model.score.weight": ("F32", [2, 64])}


@pytest.mark.parametrize(
    ("config", "more", "by_085", "by_033"),
    [
        ({"use_dora": True}, {}, "DoRA", "DoRA"),
        ({}, MAGNITUDE, "DoRA", "DoRA"),
        ({"bias": "all"}, {}, "bias all", "bias all"),
        ({}, BIAS, "bias", "bias"),
        ({"lora_bias": True}, {}, None, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, SAVED, "modules_to_save lm_head", "modules_to_save"),
        ({}, SAVED, "modules_to_save lm_head", "modules_to_save lm_head"),
        ({"modules_to_save": ["score"]}, SCORE, "modules_to_save score", None),
        ({"init_lora_weights": "pissa_niter_16"}, {}, None, "init_lora_weights"),
        ({"init_lora_weights": "gaussian"}, {}, None, None),
        ({"init_lora_weights": "eva"}, {}, None, None),
        ({"init_lora_weights": "unheard_of"}, {}, None, "init_lora_weights unheard_of"),
        ({"alora_invocation_tokens": [1, 2]}, {}, None, "aLoRA"),
        ({"alora_invocation_tokens": []}, {}, None, None),
        ({"rank_pattern": {"x": "8"}}, {}, None, "rank_pattern"),
        ({"rank_pattern": {"x": 0}}, {}, None, "rank_pattern"),
        ({"layer_replication": [[0, 2]]}, {}, None, "layer_replication"),
        ({"use_qalora": True}, {}, None, "use_qalora"),
        ({"rank_pattern": {"x": 600}}, {}, None, "rank 600 is over 512"),
        ({}, HEAD, "lm_head of 257500 words, over 257024", None),
        ({"use_rslora": True, "layers_to_transform": [0, 1]}, {}, None, None),
    ],
)
def test_what_each_engine_version_would_refuse(tmp_path, config, more, by_085, by_033):
    folder = write_adapter(tmp_path / "a", tensors={**tensors_of(8), **more}, **config)
    refused = read_peft_adapter(folder).refused_by
    for version, reason in (("vllm-0.8.5", by_085), ("vllm-0.33", by_033)):
        if reason is None:
            assert version not in refused
        else:
            assert reason in ", ".join(refused[version])


def test_a_config_that_leaves_out_what_engines_need_is_refused_by_both(tmp_path):
    folder = write_adapter(tmp_path / "a", rank=8)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["r"], config["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = read_peft_adapter(folder)
    assert (found.rank, found.config_rank) == (8, 8)
    reason = ("a config without r, lora_alpha",)
    assert dict(found.refused_by) == {"vllm-0.8.5": reason, "vllm-0.33": reason}


def without(tensors, ending):
    return {name: value for name, value in tensors.items() if not name.endswith(ending)}


GOOD = tensors_of(8, layers=1)
A, B = (f"{Q_PROJ}.lora_{side}.weight" for side in "AB")


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (b"", "cut short"),
        (b"\x00" * 7, "cut short"),
        (struct.pack("<Q", 2**63) + b"{}", "cut short"),
        (struct.pack("<Q", 99_999_999) + b"{}", "cut short"),
        (safetensors(GOOD)[:-1], "the header describes"),
        (safetensors(GOOD) + b"x", "the header describes"),
        (packed("{", 0), "save it again"),
        (packed("[]", 0), "no JSON object"),
        (packed("[" * 90_000, 0), "save it again"),
        (packed("\xff\xfe", 0), "save it again"),
        (packed('{"a": {}, "a": {}}', 0), "stands twice"),
        (packed({"a": 3}, 0), "no shape"),
        (packed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, 4), "no shape"),
        (packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 5]}}, 4), "no shape"),
        (packed({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, 4), "no shape"),
        (packed({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}, 4), "one of BOOL"),
        (packed({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, 4), "one of"),
        (packed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, 4), "takes 8 bytes"),
        (packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8), "start at 0"),
        (safetensors({"base_model.model.x.weight": ("F32", [2, 2])}), "no lora_A"),
        (safetensors({}), "no lora_A"),
        (safetensors(without(GOOD, "q_proj.lora_B.weight")), "its B is not there"),
        (safetensors(without(GOOD, "q_proj.lora_A.weight")), "its A is not there"),
        (safetensors({A: ("F32", [8, 4]), B: ("F32", [4, 16])}), "A [r, in]"),
        (safetensors({A: ("F32", [0, 4]), B: ("F32", [4, 0])}), "A [r, in]"),
        (safetensors({A: ("F32", [8]), B: ("F32", [4, 8])}), "A [r, in]"),
    ],
)
def test_damaged_weights_are_refused_by_name(tmp_path, content, mend):
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_peft_adapter(folder)
    assert caught.value.file == str(folder / "adapter_model.safetensors")
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("content", "place", "mend"),
    [
        ("{", None, "mend the JSON"),
        ("[]", None, "JSON object"),
        ("{}", "peft_type", "LORA"),
        ('{"peft_type": "IA3"}', "peft_type", "LORA"),
        ('{"peft_type": "LORA", "r": 0}', "r", "whole number"),
        ('{"peft_type": "LORA", "r": "8"}', "r", "whole number"),
        ('{"peft_type": "LORA", "rank_pattern": [1]}', "rank_pattern", "object"),
        ("[" * 100_000, None, "mend the JSON"),
    ],
)
def test_a_damaged_config_is_refused_by_name(tmp_path, content, place, mend):
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_peft_adapter(folder)
    assert caught.value.file == str(folder / "adapter_config.json")
    assert caught.value.place == place
    assert mend in caught.value.mend


def test_a_pickle_is_refused_and_never_opened(tmp_path):
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    pickle = folder / "adapter_model.bin"
    pickle.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    pickle.chmod(0)
    with pytest.raises(InputError, match="runs the code in it"):
        read_peft_adapter(folder)
    pickle.unlink()
    with pytest.raises(InputError, match="is not there"):
        read_peft_adapter(folder)


def test_folders_of_adapters_are_walked_and_named_by_their_path(tmp_path):
    write_adapter(tmp_path / "team" / "b")
    write_adapter(tmp_path / "a", rank=32)
    write_adapter(tmp_path / "a" / "checkpoint-500", rank=16)
    found = read_peft_folders([tmp_path])
    assert [(a.name, a.rank) for a in found.adapters] == [
        ("a", 32),
        ("a/checkpoint-500", 16),
        ("team/b", 8),
    ]
    with pytest.raises(InputError, match="give their common parent"):
        read_peft_folders([tmp_path / "team" / "b", tmp_path / "team"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no adapter_config\.json"):
        read_peft_folders([tmp_path / "empty"])
    with pytest.raises(InputError, match="give a folder"):
        read_peft_folders([tmp_path / "a" / "adapter_config.json"])


def test_damaged_ones_are_told_from_the_good_and_engines_may_refuse_more(tmp_path):
    write_adapter(tmp_path / "good")
    write_adapter(tmp_path / "dora", use_dora=True)
    write_adapter(tmp_path / "huge", rank=1024)
    (write_adapter(tmp_path / "torn") / "adapter_model.safetensors").write_bytes(b"torn")
    found = read_peft_folders([tmp_path])
    assert [adapter.name for adapter in found.adapters] == ["dora", "good", "huge"]
    assert "torn" in found.damaged[0].file
    taken, refused = taken_by(found, None)
    assert [adapter.name for adapter in taken] == ["dora", "good"]
    assert len(refused) == 2
    taken, refused = taken_by(found, "vllm-0.33")
    assert [adapter.name for adapter in taken] == ["good"]
    assert any("vllm-0.33 refuses it: DoRA" in error.mend for error in refused)


def test_a_fleet_has_ranks_paths_and_a_stated_split(tmp_path):
    folders = [write_adapter(tmp_path / name, rank=rank) for name, rank in (("a", 8), ("b", 64))]
    adapters = read_peft_folders(folders).adapters
    fleet = fleet_from_peft(adapters, rate_rps=3.0, popularity=Popularity.parse("zipf:1"))
    assert [(a.adapter, a.rank, a.rate_rps) for a in fleet] == [("a", 8, 2.0), ("b", 64, 1.0)]
    assert fleet["a"].path == str(folders[0].resolve())
    assert fleet["a"].model is None
    assert "split by zipf:1" in fleet.provenance["rule"]
    with pytest.raises(InputError):
        fleet_from_peft([])
    with pytest.raises(InputError):
        fleet_from_peft(adapters, rate_rps=-1.0)


def test_what_is_out_of_the_ordinary_is_told_by_feature(tmp_path):
    for number in range(7):
        write_adapter(tmp_path / f"a{number}", use_rslora=True)
    write_adapter(tmp_path / "b", tensors={**tensors_of(8), **SCORE}, use_rslora=True)
    adapters = read_peft_folders([tmp_path]).adapters
    assert features_in(adapters) == [
        "rsLoRA in a0, a1, a2, a3, a4 and 3 more, 8 of 8 adapters",
        "modules_to_save score in b, 1 of 8 adapters",
    ]


def test_several_base_models_are_told_apart(tmp_path):
    write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", base_model_name_or_path="Qwen/Qwen2.5-7B")
    fleet = fleet_from_peft(read_peft_folders([tmp_path]).adapters)
    assert {adapter.model for adapter in fleet} == {"meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B"}


def test_a_blank_rank_in_a_fleet_is_read_from_its_path(tmp_path):
    write_adapter(tmp_path / "peft" / "a", rank=64)
    file = tmp_path / "fleet.csv"
    file.write_text("adapter,rank,rate_rps,path\nx,,1,peft/a\ny,8,1,s3://bucket/y\n")
    assert [adapter.rank for adapter in Fleet.read(file)] == [64, 8]
    file.write_text("adapter,rate_rps,path\nx,1,peft/a\n")
    assert Fleet.read(file)["x"].rank == 64
    file.write_text("adapter,rank,rate_rps,path\nx,,1,peft/absent\n")
    with pytest.raises(InputError) as caught:
        Fleet.read(file)
    assert caught.value.place == "line 2, column path"
    assert "give the rank" in caught.value.mend


def test_hostile_names_in_a_header_do_not_move_the_cursor(tmp_path):
    evil = "base_model.model.\x1b[2J.lora_A.weight"
    folder = write_adapter(tmp_path / "a", tensors={evil: ("F32", [8, 4])})
    with pytest.raises(InputError) as caught:
        read_peft_adapter(folder)
    from lorapack.cli.exit import message_of

    assert "\x1b" not in message_of(caught.value)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
