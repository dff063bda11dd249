"""A card's calibration on the command line: its file changes predictions for that card as computed by hand, and says
so; without it they are what they were."""

import json
from datetime import UTC, datetime

import pytest

from lorabench.commands.main import main
from lorabench.config.gpus import find_gpu
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.memory import calibration_rows
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig, on_card
from lorabench.record.card_calibration import (
    CalibrationRow,
    CardCalibration,
    file_name,
    installed_versions,
    write_calibration,
)

pytestmark = pytest.mark.usefixtures("traces")
MODEL = ("--model", "lorabench/tiny-1m", "--gpu", "rtx4090")
SIZES = ("--micro-batch-size", "2", "--sequence-length", "64")
WORDS = "calibrated on this card 2026-11-27: 3 rows, 0.98 to 1.02"
CONTEXT = 321_000_000
STUDY = """
schema: 1
name: small
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4, alpha: 16}
training: {steps: 4, batch_size: 2, sequence_length: 32, learning_rate: 1e-3}
"""


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "lorabench" / "calibrations"


@pytest.fixture
def calibrated(folder):
    def store(packages=None, name="NVIDIA GeForce RTX 4090", measured=(980, 1_000, 1_020), each=({}, {}, {})):
        rows = tuple(
            CalibrationRow(
                trainer="lorabench",
                model="smollm2-135m",
                quantization="none",
                rank=16,
                batch_size=4,
                sequence_length=1024,
                predicted_bytes=1_000,
                measured_bytes=n,
                **more,
            )
            for n, more in zip(measured, each, strict=True)
        )
        calibration = CardCalibration(
            card=name,
            measured_at=datetime(2026, 11, 27, 10, tzinfo=UTC).isoformat(),
            packages=packages or installed_versions(),
            memory_bytes=24 * 2**30,
            context_bytes=CONTEXT,
            rows=rows,
        )
        write_calibration(calibration, folder / file_name(name))
        return folder / file_name(name)

    return store


def told(capsys, *arguments, code=0):
    assert main(arguments) == code
    out = capsys.readouterr().out
    return json.loads(out) if "--json" in arguments else out


def test_context_and_factors_are_those_that_were_measured(calibrated, capsys):
    before = told(capsys, "estimate", *MODEL, *SIZES, "--json")
    calibrated()
    after = told(capsys, "estimate", *MODEL, *SIZES, "--json")
    tensors = before["peak_bytes"] - before["bytes"]["framework"]
    peak = tensors + CONTEXT + round(0.02 * tensors)
    assert after["bytes"] == {**before["bytes"], "framework": CONTEXT + round(0.02 * tensors)}
    assert after["peak_bytes"] == peak
    assert after["low_bytes"] == pytest.approx(0.96 * peak, abs=1)  # 1 - 0.02 * (3 + 1) / (3 - 1)
    assert after["high_bytes"] == pytest.approx(1.04 * peak, abs=1)
    assert after["calibration"] == WORDS
    assert after["largest_batch_size"] > before["largest_batch_size"]
    assert told(capsys, "estimate", *MODEL, *SIZES, "--json", "--no-calibration") == before


def test_what_does_not_fit_may_fit_once_it_is_measured(calibrated, capsys):
    """Where the range's high end lies between the card's memory with the assumed and with the measured context."""
    setting = ("--model", "llama-3.2-1b", "--gpu", "rtx4090", "--sequence-length", "256")
    most = told(capsys, "estimate", *setting, "--json")["largest_batch_size"]
    setting = (*setting, "--micro-batch-size", str(most + 1))
    assert told(capsys, "check", *setting, code=3).startswith("cannot be told")
    calibrated()
    answer = told(capsys, "check", *setting)
    assert answer.startswith("fits") and answer.rstrip().endswith(WORDS)


@pytest.mark.slow
def test_another_trainer_takes_the_context_and_keeps_its_range(calibrated, capsys):
    before = told(capsys, "estimate", *MODEL, *SIZES, "--trainer", "trl", "--json")
    calibrated()
    after = told(capsys, "estimate", *MODEL, *SIZES, "--trainer", "trl", "--json")
    assert before["bytes"]["framework"] - after["bytes"]["framework"] == 500 * 2**20 - CONTEXT
    for end in ("low_bytes", "high_bytes"):
        assert after[end] / after["peak_bytes"] == pytest.approx(before[end] / before["peak_bytes"], abs=1e-6)
    text = told(capsys, "estimate", *MODEL, *SIZES, "--trainer", "trl")
    assert f"{WORDS}; for another trainer only the CUDA context is corrected" in text


def test_a_measurement_of_other_versions_gives_its_context_alone_and_says_so(calibrated, capsys):
    before = told(capsys, "estimate", *MODEL, *SIZES, "--json")
    calibrated(packages={**installed_versions(), "torch": "2.1.0"})
    after = told(capsys, "estimate", *MODEL, *SIZES, "--json")
    assert before["bytes"]["framework"] - after["bytes"]["framework"] == 500 * 2**20 - CONTEXT
    assert after["high_bytes"] == pytest.approx(1.06 * after["peak_bytes"], abs=1)
    assert "old (torch 2.1.0)" in after["calibration"]


