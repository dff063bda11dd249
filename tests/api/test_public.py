"""The public names: each is described whole, its example runs, and its result reads as a frame, a dictionary and a few
lines."""

import contextlib
import doctest
import io
import json
from pathlib import Path

import pytest

import lorabench as lb
from lorabench.commands.main import main

NAMES = [n for n in lb.__all__ if n != "__version__"]
MODEL = "lorabench/tiny-300k"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_described_whole_and_its_example_runs(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    thing = getattr(lb, name)
    parts = ("Example:",) if isinstance(thing, type) else ("Args:", "Returns:", "Raises:", "Example:")
    for part in parts:
        assert part in thing.__doc__, part
    test = doctest.DocTestParser().get_doctest(thing.__doc__, {}, name, None, None)
    assert test.examples
    told = io.StringIO()
    assert not doctest.DocTestRunner(verbose=False).run(test, out=told.write).failed, told.getvalue()


def json_of(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*arguments, "--json"]) == 0
    return json.loads(printed.getvalue())


def test_results_are_what_the_commands_print_as_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--model", MODEL, "--rank", "4"]
    results = [
        (lb.parameters(MODEL, rank=4), json_of("parameters", *asked)),
        (lb.evidence(source="dettmers-2023"), json_of("evidence", "--source", "dettmers-2023")),
        (lb.estimate(MODEL, rank=4, gpu="24GB"), json_of("estimate", *asked, "--gpu", "24GB")),
        (
            lb.recommend(MODEL, gpu="24GB", sequence_length=64, global_batch_size=2),
            json_of(
                "recommend", "--model", MODEL, "--gpu", "24GB", "--sequence-length", "64", "--global-batch-size", "2"
            ),
        ),
        (
            lb.quantization_error(MODEL, quantization=["nf4"]),
            json_of("quantization-error", MODEL, "--quantization", "nf4"),
        ),
    ]
    for result, printed in results:
        assert json.loads(json.dumps(result.to_dict())) == printed
        assert len(result.frame())
        assert 1 <= len(repr(result).splitlines()) <= 12
