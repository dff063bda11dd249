"""The traced step holds what the real step holds, byte by byte, on the CPU where both can be had."""

from dataclasses import replace

import pytest
import torch

from lorabench import plugins
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.batches import Batch
from lorabench.engine.library_messages import quiet
from lorabench.engine.model import load_base
from lorabench.engine.train import peak_of_two_steps
from lorabench.memory import kernels
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig
from tests.engine.conftest import small_model

FULL = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)
LORA = MethodSpec(name="lora", rank=8)


def setting(method=LORA, quantization="none", model="lorabench/tiny-300k", **training):
    spec = TrainingSpec(**{"batch_size": 2, "sequence_length": 64, **training})
    return TrainConfig(
        ModelSpec(name=str(model)),
        QuantizationSpec(name=quantization, double_quant=quantization == "nf4"),
        method,
        spec,
        "cpu",
    )


def measured(asked):
    """The probe's peak over two real steps (the second has the optimizer's state)."""
    base = load_base(asked, torch.device("cpu"))
    method, spec = asked.method, asked.training
    targets = resolve_targets(base, method.target_modules) if method.target_modules else ()
    with quiet():
        model = plugins.load("methods", method.name).attach(
            base, method, peft_targets(base, targets) if targets else []
        )
    ids = torch.randint(5, model.config.vocab_size - 1, (spec.batch_size, spec.sequence_length))
    micro = [Batch(ids.clone(), ids.clone(), ids.numel()) for _ in range(spec.gradient_accumulation)]
    return peak_of_two_steps(model, micro, spec, torch.bfloat16 if spec.autocast == "bfloat16" else None)


@pytest.mark.parametrize(
    "asked",
    [
        setting(),
        setting(FULL),
        setting(FULL, optimizer="sgd", gradient_accumulation=2),
        setting(FULL, optimizer="adamw-8bit", gradient_checkpointing=True),
        setting(FULL, autocast="bfloat16"),
        setting(quantization="nf4"),
        setting(quantization="fp4", optimizer="adamw-8bit", autocast="bfloat16"),
        setting(quantization="int8"),
        setting(MethodSpec(name="dora", rank=8), quantization="int8", autocast="bfloat16"),
        setting(MethodSpec(name="dora", rank=4, target_modules="attention"), gradient_checkpointing=True),
        setting(MethodSpec(name="pissa", rank=16), gradient_checkpointing=True, gradient_accumulation=2),
        setting(
            MethodSpec(name="rslora", rank=2, target_modules=("q_proj", "v_proj")), batch_size=1, sequence_length=200
        ),
        setting(LORA.model_copy(update={"dropout": 0.1})),
    ],
    ids=lambda s: (
        f"{s.method.name}-{s.quantization.name}-{s.training.optimizer}"
        f"{'-ckpt' * s.training.gradient_checkpointing}{'-amp' * (s.training.autocast == 'bfloat16')}"
    ),
)
def test_the_predicted_peak_is_the_probes_peak(asked):
    assert predict_step(asked).peak_bytes == pytest.approx(measured(asked), rel=0.001)


@pytest.mark.parametrize(
    "kind",
    [
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3",
        "gpt2",
        "gpt_neox",
        "gptj",
        "opt",
        "phi",
        "phi3",
        "falcon",
        "bloom",
    ],
)
@pytest.mark.parametrize("method", [LORA.model_copy(update={"rank": 2}), FULL], ids=["lora", "full"])
def test_it_is_so_on_other_architectures(kind, method, tmp_path):
    small_model(kind).save_pretrained(tmp_path)
    asked = setting(method, model=tmp_path, sequence_length=32)
    assert predict_step(asked).peak_bytes == pytest.approx(measured(asked), rel=0.001)


@pytest.mark.parametrize("method", ["full", "lora", "rslora", "dora", "pissa"])
def test_counts_are_those_of_the_model_that_trains(method):
    asked = setting(FULL if method == "full" else LORA.model_copy(update={"name": method}))
    base = load_base(asked, torch.device("cpu"))
    targets = resolve_targets(base, "all-linear")
    with quiet():
        model = plugins.load("methods", method).attach(base, asked.method, peft_targets(base, targets))
    step = predict_step(asked)
    assert step.total_parameters == sum(p.numel() for p in model.parameters())
    assert step.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_prediction_allocates_nothing(tmp_path):
    asked = replace(setting(), training=TrainingSpec(batch_size=4096, sequence_length=512))  # 100 GB of activations
    assert predict_step(asked).peak_bytes > 50e9


def test_a_dequantized_copy_is_written_and_read(monkeypatch):
    """The copy of a 4-bit product lies inside bitsandbytes' operator, where the trace sees no tensor."""
    moved = {q: predict_step(replace(setting(quantization=q), device="cuda")).moved_bytes for q in ("none", "nf4")}
    monkeypatch.setattr(kernels, "scratch_bytes", lambda *asked: 0)
    bare = {q: predict_step(replace(setting(quantization=q), device="cuda")).moved_bytes for q in ("none", "nf4")}
    assert moved["none"] == bare["none"]
    assert moved["nf4"] > bare["nf4"]
