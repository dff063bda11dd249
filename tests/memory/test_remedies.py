"""A remedy fits by the trace of its own setting, says so in flags that estimate takes, and stands alone where one
change is enough."""

from dataclasses import replace

import pytest

from lorabench.commands.parser import make_parser
from lorabench.commands.predict import settings_of
from lorabench.config.gpus import Gpu
from lorabench.memory.card_planner import CardPlanner
from lorabench.memory.estimate import estimate
from lorabench.memory.remedies import remedies
from lorabench.memory.validate import setting_from

pytestmark = pytest.mark.usefixtures("traces")
TINY = ["estimate", "--model", "lorabench/tiny-4m", "--micro-batch-size", "8", "--sequence-length", "256"]


def setting(flags=()):
    return setting_from(settings_of(make_parser().parse_args([*TINY, *flags])))


def test_each_remedy_fits_when_its_flags_are_typed_and_has_the_figure_told():
    high = estimate(setting()).high_bytes
    card = Gpu("small", round(0.97 * high))
    found = remedies(setting(), CardPlanner(card), length=192)
    assert len(found.fitting) > 1
    assert any(set(r.changes) == {"training.batch_size", "training.gradient_accumulation"} for r in found.fitting)
    for remedy in found.fitting:
        typed = estimate(setting(remedy.flags.split()), card)
        assert typed.fits
        assert typed.high_bytes == pytest.approx(remedy.high_bytes, rel=0.001)
        assert remedy.headroom_bytes == card.memory_bytes - remedy.high_bytes
        total = remedy.changes.get("training.batch_size", 8) * remedy.changes.get("training.gradient_accumulation", 1)
        assert total == 8


def test_where_nothing_fits_the_least_is_told_and_a_card_that_holds_it():
    found = remedies(setting(), CardPlanner(Gpu("tiny", 2**20)))
    assert found.fitting == ()
    assert found.least.headroom_bytes < 0
    assert found.least.high_bytes < estimate(setting()).high_bytes
    assert found.card == "rtx3080"


def test_full_fine_tuning_that_can_fit_is_kept_and_else_the_card_that_would_hold_it_is_named():
    full = setting(["--method", "full"])
    high = estimate(full).high_bytes
    roomy = remedies(full, CardPlanner(Gpu("roomy", round(0.8 * high)))).fitting
    assert roomy and not any("method.name" in remedy.changes for remedy in roomy)
    cramped = remedies(full, CardPlanner(Gpu("cramped", 1)))
    assert not cramped.fitting and cramped.least.changes["method.name"] == "lora" and cramped.card


def test_weights_in_bfloat16_are_a_remedy_on_a_cpu_that_takes_float32_by_itself(monkeypatch):
    monkeypatch.setattr("lorabench.config.precision.FLOAT32_BELOW", 1000)
    asked, narrow = replace(setting(), device="cpu"), {"model.dtype": "bfloat16"}
    for quick in (True, False):
        card = Gpu("cpu", 10**12, kind="cpu", bf16=quick)
        small = replace(card, memory_bytes=round(0.9 * estimate(asked, card).high_bytes))
        fitting = remedies(asked, CardPlanner(small)).fitting
        assert (narrow in [r.changes for r in fitting]) == (not quick), "the base is that already"
        least = remedies(asked, CardPlanner(replace(card, memory_bytes=1))).least
        assert (least.changes.get("model.dtype") == "bfloat16") == (not quick)
