"""What is not understood of an adapter, or does not belong together in it, is refused by its name in one sentence."""

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.commands.main import main
from lorabench.errors import LorabenchError, ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.source import open_learned
from lorabench.spectra.truncate import truncate
from tests.engine.conftest import small_model
from tests.spectra.conftest import peft_adapter
from tests.spectra.peft_variants import merged


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_qalora": True}, "use_qalora is set, and QA-LoRA pools the input"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config is set, and Arrow routes every token"),
        *(
            ({"peft_type": kind}, f"the adapter's type is {kind}")
            for kind in (
                "LOHA",
                "LOKR",
                "VERA",
                "IA3",
                "OFT",
                "BOFT",
                "VBLORA",
                "FOURIERFT",
                "HRA",
                "RANDLORA",
                "XLORA",
                "PROMPT_TUNING",
                "SOMETHING_NEW",
            )
        ),
        ({"use_bdlora": {"nblocks": 0}}, "use_bdlora is {'nblocks': 0}"),
        ({"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 3}}, "cannot be split into the 3 blocks"),
        ({"layer_replication": "all"}, "pairs of layers are needed"),
        ({"rank_pattern": {"(q_proj": 4}}, "rank_pattern has '(q_proj', which is not a valid regular expression"),
        ({"alpha_pattern": {"*.q_proj": 4}}, "alpha_pattern has '*.q_proj', which is not a valid regular expression"),
        ({"target_modules": "(.*q_proj"}, "target_modules has '(.*q_proj'"),
        ({"target_parameters": "experts"}, "target_parameters is 'experts'; a list of names is needed"),
        ({"r": None}, "r is None; a positive number is needed"),
        ({"r": 4.5}, "r is 4.5; a whole number is needed"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'; a positive number is needed"),
        ({"lora_alpha": -1}, "lora_alpha is -1; a positive number is needed"),
    ],
)
def test_a_switch_that_is_not_understood_is_refused_by_name(fields, words, tmp_path):
    merged(peft.LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ModelError) as e:
        list(Adapter(tmp_path / "adapter").deltas())
    assert words in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"alora_invocation_tokens": [5, 6]}, "aLoRA: the change holds only from its invocation tokens on"),
        (
            {"some_new_switch": {"strength": 2}, "peft_version": "9.9"},
            "adapter_config.json sets some_new_switch, which lorabench does not know",
        ),
        ({"ensure_weight_tying": True}, "layers that share a weight"),
        ({"init_lora_weights": "lora_ga"}, "the adapter starts from lora_ga"),
        ({"init_lora_weights": "corda"}, "the adapter starts from corda"),
        ({"init_lora_weights": "OLoRA"}, "the adapter starts from OLoRA"),
    ],
)
def test_what_limits_the_numbers_is_told(fields, words, tmp_path):
    merged(peft.LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert any(words in n for n in Adapter(tmp_path / "adapter").notes())


def test_every_field_of_this_pefts_configurations_is_known():
    """A field that is new in PEFT is told where it is set; here it asks to be looked at."""
    import dataclasses

    from lorabench.spectra.declared import _LORA_FIELDS

    fields = {f.name for kind in (peft.LoraConfig, peft.AdaLoraConfig) for f in dataclasses.fields(kind)}
    assert fields <= _LORA_FIELDS


@pytest.mark.parametrize(
    "name",
    [
        "lora_gate.weight",
        "lora_C.default.weight",
        "lora_arrow.default.prototypes",
        "hada_w1_a",
        "lokr_w2",
        "vera_lambda_b",
        "lora_mid.weight",
    ],
)
def test_a_tensor_that_is_not_understood_is_refused_by_name(name, tmp_path):
    merged(peft.LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file) | {f"base_model.model.model.layers.0.self_attn.q_proj.{name}": torch.ones(2)}, file)
    with pytest.raises(ModelError, match=name.split(".")[0]):
        Adapter(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("fields", "changed", "words"),
    [
        (
            {"use_dora": True},
            lambda s: {k: v for k, v in s.items() if "magnitude" not in k},
            "sets use_dora, but model.layers.0.self_attn.q_proj has no tensor for it",
        ),
        (
            {"kasa_config": peft.tuners.lora.config.KasaConfig()},
            lambda s: {k: v for k, v in s.items() if "diag" not in k},
            "sets kasa_config, but",
        ),
        (
            {},
            lambda s: s | {"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(32)},
            "does not set use_dora, so PEFT would ignore it",
        ),
        (
            {},
            lambda s: s | {"base_model.model.model.layers.0.self_attn.q_proj.lora_E": torch.ones(4, 1)},
            "does not set peft_type ADALORA",
        ),
        (
            {},
            lambda s: {k: v[:0] if "lora_A" in k else v[:, :0] for k, v in s.items()},
            "empty, as DeepSpeed ZeRO-3 leaves shards",
        ),
        ({}, lambda s: {k: torch.zeros(0, 4) for k in s}, "empty, as DeepSpeed ZeRO-3 leaves shards"),
        (
            {},
            lambda s: {k: v[..., None] if "lora_A" in k else v for k, v in s.items()},
            "both must belong to a linear layer, or both to a convolution",
        ),
        (
            {},
            lambda s: {k: v.to(torch.complex64) for k, v in s.items()},
            "of complex64; a matrix of floating-point numbers is needed",
        ),
        ({}, lambda s: {k: v.bool() for k, v in s.items()}, "of bool; a matrix of floating-point numbers is needed"),
        ({}, lambda s: s | {f"_orig_mod.{k}": v.clone() for k, v in s.items()}, "are the same tensor under two names"),
        ({}, lambda s: {"x": torch.ones(2)}, "holds no LoRA factors (its tensors: x"),
    ],
)
def test_a_file_that_does_not_go_with_its_configuration_is_one_sentence(fields, changed, words, tmp_path):
    merged(peft.LoraConfig(r=4, target_modules=["q_proj"], **fields), tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({k: v.contiguous().clone() for k, v in changed(load_file(file)).items()}, file)
    with pytest.raises(ModelError) as e:
        list(Adapter(tmp_path / "adapter").deltas())
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_a_folder_says_what_it_holds_instead(tmp_path):
    merged(peft.LoraConfig(r=4, target_modules=["q_proj"]), tmp_path / "run" / "checkpoint-5")
    (tmp_path / "run" / "checkpoint-5" / "base" / "config.json").write_text("{}")
    with pytest.raises(LorabenchError, match="it holds adapter, base: name one of them"):
        open_learned(str(tmp_path / "run" / "checkpoint-5"))
    (tmp_path / "run" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no adapter factors; allowed: adapter_model.safetensors"):
        open_learned(str(tmp_path / "run"))
    (tmp_path / "empty" / "one").mkdir(parents=True)
    (tmp_path / "empty" / "my-lora.safetensors").write_bytes(b"")
    with pytest.raises(LorabenchError, match=r"it holds my-lora.safetensors: name one of them"):
        open_learned(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        open_learned(str(tmp_path / "empty" / "my-lora.safetensors"))


def test_a_matrix_turned_the_wrong_way_is_no_merged_projection(tmp_path):
    """A of (in, r) has a multiple of B's columns as rows, as merged projections have; PEFT's configuration would name
    those in enable_lora."""
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["q_proj"])
    state = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: v.T.contiguous() if "layers.0" in k and "lora_A" in k else v for k, v in state.items()},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(
        ModelError, match="lora_A is 32 x 4 and lora_B is 32 x 4; the rows of A must be the columns of B"
    ):
        Adapter(folder)


def test_an_empty_factor_is_called_empty_by_every_command(tmp_path, capsys):
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["q_proj"])
    state = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: torch.zeros(0, 4) if "layers.0" in k and "lora_A" in k else v for k, v in state.items()},
        folder / "adapter_model.safetensors",
    )
    for command in (["spectrum", str(folder)], ["truncate", str(folder), "--rank", "2", "-o", str(tmp_path / "cut")]):
        assert main(command) == 2
        assert "lora_A is 0 x 4 and lora_B is 32 x 4: empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        ({"target_modules": ["q_proj"]}, ["layers.0.self_attn.v_proj", "layers.1.self_attn.v_proj"]),
        (
            {"target_modules": r"model\.layers\.\d\.self_attn\.q_proj"},
            ["layers.0.self_attn.v_proj", "layers.1.self_attn.v_proj"],
        ),
        ({"layers_to_transform": [1]}, ["layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"]),
        (
            {"layers_to_transform": 0, "layers_pattern": "layers"},
            ["layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"],
        ),
        ({"exclude_modules": ["layers.0.self_attn.q_proj"]}, ["layers.0.self_attn.q_proj"]),
        ({"target_modules": "all-linear"}, []),
        ({"target_modules": None}, []),
    ],
)
def test_factors_that_the_configuration_passes_over_are_told_and_not_cut(fields, passed, tmp_path):
    """PEFT gives a model no such layers; its warning of unexpected keys is easily missed."""
    folder = peft_adapter(tmp_path / "a", target_modules=["q_proj", "v_proj"])[2]
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    adapter = Adapter(folder)
    assert list(adapter.passed_over()) == [f"model.{p}" for p in passed]
    assert any("PEFT ignores them" in n for n in adapter.notes()) == bool(passed)
    if passed:
        with warnings.catch_warnings(record=True):
            loaded = peft.PeftModel.from_pretrained(small_model("llama"), folder)
        adapted = {n.removeprefix("base_model.model.") for n, m in loaded.named_modules() if hasattr(m, "lora_A")}
        assert adapted == {e.module for e in adapter.entries} - set(adapter.passed_over())
        with pytest.raises(LorabenchError, match="does not target"):
            truncate(adapter, tmp_path / "cut", rank=2)


