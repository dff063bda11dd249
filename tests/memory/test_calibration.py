"""Costs fitted to stored cells: planted ones are found again, cells of another machine are left out, far work is not
guessed at."""

import platform
from functools import cache

import pytest
import torch

from lorabench.commands import main as cli
from lorabench.config.gpus import find_gpu
from lorabench.memory.calibration import FEW, SPREAD, SPREAD_OF_FEW, calibrate, fit, is_on, measured_steps
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import setting_of
from lorabench.record.result import Environment, Reading
from tests.report.stores import filled

pytestmark = pytest.mark.slow  # each traces a step of several settings

STUDY = """
schema: 1
name: timed
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, alpha: 16, rank: 8}
training: {steps: 10, batch_size: 4, sequence_length: 64}
grid:
  method.rank: [1, 8, 64]
  training.batch_size: [1, 4, 16]
seeds: [0, 1]
"""
HERE = Environment(device="cpu", cores=torch.get_num_threads(), platform=platform.platform())
FLOP, BYTE, KERNEL = 3e-11, 2e-10, 5e-6


@cache
def traced(setting):
    return predict_step(setting)


def planted(step):
    return FLOP * step.flops + BYTE * step.moved_bytes + KERNEL * step.kernels


def timed(environment, noise=lambda seed: 1.0):
    """Changes a synthetic result to one that took the planted time on some machine."""

    def change(result):
        cell = result.cell
        passes = cell.training.steps * cell.training.gradient_accumulation
        seconds = passes * planted(traced(setting_of(cell, "cpu"))) * noise(cell.seed)
        kept = tuple(r for r in result.readings if r.metric not in ("train_seconds", "train_tokens", "padding_percent"))
        tokens = float(passes * cell.training.batch_size * cell.training.sequence_length)
        read = (
            Reading(metric="train_seconds", value=seconds),
            Reading(metric="train_tokens", value=tokens),
            Reading(metric="padding_percent", value=0.0),
        )
        return result.model_copy(update={"readings": kept + read, "environment": environment})

    return change


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("timed"), STUDY, timed(HERE))


def test_planted_costs_are_found_and_foretell_a_condition_that_never_ran(store):
    calibration = fit(measured_steps(store.results(), find_gpu("cpu")))
    assert calibration.conditions == 9
    assert calibration.spread == SPREAD, (
        "nothing is left over, but no prediction is surer than two runs of one cell are alike"
    )
    unseen = store.results()[0].cell
    unseen = unseen.model_copy(update={"training": unseen.training.model_copy(update={"batch_size": 7})})
    step = predict_step(setting_of(unseen, "cpu"))
    time = calibration.step_seconds(step)
    assert time.least * (1 + SPREAD) == pytest.approx(planted(step), rel=1e-3)
    assert time.most == pytest.approx(planted(step) * (1 + SPREAD), rel=1e-3)


def test_the_range_is_as_wide_as_the_worst_residual(tmp_path):
    """One batch size is twice as slow as planted costs say: no three costs explain that, and the range owns to it."""
    slow = timed(HERE)

    def change(result):
        made = slow(result)
        if made.cell.training.batch_size != 4:
            return made
        doubled = tuple(
            r.model_copy(update={"value": 2 * r.value}) if r.metric == "train_seconds" else r for r in made.readings
        )
        return made.model_copy(update={"readings": doubled})

    results = filled(tmp_path, STUDY, change).results()
    measured = measured_steps(results, find_gpu("cpu"))
    calibration = fit(measured)
    assert calibration.spread > SPREAD
    for setting, seconds in measured.items():
        time = calibration.step_seconds(traced(setting))
        assert time.least * 0.9999 <= seconds[0] <= time.most * 1.0001, "every stored time lies within its own range"


def test_few_conditions_make_a_wide_range(store):
    measured = dict(list(measured_steps(store.results(), find_gpu("cpu")).items())[: FEW - 1])
    assert fit(measured).spread >= SPREAD_OF_FEW


