"""Tables of the literature: read with file and line, compared to the digits that are printed."""

from pathlib import Path

import pytest

from lorabench.config.load import read_study
from lorabench.config.published_tables import published, read_paper
from lorabench.config.source import parse_source
from lorabench.errors import StudyError

HEAD = "schema: 1\nname: t\nquestion: q\nsource: s\nmodel: gpt2\nquantity: trainable_parameters\n"


def source(rows, head=HEAD):
    return parse_source(head + "rows:\n" + rows, "t.yaml", Path.cwd())


@pytest.mark.parametrize(
    ("text", "ours", "words"),
    [
        ("4.7 M", 4_718_592, "to the digit"),
        ("301.9 M", 301_989_888, "cut, not rounded"),
        ("603.8 M", 603_979_776, "within 1 %"),
        ("35 MB", 37.7e6, "differs"),
        ("over 780 GB", 783e9, "holds"),
        ("over 780 GB", 779e9, "does not hold"),
        ("under 48 GB", 42e9, "holds"),
        ("under 48 GB", 50e9, "does not hold"),
        ("about 30 GB", 28e9, "roughly"),
        ("about 5 GB", 6e9, "differs"),
        ("4.127", 4.1273, "to the digit"),
    ],
)
def test_agreement_is_judged_by_the_printed_digits(text, ours, words):
    assert published(text).agreement(ours) == words


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ("  - {name: a, published: many}", 8, "'many' is not a published value"),
        ("  - {name: a, published: 4 GiB}", 8, "units: K, M, B, kB"),
        ("  - {name: a, rank: 4}", 8, "method.rank"),
        ("  - {name: a, quantity: weights}", 8, "did you mean 'weight_bytes'"),
        ("  - {name: a, quantity: parameter_bytes}", 8, "needs 'bytes_each'"),
        ("  - {name: a}\n  - {name: b, method.rank: none}", 9, "it must be a whole number"),
        ("  - {name: a}\n  - {name: b, quantity: peak_bytes}", 7, "several units"),
        ("  []", 7, "rows must be a list"),
    ],
)
def test_a_fault_is_one_sentence_with_file_and_line(rows, line, words):
    with pytest.raises(StudyError) as told:
        read_paper(source(rows))
    assert str(told.value).startswith(f"t.yaml:{line}: ")
    assert words in str(told.value) and "\n" not in str(told.value)


def test_a_row_without_a_model_is_told():
    with pytest.raises(StudyError, match="needs a model"):
        read_paper(source("  - {name: a}", HEAD.replace("model: gpt2\n", "")))


def test_it_is_no_study_to_run():
    with pytest.raises(StudyError, match="nothing to run; see it with: lorabench table t"):
        read_study(source("  - {name: a}"))
