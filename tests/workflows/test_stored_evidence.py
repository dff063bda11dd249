"""Which stored studies speak for a model: found by their place, told apart by their cells, weighed by their size."""

from pathlib import Path

import pytest

from lorabench.advice.evidence import Here
from lorabench.advice.own_gaps import with_studies
from lorabench.advice.published_evidence import asked_of
from lorabench.workflows.recommend import recommend
from lorabench.workflows.stored_evidence import stored_evidence, studies_here

ROOT = Path(__file__).parents[2]


def kept(folder, *cells):
    """As an archive lies there."""
    folder.mkdir(parents=True)
    (folder / "results.json.gz").write_bytes(b"")
    (folder / "cells.csv").write_text("cell,total_parameters\n" + "".join(f"{c},1000000\n" for c in cells))


def test_a_study_in_two_places_counts_once_and_another_of_its_name_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept(Path("runs/e2e"), "a", "b", "c")  # as the archive, and gone on with
    kept(Path("reports/e2e"), "a", "b")
    kept(Path("reports/real/e2e"), "d")
    kept(Path("reports/paper/sweep"), "a")
    assert studies_here() == [Path("runs/e2e"), Path("reports/paper/sweep"), Path("reports/real/e2e")]


@pytest.mark.parametrize(("parameters", "speaks"), [(135_000_000, True), (8_000_000_000, False), (300_000, False)])
def test_the_studies_of_a_real_model_speak_at_their_real_size(parameters, speaks, monkeypatch):
    monkeypatch.chdir(ROOT)
    real = [p for p in studies_here() if p.parent == Path("reports/real")]
    assert real
    groups = stored_evidence(Here("some-model", parameters, task="classify"), (), real).groups
    assert any("SmolLM2-135M" in g.model for g in groups) == speaks
    for g in groups:
        assert abs(g.distance) < 1  # of 134,515,008 parameters, whatever the adapter adds
        assert not g.made_up


def test_a_tolerated_loss_is_read_as_the_metric_is_shown():
    """2 is two points of an accuracy, which is stored as a share, and two nats of a loss."""
    found = {}
    for folder in ("reports/real/sst2", "reports/quickstart"):
        groups = stored_evidence(Here("some-model", 135_000_000, tolerated=2.0), [ROOT / folder], ()).groups
        found |= {r.quality.metric: r.quality.margin for g in groups for r in g.results if r.quality.metric}
        assert {g.in_nats for g in groups} == {folder == "reports/quickstart"}
    assert found == {"accuracy": 0.02, "eval_loss": 2.0}


def test_a_study_that_is_judged_by_a_loss_is_named_as_one_that_moves_no_points():
    stored = stored_evidence(Here("some-model", 135_000_000), [ROOT / "reports/quickstart", ROOT / "reports/facts"], ())
    assert not stored.gaps
    assert stored.apart == (("quickstart", "judged by held-out loss, in nats"), ("facts", "made-up tasks"))
    asked = asked_of("math", 135_000_000, 576, "llama", None, 16)
    with_them = with_studies(asked, stored.gaps, stored.apart)
    assert with_them.analyses == asked.analyses
    assert "quickstart (judged by held-out loss, in nats); facts (made-up tasks)" in with_them.moved[0]


@pytest.mark.usefixtures("formula")
def test_a_loss_in_nats_is_not_taken_for_points_of_published_scores():
    told = recommend(
        "lorabench/tiny-1m", "24GB", 64, studies=[ROOT / "reports/quickstart"], task="code", tolerated_loss=0.2
    )
    assert any("0.2 is taken for nats, since quickstart" in n and "margin of 1 point" in n for n in told.notes)
    assert {r.quality.margin for r in told.ranked if r.quality.basis == "published"} <= {1.0}
    alone = recommend("lorabench/tiny-1m", "24GB", 64, task="code", tolerated_loss=0.2)
    assert {r.quality.margin for r in alone.ranked if r.quality.basis == "published"} == {0.2}
    assert not any("nats" in n for n in alone.notes)