def test_seeds_of_a_condition_are_one_point_their_median(tmp_path):
    results = filled(tmp_path, STUDY, timed(HERE, noise=lambda seed: 1.0 + 0.2 * seed)).results()
    measured = measured_steps(results, find_gpu("cpu"))
    assert len(measured) == 9
    assert all(len(seen) == 2 and max(seen) == pytest.approx(1.2 * min(seen)) for seen in measured.values())


def test_work_out_of_reach_is_not_guessed_at(store):
    calibration = fit(measured_steps(store.results(), find_gpu("cpu")))
    cell = max((r.cell for r in store.results()), key=lambda c: (c.method.rank, c.training.batch_size))
    huge = cell.model_copy(
        update={"training": cell.training.model_copy(update={"batch_size": 11 * cell.training.batch_size})}
    )
    assert calibration.step_seconds(predict_step(setting_of(huge, "cpu"))) is None


def test_nothing_measured_is_no_calibration(tmp_path):
    assert fit({}) is None
    assert calibrate(find_gpu("cpu"), tmp_path) is None
    assert calibrate(find_gpu("cpu"), tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("card", "device", "same"),
    [
        ("a100-80gb", "NVIDIA A100-SXM4-80GB", True),
        ("a100-80gb", "NVIDIA A100 80GB PCIe", True),
        ("a100-40gb", "NVIDIA A100-SXM4-80GB", False),
        ("rtx4090", "NVIDIA GeForce RTX 4090", True),
        ("rtx4090", "NVIDIA GeForce RTX 3090", False),
        ("h200", "NVIDIA H200", True),
        ("h100-80gb", "NVIDIA H200", False),
        ("t4", "Tesla T4", True),
        ("l4", "NVIDIA L40S", False),
        ("a100-80gb", "cpu", False),
        ("a100-80gb", "NVIDIA A100-SXM4-40GB", False),
        ("a100-80gb", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", False),
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("h100", "NVIDIA H100 PCIe", False),
        ("h100-pcie", "NVIDIA H100 PCIe", True),
        ("h100-pcie", "NVIDIA H100 80GB HBM3", False),
        ("h100", "NVIDIA H100 NVL", False),
        ("v100-32gb", "Tesla V100-SXM2-16GB", False),
        ("v100-16gb", "Tesla V100-SXM2-16GB", True),
        ("rtx4070", "NVIDIA GeForce RTX 4070", True),
        ("rtx4070", "NVIDIA GeForce RTX 4070 Ti SUPER", False),
        ("rtx4090", "NVIDIA GeForce RTX 4090 Laptop GPU", False),
        ("rtx4060ti-16gb", "NVIDIA GeForce RTX 4060 Ti", True),
        ("rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", True),
        ("gh200", "NVIDIA GH200 480GB", True),
        ("l4", "NVIDIA L4", True),
        ("24GB", "NVIDIA L4", False),
    ],
)
def test_a_card_is_told_by_the_words_of_its_driver(card, device, same):
    assert is_on(find_gpu(card), Environment(device=device)) is same


def test_another_machines_cpu_is_another_device():
    cpu = find_gpu("cpu")
    assert is_on(cpu, HERE)
    assert not is_on(cpu, HERE.model_copy(update={"cores": HERE.cores + 1}))
    assert not is_on(cpu, HERE.model_copy(update={"platform": "another"}))
    assert not is_on(cpu, None)


def test_a_plan_says_what_its_time_comes_from(tmp_path, monkeypatch, capsys):
    filled(tmp_path / "reports", STUDY, timed(HERE))
    study = tmp_path / "study.yaml"
    study.write_text(STUDY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", str(study), "--gpu", "cpu"]) == 0
    assert "fitted to 9 stored conditions of reports/ and runs/ that ran on cpu, within 10 %" in capsys.readouterr().out
    assert cli.main(["plan", str(study), "--gpu", "l4"]) == 0
    assert "a roofline of l4's data sheet; reports/ and runs/ hold no cell that ran on one" in capsys.readouterr().out
