"""No stored study of the repository speaks unless a test asks for it; memory by a formula where it is not tested."""

from types import SimpleNamespace

import pytest


@pytest.fixture
def nothing_at_hand(tmp_path, monkeypatch):
    """A folder without reports/ and runs/."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def formula(monkeypatch):
    """Memory by a formula, where it is not what a test is about."""
    from lorabench.memory.card_planner import CardPlanner

    stored = {"none": 32, "int8": 12, "fp4": 7, "nf4": 6}

    def need(room, setting):
        t = setting.training
        trained = 300_000 if setting.method.rank is None else 5_000 * setting.method.rank
        peak = (
            10**7 * stored[setting.quantization.name]
            + 12 * trained
            + 10**6 * t.batch_size * (1 if t.gradient_checkpointing else 3)
        )
        step = SimpleNamespace(trainable_parameters=trained)
        return SimpleNamespace(
            step=step, peak_bytes=peak, low_bytes=int(0.9 * peak), high_bytes=int(1.1 * peak), seconds=None
        )

    monkeypatch.setattr(CardPlanner, "need", need)
    monkeypatch.setattr(CardPlanner, "beyond", lambda self, setting: False)
    monkeypatch.setattr(CardPlanner, "prefetch", lambda self, settings: None)
