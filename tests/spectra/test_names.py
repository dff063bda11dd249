"""A base is found under the names of other versions and wrappers, and never under those of another module."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.commands import main as cli
from lorabench.errors import LorabenchError
from lorabench.spectra.analyse import analyse, compare
from lorabench.spectra.names import near_names, plain, tied_names, unwrapped_pattern
from lorabench.spectra.source import open_learned
from tests.engine.conftest import small_model
from tests.spectra.conftest import peft_adapter

FRONTS = ("model.", "model.language_model.", "language_model.model.", "model.text_model.", "thinker.model.", "")


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("base_model.model.model.layers.0.q_proj", "model.layers.0.q_proj"),
        ("base_model.model.base_model.model.model.layers.0.q_proj", "model.layers.0.q_proj"),
        ("_orig_mod.base_model.model._orig_mod.model.layers.0._orig_mod.q_proj", "model.layers.0.q_proj"),
        ("module.module.model.layers.0.q_proj.base_layer.weight", "model.layers.0.q_proj.weight"),
        (
            "_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.q_proj",
            "model.layers.0.q_proj",
        ),
        ("policy.base_model.model.score", "score"),
        ("encoder.module.0.q", "encoder.module.0.q"),
        ("model.modules.q", "model.modules.q"),
    ],
)
def test_wrappers_leave_a_name_and_nothing_else_does(name, bare):
    assert plain(name) == bare
    assert plain(plain(name)) == plain(name)


def test_patterns_lose_wrappers_and_stay_patterns():
    assert unwrapped_pattern(r"_orig_mod\.model\.layers\.\d+.*q_proj") == r"model\.layers\.\d+.*q_proj"
    assert unwrapped_pattern("q_proj|v_proj") == "q_proj|v_proj"


def test_no_other_module_is_a_near_name():
    assert near_names("model.vision_tower.layers.0.q_proj") == tuple(
        n for n in near_names("model.vision_tower.layers.0.q_proj") if "vision" in n
    )
    assert not any("layers.1." in n for n in near_names("model.layers.0.q_proj"))
    assert tied_names("model.layers.0.q_proj") == ()
    assert not near_names("model.audio_tower.layers.0.q_proj")


def renamed(state, front):
    """A text model's state under other names; its output layer beside or within the text model, as each version has
    it."""
    head = (
        "language_model.lm_head"
        if front == "language_model.model."
        else "thinker.lm_head"
        if front.startswith("thinker")
        else "lm_head"
    )
    return {
        k.replace("lm_head", head) if k.startswith("lm_head") else front + k.removeprefix("model."): v
        for k, v in state.items()
    }


@pytest.mark.parametrize(("of_adapter", "of_base"), [p for p in itertools.product(FRONTS, FRONTS) if p[0] != p[1]])
def test_a_text_model_is_found_wherever_its_version_puts_it(of_adapter, of_base, tmp_path):
    """A vision tower with layers of the same names and sizes stands beside it."""
    _, _, folder = peft_adapter(tmp_path / "a", use_dora=True, target_modules=["q_proj", "down_proj", "lm_head"])
    state = load_file(folder / "adapter_model.safetensors")
    save_file(
        {
            "base_model.model." + k: v
            for k, v in renamed({k.removeprefix("base_model.model."): v for k, v in state.items()}, of_adapter).items()
        },
        folder / "adapter_model.safetensors",
    )
    (tmp_path / "base").mkdir()
    weights = {k: v.clone() for k, v in small_model("llama").state_dict().items()}
    vision = {f"vision_tower.{k}": torch.zeros_like(v) for k, v in weights.items() if "layers" in k}
    save_file(renamed(weights, of_base) | vision, tmp_path / "base" / "model.safetensors")
    found = list(analyse(open_learned(str(folder), base=str(tmp_path / "base"))))
    assert len(found) == 5
    for s in found:
        last = "lm_head" if s.module.endswith("lm_head") else s.module.split("layers.")[-1]
        own = next(v for k, v in weights.items() if k.endswith(f"{last}.weight"))
        assert s.alignment.base_norm == pytest.approx(float(own.norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("module", "stored"),
    [
        ("vision_tower.layers.0.q_proj", "layers.0.q_proj"),
        ("layers.0.q_proj", "vision_tower.layers.0.q_proj"),
        ("model.layers.0.q_proj", "audio.model.layers.0.q_proj"),
    ],
)
def test_a_towers_layer_is_not_taken_for_the_text_models(module, stored, tmp_path):
    save_file(
        {f"{module}.lora_A.weight": torch.ones(2, 8), f"{module}.lora_B.weight": torch.ones(8, 2)},
        tmp_path / "a.safetensors",
    )
    (tmp_path / "base").mkdir()
    save_file({f"{stored}.weight": torch.ones(8, 8)}, tmp_path / "base" / "model.safetensors")
    learned = open_learned(str(tmp_path / "a.safetensors"), base=str(tmp_path / "base"))
    assert [learned.weight(d) for d in learned.deltas()] == [None]


def tied(tmp_path, head_in_base):
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["lm_head", "embed_tokens"])
    (tmp_path / "base").mkdir()
    weights = {
        k: v.clone()
        for k, v in small_model("llama").state_dict().items()
        if k not in ("lm_head.weight", "model.embed_tokens.weight")
    }
    shared = small_model("llama").lm_head.weight.detach().clone()
    save_file(
        weights | {"lm_head.weight" if head_in_base else "model.embed_tokens.weight": shared},
        tmp_path / "base" / "model.safetensors",
    )
    return folder, shared


@pytest.mark.parametrize("head_in_base", [False, True])
def test_an_output_layer_tied_to_the_embedding_is_held_against_their_one_weight(head_in_base, tmp_path):
    folder, shared = tied(tmp_path, head_in_base)
    learned = open_learned(str(folder), base=str(tmp_path / "base"))
    weights = {d.module: learned.weight(d) for d in learned.deltas()}
    assert torch.equal(weights["lm_head"], shared)
    assert torch.equal(weights["model.embed_tokens"], shared.T)


def test_two_adapters_of_two_versions_are_compared(tmp_path):
    _, _, one = peft_adapter(tmp_path / "one", target_modules=["q_proj", "down_proj"])
    _, _, other = peft_adapter(tmp_path / "other", target_modules=["q_proj", "down_proj"])
    state = load_file(other / "adapter_model.safetensors")
    save_file(
        {"_orig_mod." + k.replace("model.model.model.", "model.model.language_model."): v for k, v in state.items()},
        other / "adapter_model.safetensors",
    )
    found = list(compare(open_learned(str(one)), open_learned(str(other))))
    assert len(found) == 4
    assert all(s.whole("left") == pytest.approx(1) for s in found)


def test_fully_wrapped_names_are_found(tmp_path):
    _, _, folder = peft_adapter(tmp_path / "a", use_dora=True, target_modules=["q_proj"])
    state = load_file(folder / "adapter_model.safetensors")
    save_file(
        {
            f"_fsdp_wrapped_module.{k.replace('.self_attn', '._fsdp_wrapped_module.self_attn')}": v
            for k, v in state.items()
        },
        folder / "adapter_model.safetensors",
    )
    small_model("llama").save_pretrained(tmp_path / "base")
    assert all(s.alignment for s in analyse(open_learned(str(folder), base=str(tmp_path / "base"))))


def test_a_base_that_is_another_model_is_told_by_what_it_has(tmp_path, capsys):
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["q_proj"])
    small_model("gpt2").save_pretrained(tmp_path / "gpt2")
    assert cli.main(["spectrum", str(folder), "--base", str(tmp_path / "gpt2")]) == 0
    said = capsys.readouterr().out
    assert "has no weight model.layers.0.self_attn.q_proj of 32 x 32 (its names are like" in said
    assert "--base MODEL" not in said, "which the user has given"
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "someone/their-base"})
    )
    assert cli.main(["spectrum", str(folder), "--base", str(tmp_path / "gpt2")]) == 0
    assert "the adapter says that it was trained on someone/their-base" in capsys.readouterr().out


def test_a_dora_adapter_beside_another_base_is_one_sentence_that_does_not_advise_what_was_done(tmp_path):
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["q_proj"], use_dora=True)
    (tmp_path / "base").mkdir()
    save_file(
        {k: v[:16, :16].contiguous() if v.dim() > 1 else v for k, v in small_model("llama").state_dict().items()},
        tmp_path / "base" / "model.safetensors",
    )
    with pytest.raises(
        LorabenchError,
        match=(
            r"of 32 x 32 \(its model.layers.0.self_attn.q_proj.weight is 16 x 16\); the change of DoRA depends on the"
            r" base's weights; without --base"
        ),
    ):
        list(open_learned(str(folder), base=str(tmp_path / "base")).deltas())
