"""A trainer's predicted peak is what that trainer holds: really run on this CPU, measured on a GPU, or published."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lorabench.config.gpus import find_gpu
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.trainer import find_trainer, trainers
from lorabench.errors import LorabenchError
from lorabench.memory import losses
from lorabench.memory.estimate import estimate
from lorabench.memory.step_dtypes import resolve_dtype
from lorabench.memory.step_profile import predict_evaluation, predict_step
from lorabench.memory.train_config import TrainConfig, on_card

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FULL = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)


@pytest.fixture(scope="module")
def benchmarks():
    sys.path.insert(0, str(BENCHMARKS))
    import memory_trainers
    import trainers

    yield memory_trainers, trainers
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def tiles_on_a_cpu(monkeypatch):
    monkeypatch.setattr(losses.TiledHead, "device", "cpu")


@pytest.mark.parametrize(
    "line",
    [
        "transformers tiny-1m none lora 8  4 128",
        "transformers tiny-4m nf4  lora 16 2 256 ckpt kbit",
        "transformers tiny-4m none lora 16 2 256 ckpt reentrant",
        pytest.param("trl          tiny-4m none lora 16 2 256 ckpt", marks=pytest.mark.slow),
        "trl          tiny-4m nf4  lora 16 2 256 ckpt",
        "trl          tiny-4m none lora 16 2 256 ckpt packing",
        "loop         tiny-4m none lora 16 2 256",
    ],
)
def test_the_predicted_peak_is_what_the_real_trainer_holds(benchmarks, tiles_on_a_cpu, line):
    if line.startswith("trl"):
        pytest.importorskip("trl")
    predicted, real = benchmarks
    row = real.Row.read(line)
    found = real.measure(row, real.Models())
    assert "fault" not in found, found
    step = predict_step(predicted.measured_setting({**vars(row), "options": sorted(row.options)}, on_cuda=False))
    assert step.peak_bytes == pytest.approx(found["peak_bytes"], rel=0.002)


def published_row(number):
    with (BENCHMARKS / "measured_memory_trainers.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))[number]


@pytest.mark.parametrize(
    ("number", "gigabytes", "error"),
    [
        (0, 4.53, 0.005),  # SmolLM2-1.7B nf4 eager, prepared for k-bit training
        (2, 3.51, 0.005),  # the same with sdpa
        (3, 5.22, 0.005),  # in 16 bit
        (35, 72.43, 0.005),  # Mistral-7B, every weight in bfloat16, foreach AdamW
        (39, 20.67, 0.01),  # Mistral-7B nf4 with a float32 residual stream, TRL 0.13
        (41, 16.37, 0.01),  # without it
        (51, 37.64, 0.01),  # Llama-3-8B 4 x 4096, all logits
        (53, 24.91, 0.02),  # with a fused linear cross entropy
        (60, 7.95, 0.10),  # torchtune, compiled
    ],
)
def test_published_peaks_are_predicted_as_their_libraries_behave(benchmarks, number, gigabytes, error):
    predicted, _ = benchmarks
    with predicted.old_losses():
        row = predicted.published(published_row(number))
    assert row["measured"] / 1e9 == pytest.approx(gigabytes, abs=0.01)
    assert row["predicted"] == pytest.approx(row["measured"], rel=error)


@pytest.mark.parametrize("number", [1, 10, 23, 26, 33, 36])
def test_peaks_on_an_h200_are_predicted(benchmarks, number):
    predicted, _ = benchmarks
    row = json.loads(predicted.GPU_ROWS.read_text())["rows"][number]
    step = predict_step(predicted.measured_setting(row, on_cuda=True))
    measured = row["peak_bytes"] - row["before_bytes"] + step.parts["workspace"]
    assert step.peak_bytes == pytest.approx(measured, rel=0.01), row["row"]


def test_the_evaluation_between_steps_is_predicted(benchmarks):
    """transformers, Llama-3.2-1B, 4 x 1024: 7,600 MiB on an H200, less than the training step's 8,837."""
    predicted, _ = benchmarks
    row = next(r for r in json.loads(predicted.GPU_ROWS.read_text())["rows"] if "evaluate" in r["options"])
    setting = predicted.measured_setting(row, on_cuda=True)
    evaluation = predict_evaluation(setting, row["batch"])
    measured = max(phase.get("evaluate", 0) for phase in row["phases"]) - row["before_bytes"]
    assert evaluation.peak_bytes == pytest.approx(measured + evaluation.parts["workspace"], rel=0.01)
    assert evaluation.peak_bytes < predict_step(setting).peak_bytes


def test_checkpoints_in_the_hosts_memory_cost_the_card_nothing():
    setting = of("unsloth", batch_size=2)
    kept = replace(setting, trainer=replace(setting.trainer, offloads_checkpoints=False))
    saved = predict_step(kept).peak_bytes - predict_step(setting).peak_bytes
    assert saved == pytest.approx(28 * 2 * 2048 * 3584 * 2, rel=0.08), "a hidden state a layer"


def of(trainer, model="Qwen/Qwen2.5-7B", quantization="nf4", method=None, **training):
    fields = {"batch_size": 1, "sequence_length": 2048, "gradient_checkpointing": True, **training}
    return TrainConfig(
        ModelSpec(name=model),
        QuantizationSpec(name=quantization),
        method or MethodSpec(rank=16, dropout=0.0),
        TrainingSpec(**fields),
        "cuda",
        trainer=find_trainer(trainer),
    )


