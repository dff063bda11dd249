"""What a step's time is made of: the optimizer's bytes by hand count, once a step whatever is accumulated; and the rule
for mixed precision."""

from dataclasses import replace

import pytest
import torch

from lorabench.config.gpus import find_gpu
from lorabench.config.settings import TrainingSpec
from lorabench.engine.model import resolve_autocast
from lorabench.memory import optimizers
from lorabench.memory.calibration import Calibration, fit, measured_steps, time_of
from lorabench.memory.card_planner import CardPlanner
from lorabench.memory.plan import plan_conditions
from lorabench.memory.roofline import step_seconds
from lorabench.memory.step_dtypes import product_dtype
from lorabench.memory.step_dtypes import resolve_autocast as predicted_autocast
from lorabench.memory.step_profile import Work, predict_step
from lorabench.memory.train_config import on_card, setting_of
from lorabench.memory.validate import setting_from
from lorabench.record.result import Environment
from tests.engine.conftest import cell_of

A100 = find_gpu("a100-40gb")


def lora(method="lora", **training):
    return setting_from(
        {
            "model": {"name": "lorabench/tiny-300k"},
            "method": method,
            "training": {"batch_size": 2, "sequence_length": 32, **training},
        }
    )


@pytest.mark.parametrize(
    ("optimizer", "decay", "each"),
    [
        ("adamw", 0.1, 28),  # reads p, g, m, v, writes p, m, v: seven times four bytes
        ("paged-adamw", 0.1, 28),
        ("sgd", 0.0, 12),  # reads p, g, writes p
        (
            "adamw-8bit",
            0.1,
            16 + 16 / 256,
        ),  # reads p, g and two bytes of state, writes p and these; two constants a block of 256, read and written
    ],
)
def test_an_update_moves_what_a_hand_counts(optimizer, decay, each):
    parameters = [torch.empty(256, 128, device="meta"), torch.empty(64, 256, device="meta")]
    entries = 256 * 128 + 64 * 256
    moved, _ = optimizers.work(parameters, TrainingSpec(optimizer=optimizer, weight_decay=decay), "cuda")
    assert moved == each * entries


def test_eight_bit_state_of_small_tensors_is_float32():
    small = [torch.empty(4095, device="meta")]
    assert optimizers.work(small, TrainingSpec(optimizer="adamw-8bit"), "cuda")[0] == 28 * 4095
    half = [torch.empty(5000, device="meta", dtype=torch.bfloat16)]
    assert optimizers.work(half, TrainingSpec(optimizer="adamw"), "cuda")[0] == 14 * 5000
    assert optimizers.work(half, TrainingSpec(optimizer="paged-adamw"), "cuda")[0] == (3 * 2 + 4 * 4) * 5000


@pytest.mark.parametrize(("optimizer", "decay", "each"), [("adamw", 0.1, 28), ("sgd", 0.0, 12), ("sgd", 0.1, 24)])
def test_clipping_and_update_are_that_part_of_a_step(optimizer, decay, each):
    """Clipping reads every gradient for its norm, and reads and writes it once more: 12 bytes an entry. SGD's decay
    reads p and g and writes a copy."""
    step = predict_step(lora(optimizer=optimizer, weight_decay=decay))
    n = step.trainable_parameters
    assert (each + 12) * n <= step.update.moved_bytes <= (each + 12) * n + 20_000, (
        "and a few bytes for norms of tensors"
    )


def test_an_optimizer_step_is_its_micro_batches_and_one_update():
    one, many = predict_step(lora()), predict_step(lora(gradient_accumulation=8))
    assert one.work() == Work(one.flops, one.moved_bytes, one.kernels)
    total = many.work(8)
    assert total.moved_bytes == 8 * many.micro_batch.moved_bytes + many.update.moved_bytes
    assert total.kernels == 8 * many.micro_batch.kernels + many.update.kernels
    assert many.update == one.update, "clipping and update do not depend on what was accumulated"
    assert predict_step(lora(gradient_accumulation=2)) == many, "a third micro-batch repeats the second"


def test_a_cards_time_does_not_multiply_the_update_by_accumulation():
    card = replace(A100, bandwidth=1.0, bf16_flops=1e30, fp32_flops=1e30)  # bytes alone tell the time, a byte a second
    setting = on_card(lora(method="full", gradient_accumulation=16), card)
    step = predict_step(setting)
    time = time_of(step, setting, card, None)
    assert time.least == pytest.approx(16 * step.micro_batch.moved_bytes + step.update.moved_bytes)
    assert CardPlanner(card).need(setting).seconds == time
    condition = cell_of(
        "method=full",
        "training.learning_rate=1e-3",
        "training.gradient_accumulation=16",
        "training.batch_size=2",
        "training.sequence_length=32",
        "training.steps=5",
    )
    (row,) = plan_conditions([condition], card)
    assert row.seconds.least == pytest.approx(5 * time.least)
    assert step_seconds(step.update, card).least > 0.2 * step_seconds(step.micro_batch, card).least, (
        "of full fine-tuning at small batches it is no small part"
    )


