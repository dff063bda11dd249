"""Models that are stored quantized, and mixtures: what is predicted is what is loaded, and what stays as it is is
named."""

import json

import pytest
import torch
import transformers as t

from lorabench.commands.main import main
from lorabench.config.settings import ModelSpec
from lorabench.engine.experts import unreached
from lorabench.engine.quantized_weights import weight_bytes
from lorabench.errors import LorabenchError, ModelError
from lorabench.memory.parameters import count_parameters
from lorabench.memory.step_profile import predict_step
from lorabench.memory.validate import setting_from
from lorabench.workflows.recommend import recommend
from tests.engine.conftest import small_config, small_model
from tests.spectra.conftest import plain  # noqa: F401  (a fixture)
from tests.spectra.test_dequantized import FORMS, stored


@pytest.mark.parametrize(("kind", "form"), [("llama", f) for f in FORMS] + [("gpt2", "nf4")])
def test_predicted_weights_are_those_that_are_loaded(kind, form, plain, tmp_path):  # noqa: F811
    loaded = stored(plain, kind, form, tmp_path)
    asked = setting_from({"model": {"name": str(tmp_path)}, "training": {"sequence_length": 16}}, "cpu")
    step = predict_step(asked)
    assert asked.quantization.name == form.split()[0]
    assert step.persistent_bytes["weights"] + step.persistent_bytes["quantization_state"] == weight_bytes(loaded) + sum(
        b.nbytes for b in loaded.buffers()
    )
    unquantized = predict_step(
        setting_from({"model": {"name": str(plain / kind)}, "training": {"sequence_length": 16}}, "cpu")
    )
    assert step.total_parameters == unquantized.total_parameters


def test_modules_of_single_layers_that_are_not_quantized_are_counted(tmp_path):
    """As dynamic 4-bit checkpoints have them: the fifth of six layers keeps its MLP in full precision."""
    config = small_config("llama")
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 6, 64, 128
    t.LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    skipping = t.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["lm_head", "model.layers.4.mlp"]
    )
    t.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=skipping, dtype=torch.float32
    ).save_pretrained(tmp_path / "nf4")
    loaded = t.AutoModelForCausalLM.from_pretrained(tmp_path / "nf4", dtype=torch.float32)
    assert type(loaded.model.layers[4].mlp.up_proj) is torch.nn.Linear
    held = predict_step(
        setting_from({"model": {"name": str(tmp_path / "nf4")}, "training": {"sequence_length": 16}}, "cpu")
    ).persistent_bytes
    assert held["weights"] + held["quantization_state"] == weight_bytes(loaded) + sum(
        b.nbytes for b in loaded.buffers()
    )


