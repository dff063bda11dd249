"""What the report recommends: sentences that claim no more than is shown, and a panel whose choice is
advice.selection's for any memory and tolerated loss."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorabench.advice.selection import enough, select
from lorabench.config import expand
from lorabench.record.metrics import metric
from lorabench.record.result import CellResult
from lorabench.report import recommendation_text
from lorabench.report.blocks import Panel, Points, Text
from lorabench.report.comparison_text import amount
from lorabench.report.page import write_report
from lorabench.report.recommendation_text import Recommended, sentence
from lorabench.report.style import Style
from lorabench.report.view import View, make_view
from lorabench.sections import recommendation
from lorabench.sections.recommendation import MOST_ROWS, choosable, needed
from tests.advice.test_selection import option, random_options
from tests.report.chromium import HOSTILE
from tests.report.stores import STUDY, fill, filled, renamed, study_of

LOSS = metric("eval_loss")


def alike(result: CellResult) -> CellResult:
    """All conditions have the same loss, but for noise that is much smaller than the margin; full fine-tuning is the
    best by luck."""
    noise = int(result.cell.id[:4], 16) / 65536 * 1e-3 - (0.001 if result.cell.method.rank is None else 0)
    readings = tuple(
        r.model_copy(update={"value": 2.0 + 0.05 * (result.cell.seed or 0) + noise}) if r.metric == "eval_loss" else r
        for r in result.readings
    )
    return result.model_copy(update={"readings": readings})


def only(view: View) -> Recommended:
    (found,) = recommendation.compute(view)
    return found


def test_where_nothing_but_the_best_is_enough_it_says_so(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path))
    r = only(view)
    assert r.chosen is r.best
    near = min((o for o in r.options if o is not r.best), key=lambda o: o.bound or 9)
    assert (
        sentence(r, LOSS)
        == "full, the best by its mean held-out loss: none of the 6 others is shown to be within 0.02 nats of it "
        f"(the nearest by its bound, {near.label}: one-sided 95 % bound {near.bound:.3f}, 2 seeds)."
    )
    made = recommendation.section(view)
    assert made is not None
    assert [type(b) for b in made.blocks] == [Text, Text, Panel]


def test_zero_effect_gives_the_choice_of_fewest_parameters_and_claims_no_preference(tmp_path: Path) -> None:
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]").replace(
        "  quantization: [none, nf4]\n", "  method.name: [lora, dora]\n"
    )
    r = only(make_view(filled(tmp_path, text, alike)))
    assert len(r.enough) == len(r.options) == 7
    assert r.chosen is not None
    assert r.chosen.trainable_parameters == min(o.trainable_parameters for o in r.options)
    said = sentence(r, LOSS)
    assert said.startswith(
        f"{r.chosen.label}: the fewest trained parameters ({r.chosen.trainable_parameters:,}) that are not worse than"
        " full, the best, by more than 0.02 nats (one-sided"
    )
    assert "4 seeds); train peak" in said
    assert "It is chosen for fewer parameters, not for a better held-out loss." in said
    (twin,) = (o for o in r.enough if o.trainable_parameters == r.chosen.trainable_parameters and o is not r.chosen)
    assert (
        f"Also good enough with as many parameters: {twin.label}; no measurement prefers {r.chosen.label} to them."
        in said
    )
    assert "It is chosen as one of several with equally few parameters, not for a better" in sentence(
        replace(r, best=twin), LOSS
    )
    swapped = replace(r, best=r.chosen)
    assert "not because its held-out loss is shown to be better than theirs." in sentence(swapped, LOSS)


def test_with_one_seed_nothing_is_shown_whatever_the_items_say(tmp_path: Path) -> None:
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0]")
    for i, change in enumerate((alike, lambda r: r)):
        view = make_view(filled(tmp_path / str(i), text, change))
        r = only(view)
        assert r.chosen is None and r.enough == ()
        assert sentence(r, LOSS).startswith("Nothing is chosen: there is one seed")
        assert "full has the best mean held-out loss of it" in sentence(r, LOSS)
        (group,) = recommendation.panel(view, [r]).groups
        assert all(row.needed is None for row in group.rows), "nor in the panel, at any tolerated loss"
        assert all(c.verdict == "not decisive" for c in view.analysis.comparisons)
        assert (
            "With one seed the bound covers only the items and shows nothing of other seeds."
            in recommendation.panel(view, [r]).caption
        )


def test_without_any_noise_known_there_is_no_evidence() -> None:
    best, other = option("best", 40, 0.0, worse=0.0), option("other", 10, None)
    r = Recommended("", (best, other), 0, best, best, 0.02, 0, None)
    assert (
        sentence(r, LOSS)
        == "No evidence: the noise of the differences is unknown, which leaves best, the best by its mean held-out"
        " loss."
    )
    assert "tolerates no loss" in sentence(replace(r, margin=None), LOSS)


def test_points_are_said_of_shares() -> None:
    accuracy = metric("python-docs-cloze/acc")
    assert amount(0.01, accuracy) == "1 point"
    assert amount(0.025, accuracy) == "2.5 points"
    assert amount(0.02, LOSS) == "0.02 nats"


def test_two_models_are_two_contests_with_names_and_short_labels(tmp_path: Path) -> None:
    view = make_view(
        filled(
            tmp_path,
            STUDY.replace(
                "  method.rank: [1, 4, 16]\n",
                "  method.rank: [1, 4, 16]\n  model: [lorabench/tiny-300k, lorabench/tiny-1m]\n",
            ),
        )
    )
    found = recommendation.compute(view)
    assert [r.name for r in found] == ["tiny-300k", "tiny-1m"]
    assert not any("tiny" in o.label for r in found for o in r.options)
    made = recommendation.section(view)
    assert made is not None
    lines = [item for b in made.blocks if isinstance(b, Points) and not b.title for item in b.items]
    assert [line.split(":")[0] for line in lines] == ["tiny-300k", "tiny-1m"]


def test_a_task_with_options_names_its_contests_by_them() -> None:
    def group(rank: int) -> list[Any]:
        return [
            SimpleNamespace(
                declared={
                    "model": {"name": "lorabench/tiny-1m"},
                    "task": {"name": "planted", "rank": rank, "scale": 0.5},
                }
            )
        ]

    assert recommendation._names([group(1), group(2)]) == ("planted, rank=1", "planted, rank=2")
    assert recommendation._names([group(1), group(1)]) == ("group (1)", "group (2)")
    assert recommendation._names([group(1)]) == ("",)


# ---- the panel's rule


@pytest.mark.parametrize("seed", range(30))
def test_the_first_row_that_fits_and_is_good_enough_is_the_choice(seed: int) -> None:
    given = random_options(seed, 15)
    best = given[0]
    fake: Any = SimpleNamespace(
        styles=defaultdict(lambda: Style("#000", "solid", "circle")),
        analysis=SimpleNamespace(verdicts=SimpleNamespace(of=lambda *a: None), metric="eval_loss"),
    )
    contest = recommendation._group(fake, Recommended("", given, 0, best, None, 0.02, 0, None), LOSS)
    assert [
        o
        for o in given
        if any(
            enough(o, given, t) != ((n := needed(o, given)) is not None and n <= t) for t in (0, 0.01, 0.02, 0.03, 0.25)
        )
    ] == []
    for rows in (contest.rows, choosable(contest.rows)):  # what is left out would never be chosen
        for tolerated in (0, 0.01, 0.02, 0.03, 0.25):
            for memory in (None, 50, 100, 120, 150, 200):
                wanted = select(given, tolerated, memory)
                found = next(
                    (
                        c
                        for c in rows
                        if (memory is None or (c.peak is not None and c.peak <= memory))
                        and c.needed is not None
                        and c.needed <= tolerated
                    ),
                    None,
                )
                assert (found and found.label) == (wanted and wanted.label)


def test_of_many_options_the_best_and_all_that_may_be_chosen_are_shown() -> None:
    draw = random.Random(0)
    given = tuple(
        option(f"o{i:03}", draw.randrange(10, 10**6), w + 0.01, worse=w, peak=draw.randrange(100, 10**6))
        for i in range(400)
        if (w := draw.random())
    )
    given = (*given, option("best", 10**6, 0.0, worse=0.0))
    fake: Any = SimpleNamespace(
        styles=defaultdict(lambda: Style("#000", "solid", "circle")),
        analysis=SimpleNamespace(verdicts=SimpleNamespace(of=lambda *a: None), metric="eval_loss"),
    )
    r = Recommended("", given, 0, given[-1], given[-1], 0.02, 0, None)
    contest = recommendation._group(fake, r, LOSS)
    assert (len(contest.rows), contest.left_out) == (MOST_ROWS, 401 - MOST_ROWS)
    every = recommendation._group(fake, replace(r, options=given), LOSS).rows
    assert set(choosable(every)) <= set(contest.rows)
    assert len(json.dumps(asdict(contest))) < 70_000
    assert f"{401 - MOST_ROWS} more conditions that would not be chosen" in recommendation_text.caption([r], [contest])


def test_sizes_are_rounded_up_so_that_what_takes_them_fits() -> None:
    assert [recommendation._up(v) for v in (55_921_260, 999, 1_000_000, 99_950_001)] == [
        56_000_000,
        999,
        1_000_000,
        100_000_000,
    ]


def test_a_hostile_name_ends_no_script_in_the_panel(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    cells = expand(study)
    text = write_report(
        fill(tmp_path / "s", study, (*cells, *renamed(cells, HOSTILE))), tmp_path / "r.html"
    ).read_text()
    (data,) = re.findall(r'<figure class="panel".*?<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert "<" not in data
    assert any("<b>bold</b></script>" in c["name"] for c in json.loads(data)["groups"])