def test_costs_are_fitted_to_whole_optimizer_steps():
    """Planted costs are found again from cells of several accumulations, which seconds a pass would not fit."""
    flop, byte, kernel = 3e-11, 2e-10, 5e-6
    measured = {}
    for accumulation in (1, 16):
        for batch in (1, 4):
            setting = replace(lora(method="full", gradient_accumulation=accumulation, batch_size=batch), device="cpu")
            work = predict_step(setting).work(accumulation)
            measured[setting] = [flop * work.flops + byte * work.moved_bytes + kernel * work.kernels]
    found = fit(measured)
    for setting, (seconds,) in measured.items():
        time = time_of(predict_step(setting), setting, find_gpu("cpu"), found)
        assert (time.least * time.most) ** 0.5 == pytest.approx(seconds, rel=1e-3)
    assert isinstance(found, Calibration)


def test_cards_without_bfloat16_are_predicted_as_they_run(monkeypatch):
    """T4: the engine leaves mixed precision off, so do estimate, plan, calibration; asked for it is on, everywhere."""
    t4 = find_gpu("t4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    cell = cell_of("training.steps=4")
    for wanted in ("auto", "none", "bfloat16"):
        mixed = cell.model_copy(update={"training": cell.training.model_copy(update={"autocast": wanted})})
        engine = resolve_autocast(mixed, torch.device("cuda"))
        assert engine == predicted_autocast(on_card(setting_of(mixed, "cuda"), t4))
        assert engine == (torch.bfloat16 if wanted == "bfloat16" else None)
    result = stored_on(cell, "Tesla T4")
    (setting,) = measured_steps([result], t4)
    assert predicted_autocast(setting) is None
    (setting,) = measured_steps([stored_on(cell, "NVIDIA A100-SXM4-40GB")], A100)
    assert predicted_autocast(setting) == torch.bfloat16


def stored_on(cell, device):
    from lorabench.record.result import CellResult, Reading

    readings = tuple(
        Reading(metric=m, value=v)
        for m, v in (("train_seconds", 8.0), ("train_tokens", 4 * 4 * 32.0), ("padding_percent", 0.0))
    )
    return CellResult(
        cell=cell,
        outcome="finished",
        readings=readings,
        environment=Environment(device=device),
        started_at="2026-01-01T00:00:00+00:00",
    )


def test_seconds_are_those_of_an_optimizer_step():
    cell = cell_of("training.steps=4", "training.gradient_accumulation=2")
    (seconds,) = measured_steps([stored_on(cell, "Tesla T4")], find_gpu("t4")).values()
    assert seconds == [2.0], "8 seconds in 4 optimizer steps of two micro-batches"


def test_attention_in_bfloat16_keeps_its_matrix_where_no_fast_kernel_takes_it():
    """PyTorch's sdp_utils: flash attention from compute capability 8 on, the memory-efficient kernel in bfloat16 too;
    the rest is computed in float32."""
    asked = setting_from(
        {
            "model": {"name": "pythia-160m", "dtype": "bfloat16"},
            "training": {"batch_size": 2, "sequence_length": 512, "autocast": "none"},
        }
    )
    t4, a100 = (predict_step(on_card(asked, find_gpu(g))).parts for g in ("t4", "a100-40gb"))
    layers, heads, matrix = 12, 12, 2 * 512 * 512 * 4
    assert t4["activations"] - a100["activations"] == pytest.approx(layers * heads * matrix, rel=0.01)
    single = replace(asked, model=asked.model.model_copy(update={"dtype": "float32"}))
    assert predict_step(on_card(single, find_gpu("t4"))) == predict_step(single), "float32 has a fast kernel on both"


@pytest.mark.parametrize(
    ("asked", "dtype"),
    [
        ({}, torch.bfloat16),
        ({"model": {"name": "pythia-160m", "dtype": "float16"}}, torch.float16),
        ({"quantization": {"name": "nf4", "compute_dtype": "float16"}}, torch.float16),
        ({"quantization": "int8"}, torch.float16),
    ],
)
def test_tensor_cores_without_bfloat16_are_used_by_what_is_computed_in_float16(asked, dtype):
    """A T4 multiplies float16 at 65 TFLOPS, and bfloat16, which it has not, through float32 at 8.1."""
    t4 = replace(find_gpu("t4"), bandwidth=1e30)  # arithmetic alone tells the time
    setting = on_card(
        setting_from({"model": "pythia-160m", "training": {"batch_size": 8, "sequence_length": 512}, **asked}), t4
    )
    assert product_dtype(setting) == dtype
    step = predict_step(setting)
    slower = 1.05 if "quantization" in asked else 1.0
    assert time_of(step, setting, t4, None).least == pytest.approx(
        slower * step.flops / (65e12 if dtype == torch.float16 else 8.1e12), rel=0.05
    ), "and the launches of the update"
