"""A hundred variations from a few traces: the same numbers as tracing each."""

import itertools

import pytest
from transformers import LlamaConfig

from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.memory import interpolate as module
from lorabench.memory.interpolate import Reuse, family
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    LlamaConfig(
        num_hidden_layers=5,
        hidden_size=256,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=512,
        vocab_size=1024,
        max_position_embeddings=512,
    ).save_pretrained(folder)
    return ModelSpec(name=str(folder), dtype="bfloat16")


def grid(model, method="lora", quantization="none", device="cuda", **training):
    kind = QuantizationSpec(name=quantization)
    return [
        TrainConfig(
            model,
            kind,
            MethodSpec(name=method, rank=rank),
            TrainingSpec(batch_size=batch, sequence_length=256, **training),
            device,
        )
        for rank, batch in itertools.product((1, 3, 8, 32), (1, 2, 5, 8))
    ]


@pytest.fixture
def traced(monkeypatch):
    """How many settings were traced."""
    seen = []
    original = module.course
    monkeypatch.setattr(module, "course", lambda setting: seen.append(setting) or original(setting))
    return seen


@pytest.mark.parametrize(
    ("device", "method", "quantization", "training"),
    [
        ("cuda", "lora", "none", {}),
        ("cuda", "lora", "nf4", {"gradient_checkpointing": True}),
        pytest.param("cuda", "dora", "nf4", {}, marks=pytest.mark.slow),
        pytest.param("cpu", "dora", "nf4", {}, marks=pytest.mark.slow),
        pytest.param("cuda", "rslora", "int8", {"gradient_accumulation": 2}, marks=pytest.mark.slow),
        ("cpu", "lora", "none", {"optimizer": "sgd"}),
    ],
)
def test_what_lies_between_four_corners_is_what_a_trace_of_its_own_says(
    model, method, quantization, training, device, traced
):
    settings = grid(model, method, quantization, device, **training)
    known = Reuse()
    known.plan(settings)
    found = {s: known.step(s) for s in settings}
    assert len(traced) == 4
    for setting in settings[6:11:4]:
        assert found[setting] == predict_step(setting)


def test_optimizers_with_a_smallest_tensor_are_not_reused_over_ranks(model, traced):
    settings = grid(model, optimizer="adamw-8bit")
    known = Reuse()
    known.plan(settings)
    found = {s: known.step(s) for s in settings}
    assert len(traced) == 8  # two batches of each of four ranks
    assert found[settings[5]] == predict_step(settings[5])


def test_odd_lengths_are_traced_one_by_one(model):
    odd = TrainConfig(model, QuantizationSpec(), MethodSpec(rank=8), TrainingSpec(sequence_length=100), "cuda")
    assert family(odd) == odd


def test_few_settings_are_not_worth_corners(model, traced):
    settings = grid(model)[:2]
    known = Reuse()
    known.plan(settings)
    assert [known.step(s) for s in settings] == [predict_step(s) for s in settings]
    assert len(traced) == 2