def test_a_stored_form_is_named_and_no_other_can_be_had(plain, tmp_path, capsys):  # noqa: F811
    stored(plain, "llama", "int8", tmp_path)
    capsys.readouterr()
    assert main(["estimate", "--model", str(tmp_path), "--sequence-length", "16"]) == 0
    assert "int8 as its checkpoint stores it" in capsys.readouterr().out
    assert main(["estimate", "--model", str(tmp_path), "--sequence-length", "16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["quantization"], told["stored_quantized"]) == ("int8", True)
    assert main(["parameters", "--model", str(tmp_path), "--rank", "2"]) == 0
    assert (
        f"{sum(p.numel() for p in t.AutoModelForCausalLM.from_pretrained(plain / 'llama').parameters()):,} parameters,"
        " stored in int8" in capsys.readouterr().out
    )
    for words, sentence in (
        ({"quantization": {"name": "nf4"}}, "stored in int8, which cannot be turned into nf4"),
        ({"method": "full"}, "cannot be combined with quantization int8, in which"),
    ):
        with pytest.raises(LorabenchError, match=sentence):
            setting_from({"model": {"name": str(tmp_path)}, "training": {"sequence_length": 16}, **words})
    with pytest.raises(LorabenchError, match="leaves no choice of quantization"):
        recommend(str(tmp_path), "t4", 16)


def with_config(tmp_path, **changes):
    config = json.loads(small_config("llama").to_json_string(use_diff=False)) | {"model_type": "llama"} | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_a_form_that_cannot_be_trained_on_is_refused_by_name(tmp_path, capsys):
    name = with_config(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="stored quantized by gptq"):
        setting_from({"model": {"name": name}, "training": {"sequence_length": 16}})
    assert main(["parameters", "--model", name, "--rank", "2"]) == 0
    assert "stored in gptq, which lorabench cannot train on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1e4}}, "nonsense"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "Missing required keys"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "two"}},
            "unsupported operand|factor",
        ),
        ({"hidden_act": "nonsense"}, "not a value that transformers knows"),
        ({"num_key_value_heads": 0}, "cannot be built from its configuration"),
        ({"pad_token_id": 10**6}, "within num_embeddings"),
        ({"quantization_config": "bnb"}, "is 'bnb', not a JSON object"),
        ({"hidden_size": "big"}, "hidden_size"),
    ],
)
def test_a_configuration_that_transformers_rejects_is_one_sentence(changes, words, tmp_path, capsys):
    name = with_config(tmp_path, **changes)
    for command in (["estimate", "--sequence-length", "16"], ["parameters", "--rank", "2"]):
        assert main([*command, "--model", name]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lorabench: ")]
        assert any(w in line for w in words.split("|"))


def test_experts_are_counted_by_hand_and_named_with_what_to_do(tmp_path, capsys):
    """Mixtral of 2 layers, 4 experts, hidden 32, intermediate 48: 4 x (2 x 48 x 32 + 32 x 48) a layer, and a router of
    4 x 32."""
    small_config("mixtral").save_pretrained(tmp_path)
    hand = 2 * (4 * (2 * 48 * 32 + 32 * 48) + 4 * 32)
    found = unreached(small_model("mixtral"))
    assert (found.parameters, found.bytes) == (hand, 4 * hand)
    assert found.names[:2] == ("model.layers.*.mlp.experts.gate_up_proj", "model.layers.*.mlp.experts.down_proj")
    asked = ["estimate", "--model", str(tmp_path), "--sequence-length", "16", "--quantization", "nf4"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "its experts are neither quantized nor adapted (model.layers.*.mlp.experts.gate_up_proj" in told
    assert "bitsandbytes quantizes and LoRA adapts linear layers alone" in told
    assert f"{hand:,} of " in told
    assert main([*asked, "--json"]) == 0
    plainly = json.loads(capsys.readouterr().out)["unreached"]
    assert (plainly["parameters"], plainly["bytes"], plainly["quantized"], plainly["adapted"]) == (
        hand,
        4 * hand,
        False,
        False,
    )
    assert main(["estimate", "--model", str(tmp_path), "--sequence-length", "16"]) == 0
    assert "its experts are not adapted (" in capsys.readouterr().out
    assert main(["estimate", "--model", str(tmp_path), "--sequence-length", "16", "--method", "full"]) == 0
    assert "adapted" not in capsys.readouterr().out
    assert main(["parameters", "--model", str(tmp_path), "--rank", "2"]) == 0
    assert "its experts are not adapted (model.layers.*.mlp.experts.gate_up_proj" in capsys.readouterr().out


def test_a_study_is_told_of_its_experts_once(tmp_path, capsys):
    small_config("mixtral").save_pretrained(tmp_path)
    study = tmp_path / "s.yaml"
    study.write_text(
        f"schema: 1\nname: s\nmodel: {{name: {tmp_path}}}\ntask: python-docs\nmethod: {{name: lora, rank: 2, alpha:"
        " 4}\nquantization: {name: nf4}\ntraining: {steps: 2, batch_size: 1, sequence_length: 16, learning_rate:"
        " 1e-3}\ngrid: {method.rank: [2, 4]}\n"
    )
    assert main(["plan", str(study), "--gpu", "t4"]) == 0
    assert capsys.readouterr().out.count("are neither quantized nor adapted") == 1
    assert main(["plan", str(study), "--gpu", "t4", "--json"]) == 0
    assert all(c["unreached"]["quantized"] is False for c in json.loads(capsys.readouterr().out)["conditions"])


def test_no_note_where_all_weights_are_reached():
    assert unreached(small_model("llama")) is None
    assert unreached(small_model("gpt2")) is None
    assert unreached(small_model("opt")) is None


def test_names_that_peft_takes_for_experts_are_refused(tmp_path):
    """PEFT 0.21 adapts DeepSeek's stacks of experts where gate_proj, up_proj and down_proj of its dense layers are
    named."""
    config = t.DeepseekV3Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=64,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="down_proj, gate_proj, up_proj of a deepseek_v3 model for its experts"):
        count_parameters(ModelSpec(name=str(tmp_path)), [2], "all-linear")
    (count,) = count_parameters(ModelSpec(name=str(tmp_path)), [2], "attention")
    assert (
        predict_step(
            setting_from(
                {
                    "model": {"name": str(tmp_path)},
                    "method": {"name": "lora", "rank": 2, "target_modules": "attention"},
                    "training": {"sequence_length": 16},
                }
            )
        ).trainable_parameters
        == count.trainable_parameters
    )
