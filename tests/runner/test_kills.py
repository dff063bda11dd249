"""kill -9 of worker, driver and both at random moments: after resuming every cell is there exactly once, and the table
is that of an undisturbed run, byte for byte."""

import json
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from lorabench.record.checksums import CHECKSUM, FILES
from tests.runner.kills import Kills, is_once_and_whole, orphans, without_clocks

STUDY = """
schema: 1
name: killed
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 2}
training: {steps: 6}
grid: {method.rank: [1, 2, 4]}
seeds: [SEEDS]
"""
REAL = """
schema: 1
name: real
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 2}
training: {steps: 60, batch_size: 4, sequence_length: 48, checkpoint_every: 10}
evaluation: {lm_eval: [], max_sequences: 8, forgetting: none}
analysis: {spectra: values}
grid: {method.rank: [1, 2]}
seeds: [0, 1]
"""


def study(cells: int) -> str:
    return STUDY.replace("SEEDS", ", ".join(map(str, range(cells // 3))))


def content(path: Path) -> object:
    """What a file says: safetensors writes its metadata in any order, on which its checksum depends."""
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as tensors:
            return tensors.metadata(), {name: tensors.get_tensor(name).tobytes() for name in tensors.keys()}  # noqa: SIM118
    if path.name == "result.json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k not in (FILES, CHECKSUM)}
    return path.read_bytes()


def files(out: Path) -> dict[str, object]:
    """Every file of every cell but its log."""
    inside = (p for p in (out / "cells").rglob("*") if p.is_file() and p.name != "log.txt")
    return {str(p.relative_to(out)): content(p) for p in inside}


def disturb(kills: Kills, folder: Path, most: int) -> None:
    kills.whole(folder / "whole")
    before = files(folder / "whole"), (folder / "whole" / "table.md").read_bytes()
    while kills.done.total() < most:
        out = folder / "out"
        kills.round(out, most)
        kills.whole(out)
        is_once_and_whole(out)
        assert files(out) == before[0]
        assert (out / "table.md").read_bytes() == before[1]
        assert orphans(folder) == []
        print(f"{dict(kills.done)} kills in {kills.sessions} runs, {kills.rounds} rounds", flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_hundred_kills_a_drawn_study_is_what_an_undisturbed_run_is(tmp_path, workers):
    disturb(Kills(tmp_path, study(90), "tests.runner.drawn_runner", 21 + workers, 3.0, workers), tmp_path, 100)


@pytest.mark.slow
@pytest.mark.parametrize("pack", ["off", "auto"])
def test_after_ten_kills_a_real_study_is_what_an_undisturbed_run_is(tmp_path, pack):
    """Alone to the last digit; in packs but for rounding, since a killed pack can be followed by a smaller one."""
    kills = Kills(tmp_path, REAL, "lorabench", 11, 12.0, pack=pack)
    kills.whole(tmp_path / "whole")
    while kills.done.total() < 10:
        kills.round(tmp_path / "out", 10)
        kills.whole(tmp_path / "out")
        is_once_and_whole(tmp_path / "out")
        ours, theirs = (without_clocks(tmp_path / name) for name in ("out", "whole"))
        if pack == "off":
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        else:
            ours, theirs = (frame.drop(columns="pack_cells", errors="ignore") for frame in (ours, theirs))
            pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6)
        assert orphans(tmp_path) == []
    print(f"{dict(kills.done)} kills in {kills.sessions} runs, {kills.rounds} rounds")
