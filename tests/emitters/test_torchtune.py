"""What torchtune's recipes are given, against its own components."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lorabench.advice.types import Candidate, Workload
from lorabench.config.settings import ModelSpec
from lorabench.emitters import torchtune
from tests.emitters.candidates import LLAMA, candidate, emit, fits, options, settings, workload


@pytest.mark.parametrize(
    "asked",
    [
        candidate(schedule="constant", warmup=0.0),
        candidate("dora", "nf4", double_quant=True),
        candidate("rslora", rank=16),
        candidate("full"),
    ],
    ids=lambda c: c.method.name,
)
@pytest.mark.parametrize(
    "name",
    [LLAMA, "Qwen/Qwen2.5-7B-Instruct", "google/gemma-2-2b", "mistralai/Mistral-7B-v0.1", "meta-llama/Llama-2-7b-hf"],
)
def test_torchtunes_keys_are_its_recipes_and_its_components(name: str, asked: Candidate) -> None:
    text = emit("torchtune", workload(name), asked)["torchtune.yaml"]
    written, known = yaml.safe_load(text), options("torchtune")
    recipe = re.findall(r"tune run (\w+) --config torchtune.yaml", text)[0]
    assert recipe == ("full" if asked.method.name == "full" else "lora") + "_finetune_single_device"
    keys = {k.split(".")[1]: v for k, v in known.items() if k.startswith(recipe)}
    assert {k for k, v in keys.items() if v == "required"} <= set(written)
    written.pop("output_dir")
    for key, value in written.items():
        assert key in keys
        if not isinstance(value, dict):
            continue
        component = value.pop("_component_")
        if not component.startswith("torchtune."):  # an optimizer, of torch or bitsandbytes
            package, _, kind = component.rpartition(".")
            assert hasattr(__import__(package, fromlist=[kind]), kind)
            continue
        assert any(k == component or k.startswith(component + ".") for k in known), component
        for parameter, given in value.items():
            assert f"{component}.{parameter}" in known or f"{component}.**" in known
            assert fits(given, known.get(f"{component}.{parameter}", "Any")), (component, parameter, given)


def test_torchtunes_builders_exist_for_every_model_of_the_table() -> None:
    known = options("torchtune")
    for word, model in torchtune._MODELS.items():
        full = f"torchtune.models.{model.package}.{model.builder}"
        assert full in known or any(k.startswith(f"{full}.") for k in known), word
        assert f"torchtune.models.{model.package}.lora_{model.builder}.quantize_base" in known, word
        assert model.kind in known["torchtune.training.FullModelHFCheckpointer.model_type"]


def test_torchtune_says_rslora_by_its_alpha() -> None:
    model = yaml.safe_load(emit("torchtune", workload(), candidate("rslora", rank=16, alpha=32))["torchtune.yaml"])[
        "model"
    ]
    assert model["lora_alpha"] / model["lora_rank"] == pytest.approx(32 / 16**0.5)


def test_torchtune_counts_warm_up_in_steps_and_asks_where_it_cannot() -> None:
    known = emit("torchtune", workload(), candidate(warmup=0.1))["torchtune.yaml"]
    assert yaml.safe_load(known)["lr_scheduler"]["num_warmup_steps"] == 10  # of 400 / (2 * 2)
    unknown = emit("torchtune", Workload(ModelSpec(name=LLAMA), 64, 4), candidate(warmup=0.1))["torchtune.yaml"]
    assert "Set num_warmup_steps yourself: 10 %" in unknown


def test_torchtunes_cosine_of_no_cycles_is_constant() -> None:
    """0.5 * (1 + cos(pi * num_cycles * 2 * progress)), as in torchtune's documentation; its default is half a cycle."""
    schedule = yaml.safe_load(
        emit("torchtune", workload(), candidate(schedule="constant", warmup=0.0))["torchtune.yaml"]
    )["lr_scheduler"]
    assert (schedule["num_warmup_steps"], schedule["num_cycles"]) == (0, 0.0)
    assert (
        "num_cycles" not in yaml.safe_load(emit("torchtune", workload(), candidate())["torchtune.yaml"])["lr_scheduler"]
    )


def test_torchtune_takes_the_files_of_a_local_directory(tmp_path: Path) -> None:
    folder = tmp_path / "Llama-3.2-1B"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"")
    written = settings("torchtune", emit("torchtune", workload(str(folder)), candidate()))
    assert written["checkpointer"]["checkpoint_dir"] == str(folder)
    assert written["checkpointer"]["checkpoint_files"] == ["a.safetensors"]
    assert written["model"]["_component_"] == "torchtune.models.llama3_2.lora_llama3_2_1b"