def test_a_folder_whose_file_has_a_name_of_its_own_tells_it(tmp_path):
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").rename(folder / "my_lora.safetensors")
    with pytest.raises(ModelError, match=r"it holds my_lora\.safetensors: name the file itself"):
        Adapter(folder)
    assert len(Adapter(folder / "my_lora.safetensors").entries) == 2


@pytest.mark.parametrize("last", ["scale", "scaling", "scalar"])
def test_a_factor_beside_the_factors_is_refused_by_its_name(last, tmp_path):
    a, b = torch.ones(4, 12), torch.ones(10, 4)
    save_file(
        {"lora_unet_q.lora_down.weight": a, "lora_unet_q.lora_up.weight": b, f"lora_unet_q.{last}": torch.tensor(0.5)},
        tmp_path / "k.safetensors",
    )
    with pytest.raises(ModelError, match=rf"has a tensor lora_unet_q\.{last} beside the factors"):
        Adapter(tmp_path / "k.safetensors")


def test_a_whole_checkpoint_cannot_be_cut_and_no_option_is_advised_that_is_not_there(tmp_path, capsys):
    small_model("llama").save_pretrained(tmp_path / "model")
    capsys.readouterr()
    assert main(["truncate", str(tmp_path / "model"), "--rank", "2", "-o", str(tmp_path / "cut")]) == 2
    told = capsys.readouterr().err
    assert "is a whole checkpoint; only the factors of an adapter can be cut" in told
    assert "--base" not in told


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module"])
def test_the_dictionary_that_a_training_script_puts_around_is_taken_off(wrapper, tmp_path):
    state = {"a.q_proj.lora_A.default.weight": torch.ones(4, 12), "a.q_proj.lora_B.default.weight": torch.ones(10, 4)}
    torch.save({wrapper: state, "step": 3}, tmp_path / "last.pt")
    assert [e.module for e in Adapter(tmp_path / "last.pt").entries] == ["a.q_proj"]


def test_alpha_in_a_header_under_any_of_its_names(tmp_path):
    state = {"a.q_proj.lora_A.weight": torch.ones(4, 12), "a.q_proj.lora_B.weight": torch.ones(10, 4)}
    for name in ("lora_alpha", "network_alpha", "alpha", "ss_network_alpha"):
        save_file(state, tmp_path / "x.safetensors", metadata={name: "8"})
        adapter = Adapter(tmp_path / "x.safetensors")
        assert adapter.scaling(adapter.entries[0]) == 2