@pytest.mark.slow
def test_qlora_of_7b_with_trl_fits_where_it_is_known_to_fit_and_the_prepared_base_needs_more():
    trl, prepared = (estimate(of(name)).peak_bytes for name in ("trl", "transformers"))
    assert prepared > trl + 2 * 2 * 151_936 * 3584, "embeddings and head in float32 alone are as much more"
    assert [estimate(of("trl"), find_gpu(card)).fits for card in ("12GB", "16GB", "24GB")] == [True, True, True]


@pytest.mark.slow
def test_full_fine_tuning_of_8b_in_bfloat16_needs_twice_its_weights_and_no_float32_copy():
    setting = of("trl", "meta-llama/Llama-3.1-8B", "none", FULL, optimizer="paged-adamw-8bit")
    step = predict_step(setting)
    weights = 2 * 8_030_261_248
    assert 2 * weights < step.peak_bytes < 2.3 * weights
    assert [estimate(setting, find_gpu(card)).fits for card in ("24GB", "40GB", "80GB")] == [False, True, True]


def test_lorabenchs_own_loop_is_the_default_and_comes_first():
    default = replace(of("trl"), trainer=TrainConfig.__dataclass_fields__["trainer"].default_factory())
    assert default.trainer.name == "lorabench" == trainers()[0].name
    assert [t.name for t in trainers()][1:] == sorted(t.name for t in trainers()[1:])


def test_every_trainer_says_its_versions_and_whether_it_was_measured():
    for trainer in trainers()[1:]:
        assert trainer.versions and len(trainer.differences) >= 4, trainer.name
        low, high = trainer.errors
        assert low < 1 < high
        assert trainer.measured or high - low >= 0.3, f"{trainer.name} is not measured and claims to be sure"


def test_a_loss_that_a_trainer_lacks_is_refused_with_those_it_has():
    with pytest.raises(LorabenchError, match="torchtune has no full loss; allowed: chunked, fused"):
        find_trainer("torchtune").with_options(loss="full")


def test_a_fused_loss_makes_no_logits_and_a_full_one_makes_them_all():
    full, chunked, fused = (
        predict_step(replace(s, trainer=s.trainer.with_options(loss=loss)))
        for s in [of("trl", batch_size=4)]
        for loss in ("full", "chunked", "fused")
    )
    assert full.peak_bytes - chunked.peak_bytes > 4 * 2048 * 152_064 * 4 and full.parts["logits"] > 0
    assert fused.peak_bytes < full.peak_bytes / 2


def test_a_hopper_card_has_larger_workspaces():
    small, large = (predict_step(on_card(of("trl"), find_gpu(card))) for card in ("a10g", "h100"))
    assert large.parts["workspace"] - small.parts["workspace"] == 2 * (32 * 2**20 - 8_519_680)


def test_cards_without_bfloat16_train_in_float16():
    step = predict_step(on_card(of("transformers"), find_gpu("t4")))
    assert step.peak_bytes > 0


def test_packed_examples_are_one_row_whose_mask_flash_attention_does_without():
    trainer = find_trainer("trl")
    method = MethodSpec(name="lora", rank=8, target_modules="attention")
    plain = TrainConfig(
        ModelSpec(name="lorabench/tiny-1m", dtype="bfloat16"),
        QuantizationSpec(),
        method,
        TrainingSpec(batch_size=4, sequence_length=256),
        "cuda",
        trainer=trainer,
    )
    packed = replace(plain, trainer=trainer.with_options(packing=True))
    flash = replace(plain, trainer=trainer.with_options(attention="flash", packing=True))
    peaks = [predict_step(s).peak_bytes for s in (plain, flash, packed)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01), "the same tokens"
    assert peaks[2] - peaks[1] > 3 * (4 * 256) ** 2, "a byte a pair of tokens, and the same as numbers in 16 bits"
    with pytest.raises(LorabenchError, match="packing is not predicted for axolotl"):
        find_trainer("axolotl").with_options(packing=True)


def test_full_fine_tuning_of_axolotl_leaves_embeddings_and_norms_wide_where_no_kernel_narrows_them():
    """Llama-3.1-8B: embedding and head of 128,256 x 4,096, 65 norms of 4,096; two bytes more of each, and four more of
    both states of AdamW; checkpoints of 32 layers are float32."""

    def step(**options):
        return predict_step(
            TrainConfig(
                ModelSpec(name="meta-llama/Llama-3.1-8B"),
                QuantizationSpec(name="none"),
                FULL,
                TrainingSpec(batch_size=1, sequence_length=1024, gradient_checkpointing=True),
                "cuda",
                capability=8,
                trainer=find_trainer("axolotl").with_options(**options),
            )
        )

    wide, flash, cut = step(), step(attention="flash"), step(loss="fused")
    parameters = 2 * 128_256 * 4_096 + 65 * 4_096
    assert wide.parts["weights"] - flash.parts["weights"] == 2 * parameters
    assert wide.parts["optimizer"] - flash.parts["optimizer"] == 4 * parameters
    assert wide.peak_bytes > flash.peak_bytes + 6 * parameters
    assert cut.parts["weights"] == flash.parts["weights"]


def test_on_a_cpu_without_bfloat16_other_trainers_keep_a_checkpoints_dtype_and_the_own_loop_takes_float32():
    for name, dtype in (("transformers", "bfloat16"), ("trl", "bfloat16"), ("lorabench", "float32")):
        setting = replace(of(name, quantization="none"), device="cpu", bf16=False)
        assert str(resolve_dtype(setting)) == f"torch.{dtype}"
        assert str(resolve_dtype(replace(setting, bf16=True))) == "torch.bfloat16"