@pytest.mark.slow
def test_every_prediction_for_the_card_says_so_in_one_line(calibrated, capsys, tmp_path):
    calibrated()
    (tmp_path / "small.yaml").write_text(STUDY)
    recommended = ("recommend", "--model", "lorabench/tiny-300k", "--gpu", "rtx4090", "--sequence-length", "32")
    for arguments in (
        ("estimate", *MODEL, *SIZES),
        ("estimate", *MODEL, *SIZES, "--trainer", "all"),
        ("check", *MODEL, *SIZES),
        ("plan", "small.yaml", "--gpu", "rtx4090"),
        recommended,
    ):
        assert told(capsys, *arguments).count(WORDS) == 1, arguments
        assert WORDS not in told(capsys, *arguments, "--no-calibration"), arguments
    assert told(capsys, "plan", "small.yaml", "--gpu", "rtx4090", "--json")["calibration"] == WORDS
    assert WORDS in told(capsys, *recommended, "--json")["notes"]


def test_timed_rows_tell_the_time_of_a_step_that_is_like_them(calibrated, capsys, tmp_path):
    """Planted costs of a flop, a byte and a kernel are found again; fewer than six rows leave a range of 30 %."""
    (tmp_path / "small.yaml").write_text(STUDY)
    arguments = ("plan", "small.yaml", "--gpu", "rtx4090", "--json")
    assert "roofline" in told(capsys, *arguments)["time"]
    costs = (1e-11, 1e-9, 1e-5)
    works = ((10**8, 10**8, 2_000), (10**9, 10**8, 3_000), (10**8, 10**9, 2_500))
    seconds = [sum(c * w for c, w in zip(costs, work, strict=True)) for work in works]
    timed = [{"work": work, "step_seconds": one} for work, one in zip(works, seconds, strict=True)]
    calibrated(each=timed)
    after = told(capsys, *arguments)
    assert after["time"] == "fitted to 3 rows of lorabench calibrate, within 30 %"
    setting = on_card(
        TrainConfig(
            ModelSpec(name="lorabench/tiny-300k"),
            QuantizationSpec(),
            MethodSpec(rank=4),
            TrainingSpec(batch_size=2, sequence_length=32),
            "cuda",
        ),
        find_gpu("rtx4090"),
    )
    step = predict_step(setting)
    whole = 4 * sum(c * n for c, n in zip(costs, (step.flops, step.moved_bytes, step.kernels), strict=True))
    assert after["conditions"][0]["training_seconds"] == pytest.approx([whole / 1.3, whole * 1.3], rel=0.01)


@pytest.mark.parametrize("command", ["estimate", "check", "recommend", "plan"])
def test_a_damaged_file_is_one_sentence_and_exit_code_2(calibrated, capsys, tmp_path, command):
    path = calibrated()
    path.write_text(path.read_text()[:100])
    (tmp_path / "small.yaml").write_text(STUDY)
    rest = {"recommend": (*MODEL, "--sequence-length", "32"), "plan": ("small.yaml", "--gpu", "rtx4090")}
    assert main([command, *rest.get(command, MODEL)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said and "--no-calibration" in said


def test_another_cards_damaged_file_is_not_read(calibrated):
    calibrated().write_text("")
    assert main(["estimate", "--model", "lorabench/tiny-300k", "--gpu", "rtx3090"]) == 0


@pytest.mark.slow
def test_calibrating_this_cpu_tells_each_row_and_what_changes(folder, capsys, monkeypatch):
    monkeypatch.setattr(
        calibration_rows,
        "ON_CPU",
        "lorabench lorabench/tiny-300k none 4 2 32\nlorabench lorabench/tiny-300k nf4 4 2 32 checkpointed",
    )
    assert main(["calibrate", "--gpu", "cpu"]) == 0
    said = capsys.readouterr()
    assert said.err.count("of the prediction") == 2  # as they are measured
    assert "lorabench lorabench/tiny-300k lora r=4 nf4 2x32 checkpointed" in said.out
    assert "times the prediction in place of 0.93 to 1.06" in said.out
    assert f"written to {folder / 'cpu.json'}" in said.out
    here = ("estimate", "--model", "lorabench/tiny-300k", "--gpu", "cpu")
    assert "calibrated on this card" in told(capsys, *here)
    assert main(["calibrate", "--gpu", "cpu", "--out", "here.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"] == "cpu"
    assert json.loads((folder.parents[2] / "here.json").read_text())["summary"]


@pytest.mark.parametrize("gpu", ["99", "rtx4090"])
def test_a_card_that_is_not_here_is_one_sentence_and_exit_code_2(capsys, gpu):
    assert main(["calibrate", "--gpu", gpu]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cpu" in said
