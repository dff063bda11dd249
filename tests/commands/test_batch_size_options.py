"""A batch is a micro-batch or that of an optimizer step, by name; the old option still works and says what it
became."""

from __future__ import annotations

import pytest

from lorabench.commands.parser import make_parser
from lorabench.commands.predict import settings_of

ESTIMATE = ("estimate", "--model", "lorabench/tiny-300k")
RECOMMEND = ("recommend", "--model", "lorabench/tiny-300k", "--gpu", "24GB", "--sequence-length", "64")


@pytest.mark.parametrize("option", ["--micro-batch-size", "--batch-size"])
def test_estimate_takes_the_micro_batch_by_its_name_and_by_the_old_one(capsys, option):
    settings = settings_of(make_parser().parse_args([*ESTIMATE, option, "3"]))
    assert settings["training"] == {"batch_size": "3"}
    old = option == "--batch-size"
    assert capsys.readouterr().err == (
        "note: --batch-size is now --micro-batch-size: sequences of one forward pass\n" if old else ""
    )


@pytest.mark.parametrize("option", ["--global-batch-size", "--batch-size"])
def test_recommend_takes_the_batch_of_an_optimizer_step_by_its_name_and_by_the_old_one(capsys, option):
    assert make_parser().parse_args([*RECOMMEND, option, "12"]).global_batch_size == 12
    old = "note: --batch-size is now --global-batch-size: sequences of an optimizer step, over all micro-batches\n"
    assert capsys.readouterr().err == (old if option == "--batch-size" else "")
    assert make_parser().parse_args([*RECOMMEND]).global_batch_size == 16
