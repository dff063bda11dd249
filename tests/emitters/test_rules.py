"""Emitters hold to the rules of studies: what may be trained, and where precision is mixed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from lorabench import plugins
from lorabench.advice.candidates import CandidateSpec, for_trainer
from lorabench.advice.types import Candidate, Quality, Workload
from lorabench.config.gpus import find_gpu
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.validity import float16_fault, quantized_base_fault
from lorabench.emitters import _setting
from lorabench.emitters import peft as emitter
from lorabench.errors import LorabenchError
from lorabench.memory.step_dtypes import resolve_autocast, resolve_dtype
from lorabench.memory.train_config import TrainConfig
from lorabench.memory.validate import setting_from

MODEL = "lorabench/tiny-300k"
TRAINERS = ("axolotl", "llamafactory", "trl")


def candidate(method):
    return Candidate(MethodSpec(name=method), QuantizationSpec(), 1, 1, False, "adamw", 1e-4, "cosine", 0.05, 0.0, 1.0)


def test_full_fine_tuning_of_float16_weights_is_refused_in_the_same_words_by_a_prediction_and_by_an_emitter():
    for ask in (
        lambda: _setting.check("trl", Workload(ModelSpec(name=MODEL, dtype="float16"), 64, 1), candidate("full")),
        lambda: setting_from({"model": {"name": MODEL, "dtype": "float16"}, "method": "full"}),
    ):
        with pytest.raises(LorabenchError) as error:
            ask()
        assert str(error.value) == float16_fault("full")


def test_an_emitted_script_mixes_precision_where_the_gpu_itself_computes_in_bfloat16():
    script = emitter.emit(Workload(ModelSpec(name=MODEL), 64, 1), candidate("lora"))["train.py"]
    assert "is_bf16_supported(including_emulation=False)" in script


def test_int8_has_no_compute_dtype_in_a_prediction_as_in_a_study():
    setting = setting_from({"model": MODEL, "quantization": {"name": "int8", "compute_dtype": "float32"}})
    assert setting.quantization == QuantizationSpec(name="int8")


def test_a_method_that_needs_an_unquantized_base_is_refused_in_the_same_words_everywhere():
    """By a study, by a prediction and by an emitter."""
    from lorabench.config.study import Condition

    method, nf4 = {"name": "pissa"}, {"name": "nf4"}
    quantized = replace(candidate("pissa"), quantization=QuantizationSpec(**nf4))
    for ask in (
        lambda: Condition(model=MODEL, method=method, quantization=nf4, task="facts").normalised(),
        lambda: setting_from({"model": MODEL, "method": method, "quantization": nf4}),
        lambda: _setting.check("trl", Workload(ModelSpec(name=MODEL), 64, 1), quantized),
    ):
        with pytest.raises(LorabenchError) as error:
            ask()
        assert str(error.value) == quantized_base_fault("pissa", "nf4")


@pytest.mark.parametrize(
    ("gpu", "mixed"), [("rtx4090", "bfloat16"), ("t4", "float16"), ("v100-16gb", "float16"), ("cpu", None)]
)
def test_no_emitted_file_asks_for_bfloat16_of_a_card_without_it(gpu, mixed):
    card = find_gpu(gpu)
    workload = Workload(ModelSpec(name="meta-llama/Llama-3.1-8B"), 64, 1, device=card.kind, bf16=card.bf16)
    files = {t: plugins.load("emitters", t).emit(workload, candidate("lora")) for t in TRAINERS}
    texts = {tool: "".join(written.values()) for tool, written in files.items()}
    axolotl, factory = (yaml.safe_load(files[t][f"{t}.yaml"]) for t in ("axolotl", "llamafactory"))
    assert ("--bf16=True" in texts["trl"]) == (mixed == "bfloat16")
    assert ("--fp16=True" in texts["trl"]) == (mixed == "float16")
    assert ("--dtype=float16" in texts["trl"]) == (mixed == "float16")
    assert axolotl["bf16"] == ("auto" if mixed == "bfloat16" else False)
    assert axolotl.get("fp16", False) == (mixed == "float16")
    assert factory.get("bf16", False) == (mixed == "bfloat16")
    assert factory.get("fp16", False) == (mixed == "float16")
    for text in texts.values():
        assert ("does not compute in bfloat16" in text) == (mixed == "float16")


def test_what_a_trainer_cannot_do_on_a_card_without_bfloat16_is_refused():
    """torchtune trains whole models in bfloat16 or float32; TRL casts adapters on a quantized base to bfloat16."""
    workload = Workload(ModelSpec(name="meta-llama/Llama-3.1-8B"), 64, 1, bf16=False)
    with pytest.raises(LorabenchError, match="torchtune cannot carry out training in bfloat16 on a card without it"):
        plugins.load("emitters", "torchtune").emit(workload, candidate("lora"))
    quantized = replace(candidate("lora"), quantization=QuantizationSpec(name="nf4"))
    with pytest.raises(LorabenchError, match="trl cannot carry out quantization nf4 on a card without bfloat16"):
        plugins.load("emitters", "trl").emit(workload, quantized)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("tool", "file"), [("trl", "sft.sh"), ("axolotl", "axolotl.yaml"), ("llamafactory", "llamafactory.yaml")]
)
def test_full_fine_tuning_is_predicted_with_the_mixed_precision_that_its_files_say(tool, file, dtype):
    emitter = plugins.load("emitters", tool)
    asked = replace(candidate("full"), dtype=dtype)
    text = emitter.emit(Workload(ModelSpec(name=MODEL), 64, 1), asked)[file]
    mixes = re.search(r"bf16[:=] ?(true|auto|True)", text) is not None
    setting = TrainConfig(
        ModelSpec(name=MODEL, dtype=dtype),
        QuantizationSpec(),
        asked.method,
        TrainingSpec(),
        "cuda",
        trainer=emitter.TRAINER,
    )
    assert (resolve_autocast(setting) is not None) == mixes
    assert mixes == (not (tool == "axolotl" and dtype == "float32"))
    assert str(resolve_dtype(setting)) == f"torch.{dtype}"


@pytest.mark.parametrize("tool", ["trl", "peft", "axolotl", "llamafactory"])
@pytest.mark.parametrize(("card", "bf16"), [("cpu", True), ("cpu", False), ("rtx4090", True)])
def test_weights_are_emitted_in_the_dtype_that_they_are_predicted_in(tool, card, bf16, monkeypatch):
    monkeypatch.setattr("lorabench.config.precision.FLOAT32_BELOW", 1000)
    trainer, card = plugins.load("emitters", tool).TRAINER, replace(find_gpu(card), bf16=bf16)
    lora = MethodSpec(rank=4, dropout=0.0)
    spec = CandidateSpec(lora, QuantizationSpec(), 1e-4, "cosine", 0.05, 0.0, 1.0, Quality("none"), ())
    (asked,) = for_trainer([spec], trainer, True, card)
    workload = Workload(ModelSpec(name=MODEL), 64, 1, device=card.kind, bf16=bf16)
    told = replace(candidate("lora"), dtype=asked.dtype)
    model, training = ModelSpec(name=MODEL, dtype=asked.dtype), TrainingSpec()
    setting = TrainConfig(model, QuantizationSpec(), lora, training, card.kind, trainer=trainer, bf16=bf16)
    emitted = _setting.trainer_precision(workload, told, trainer.weights_follow)
    assert str(resolve_dtype(setting)) == f"torch.{emitted}"
    assert tool not in ("trl", "peft") or (emitted == "float32") == (not bf16), "what is quick on that CPU"
