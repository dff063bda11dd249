"""Adapters on experts stand in the files of tools that take them, by the names that the engine finds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lorabench.config.settings import MethodSpec, ModelSpec
from lorabench.emitters import _setting
from lorabench.errors import LorabenchError
from tests.emitters.candidates import candidate, emit, options, settings, workload


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "olmoe"])
def test_experts_go_by_the_names_that_the_engine_finds(name: str) -> None:
    from lorabench.engine.parameter_targets import expert_stacks, peft_parameters
    from lorabench.memory.model_shape import ModelShape
    from lorabench.memory.validate import model_from

    asked = MethodSpec(name="lora", dropout=0.0, target_parameters="experts")
    found = peft_parameters(expert_stacks(ModelShape(model_from(name)).model))
    assert list(_setting.parameters("peft", ModelSpec(name=name), asked) or ()) == found


def test_target_parameters_stand_in_the_files_or_are_refused() -> None:
    asked = candidate("lora")
    asked = replace(asked, method=asked.method.model_copy(update={"target_parameters": "experts"}))
    work, names = workload("mixtral-8x7b"), ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    assert json.loads(emit("peft", work, asked)["adapter_config.json"])["target_parameters"] == names
    assert settings("axolotl", emit("axolotl", work, asked))["lora_target_parameters"] == names
    assert settings("trl", emit("trl", work, asked))["lora_target_parameters"] == names
    assert {"lora_target_parameters"} <= set(options("trl")) & set(options("axolotl"))
    for tool in ("llamafactory", "torchtune"):
        with pytest.raises(LorabenchError, match="target_parameters"):
            emit(tool, work, asked)
    with pytest.raises(LorabenchError, match="not known"):
        emit("peft", workload(), asked)
