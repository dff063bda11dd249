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

import numpy as np
import pytest

from lorabench.advice import spectral_check as second
from lorabench.advice.selection import enough, select
from lorabench.advice.spectral_check import LearnedRank, SpectralCheck, least_cut
from lorabench.config import expand
from lorabench.record.metrics import metric
from lorabench.record.result import CellResult
from lorabench.record.spectrum import Spectrum, save_spectra
from lorabench.report import recommendation_text
from lorabench.report.blocks import Panel, Points, Text
from lorabench.report.comparison_text import amount
from lorabench.report.page import sections_page, write_report
from lorabench.report.recommendation_text import Recommended, sentence
from lorabench.report.style import Style
from lorabench.report.view import View, make_view
from lorabench.sections import recommendation
from lorabench.sections.recommendation import MOST_ROWS, choosable, needed
from tests.advice.test_selection import option, random_options
from tests.report.chromium import HOSTILE, emulate, pytestmark, show
from tests.report.stores import STUDY, fill, filled, renamed, study_of

chromium = pytestmark
del pytestmark  # the sentences are tested without it
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


# ---- sentences


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
            "With one seed the bound is over the items alone and shows nothing."
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


# ---- the second witness


def used(
    rank: int | None, energy: float, room: float | None = None, cut: int | None = None, short: int | None = None
) -> LearnedRank:
    return LearnedRank(
        f"LoRA r={rank}" if rank else "full", rank, room or rank or 64, energy, energy, energy + 1, 2, cut, short
    )


@pytest.mark.parametrize(
    ("own", "top", "lean"),
    [
        (used(4, 4), used(16, 4.2), "agrees"),  # what the highest rank learned fits into the chosen one
        (used(4, 4), used(16, 15.9), "more"),  # both are full
        (used(4, 4), used(16, 10), "open"),
        (used(8, 5), used(16, 8.2), "agrees"),
        (used(16, 6), None, "less"),
        (used(16, 15), None, "more"),
        (used(16, 11), None, "agrees"),
        (used(8, 6, cut=2), used(16, 12), "less"),
        (used(4, 4, cut=2), used(16, 15), "open"),  # full, and yet it can be cut
        (used(4, 3), used(16, 15, cut=4), "agrees"),
        (
            used(4, 4, cut=4, short=2),
            used(16, 15.9, cut=4, short=2),
            "agrees",
        ),  # energy in every direction, and yet the rest is not needed
        (used(16, 6, cut=16, short=8), None, "agrees"),  # little energy, and yet it is needed
        (used(16, 6, short=8), None, "agrees"),  # its own rank is not among the cuts
        (used(16, 6, cut=8, short=4), None, "less"),
        (used(None, 40), used(16, 15.5), "agrees"),
        (used(None, 40), used(16, 5), "less"),
        (used(None, 40), used(16, 10), "open"),
        (used(None, 40), None, "open"),
    ],
)
def test_spectra_agree_with_a_choice_or_speak_for_less_or_more(
    own: LearnedRank, top: LearnedRank | None, lean: str
) -> None:
    found = SpectralCheck(own, top, lower=True)
    assert found.lean == lean
    said = found.sentence
    assert ("spectra agree with" in said, "spectra disagree with" in said, "neither for nor against" in said) == (
        lean == "agrees",
        lean in ("less", "more"),
        lean == "open",
    )


def test_a_used_ranks_sentence_is_built_from_its_values() -> None:
    assert (
        used(16, 4.1).sentence
        == "What LoRA r=16 learned has 99 % of its energy in 4.1 of 16 directions on average (4.1 to 5.1 over modules):"
        " a reason for a lower rank."
    )
    assert used(4, 4, cut=2).sentence.endswith(
        "all but used up, a reason for a higher rank. Cut to rank 2"
        " without further training it stays within the tolerated loss on average."
    )
    assert used(16, 9, cut=3, short=2).sentence.endswith(
        "Cut to rank 3 without further training it stays within the tolerated loss on average; cut to 2 it loses more."
    )
    assert used(16, 4.1, cut=16, short=8).sentence.endswith(
        "(4.1 to 5.1 over modules). Cut to rank 8 without further training it loses more than is tolerated."
    )
    assert used(4, 3, cut=4).sentence == used(4, 3).sentence  # a cut to its own rank is none


def test_the_witness_reads_what_cells_learned(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path))
    r = only(view)
    top = next(o for o in r.options if o.label == "LoRA r=16")
    for cell in view.analysis.of_condition(top.condition):  # one module uses 2 of 16 directions, the other 4
        save_spectra(
            view.analysis.file(cell.cell.id, "spectra.safetensors"),
            [Spectrum(f"layers.{i}.q", np.r_[np.ones(2 * i), np.full(16 - 2 * i, 1e-4)], 64, 64, 16) for i in (1, 2)],
        )
    found = second.spectral_check(top, r.options, view.analysis.of_condition, view.analysis.file, "eval_loss", None)
    assert found is not None
    assert (found.chosen.energy_rank, found.chosen.least, found.chosen.most, found.highest) == (3, 2, 4, None)
    assert found.lean == "less"
    cut = second.spectral_check(
        top, r.options, view.analysis.of_condition, view.analysis.file, "eval_loss", 0.02
    )  # its cuts lose more than that
    assert cut is not None
    assert (cut.chosen.cut, cut.chosen.short, cut.lean) == (None, 8, "agrees")
    low = next(o for o in r.options if o.label == "LoRA r=4")
    beside = second.spectral_check(low, r.options, view.analysis.of_condition, view.analysis.file, "eval_loss", 0.02)
    assert beside is not None
    assert beside.highest is not None
    assert (beside.highest.label, beside.lean) == ("LoRA r=16", "agrees")
    assert second.spectral_check(low, r.options, lambda c: (), view.analysis.file, "eval_loss", 0.02) is None


def test_the_least_cut_ends_at_the_first_that_loses_too_much(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path))
    top = next(o for o in only(view).options if o.label == "LoRA r=16")
    cells = view.analysis.of_condition(top.condition)
    lost = {
        k: np.mean(
            [
                t.value("eval_loss") - c.value("eval_loss")
                for c in cells
                for t in second.truncations(view.analysis.file(c.cell.id, "truncation.csv"))
                if (t.allocation, t.rank) == ("uniform", k)
            ]
        )
        for k in (2, 4, 8)
    }  # type: ignore[operator]
    assert least_cut(cells, view.analysis.file, "eval_loss", float(lost[4]) + 1e-9) == (4, 2)
    assert least_cut(cells, view.analysis.file, "eval_loss", 1e9) == (1, None)
    assert least_cut(cells, view.analysis.file, "eval_loss", float(lost[8]) - 1e-9) == (None, 8)


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


# ---- in the browser


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[View, Path]:
    """Two models, four seeds."""
    folder = tmp_path_factory.mktemp("panel")
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")
    study = study_of(folder, text)
    cells = expand(study)
    store = fill(folder / "store", study, (*cells, *renamed(cells, "other")))
    view, path = make_view(store), folder / "page.html"
    path.write_text(page_of(view))
    return view, path


def page_of(view: View) -> str:
    """A page of this section alone; the whole report is tests/report/test_page_in_chromium.py's."""
    made = recommendation.section(view)
    assert made is not None
    return sections_page("small", "", (made,))


SET = """
const set = (name, value) => {
  const control = document.querySelector(`.panel [name=${name}]`);
  control.value = value;
  control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input"));
};
"""


@chromium
@pytest.mark.slow
def test_the_panels_choice_is_pythons_for_every_memory_and_tolerated_loss(
    browser: Any,
    stored: tuple[View, Path],
) -> None:
    view, path = stored
    show(browser, path, 1440)
    found = recommendation.compute(view)
    bounds = sorted({round(o.bound, 4) for r in found for o in r.options if o.bound})
    tolerances = [0, 0.02, *(b + s for b in bounds for s in (-1e-4, 1e-4)), 9]
    peaks = sorted({o.peak_bytes / 1e6 for r in found for o in r.options if o.peak_bytes})
    memories = ["", *(f"{p + s:.6f}" for p in peaks for s in (-0.001, 0.001)), "24000"]
    drawn = browser.execute_script(
        SET + "const [groups, tolerances, memories] = arguments;return groups.map((_, i) => {"
        " document.querySelector('.panel [name=group]').selectedIndex = i; return tolerances.map((t) =>"
        " memories.map((m) => {set('tolerated', t); set('size', m); return [document.querySelector('.panel .chosen"
        " th')?.textContent ?? null, document.querySelector('.panel .answer').textContent]; })); });",
        [r.name for r in found],
        tolerances,
        memories,
    )
    seen = set()
    for r, of_contest in zip(found, drawn, strict=True):
        for t, row in zip(tolerances, of_contest, strict=True):
            for m, (label, told) in zip(memories, row, strict=True):
                wanted = select(r.options, t, float(m) * 1e6 if m else None)
                assert label == (wanted and wanted.label), (t, m)
                assert (f": {label} (" in told) if label else "nothing is shown to be within" in told
                seen.add(label)
    assert len(seen) > 5
    assert browser.get_log("browser") == []


@chromium
def test_a_card_and_a_size_of_the_study_set_the_memory(browser: Any, stored: tuple[View, Path]) -> None:
    view, path = stored
    show(browser, path, 1440)
    panel = next(b for b in recommendation.section(view).blocks if isinstance(b, Panel))  # type: ignore[union-attr]
    r = recommendation.compute(view)[0]
    for title, sizes in (("In this study", panel.sizes), ("Cards", panel.cards)):
        for i, (name, size) in enumerate(sizes):
            label, told = browser.execute_script(
                SET + f"set('tolerated', 9); set('card', '{title} {i}'); return [document.querySelector('.panel .chosen"
                " th').textContent, document.querySelector('.panel .answer').textContent]"
            )
            assert told.startswith(f"Within {name}: ")
            assert label == select(r.options, 9, size).label  # type: ignore[union-attr]
    assert (
        browser.execute_script(SET + "set('card', 'none'); return document.querySelector('.panel [name=size]').value")
        == ""
    )
    assert browser.execute_script("return document.querySelector('.panel .answer').textContent").startswith(
        "With no memory limit: "
    )


@chromium
def test_the_panel_starts_at_the_studys_margin_with_pythons_choice_and_marks_rows_in_words(
    browser: Any,
    stored: tuple[View, Path],
) -> None:
    view, path = stored
    show(browser, path, 1440)
    r = recommendation.compute(view)[0]
    words = browser.execute_script(
        "return [...document.querySelectorAll('.panel tbody tr')].map(r => [r.cells[0].textContent,"
        " r.cells[1].textContent])"
    )
    assert r.chosen is not None
    assert dict(words)[r.chosen.label] == "chosen"
    assert {word for _, word in words} <= {
        "chosen",
        "good enough, not the least",
        "not shown to be good enough",
        "a higher rank is not shown to be good enough",
    }
    assert browser.execute_script("return document.querySelector('.panel [name=tolerated]').value") == "0.02"
    words = browser.execute_script(
        SET + "set('size', '0.001'); return [...document.querySelectorAll('.panel tbody tr')].map(r =>"
        " r.cells[1].textContent)"
    )
    assert set(words) == {"does not fit"}
    assert (
        browser.execute_script("return document.querySelector('.panel .answer').getAttribute('aria-live')") == "polite"
    )
    unlabelled = (
        "return [...document.querySelectorAll('.panel :is(input, select)')].filter(e => !e.ariaLabel &&"
        " !e.labels.length).length"
    )
    assert browser.execute_script(unlabelled) == 0


@chromium
def test_the_keyboard_moves_the_tolerated_loss(browser: Any, stored: tuple[View, Path]) -> None:
    from selenium.webdriver import ActionChains, Keys

    show(browser, stored[1], 1440)
    browser.execute_script("document.querySelector('.panel [name=range]').focus()")
    ActionChains(browser).send_keys(Keys.END).perform()
    amount = float(browser.execute_script("return document.querySelector('.panel [name=tolerated]').value"))
    assert amount > 0.02
    told = browser.execute_script("return document.querySelector('.panel .answer').textContent")
    assert f"by more than {amount:g} nats" in told
    ActionChains(browser).send_keys(Keys.HOME, Keys.TAB, "0", Keys.ARROW_LEFT, Keys.BACKSPACE).perform()
    assert browser.execute_script("return document.activeElement.name") == "tolerated"


@chromium
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_the_panel_fits_its_page_and_asks_for_nothing(
    browser: Any,
    stored: tuple[View, Path],
    width: int,
    dark: bool,
) -> None:
    path = stored[1]
    show(browser, path, width, dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wider = (
        "return [...document.querySelectorAll('.panel :is(svg, .controls *, .answer, .scroll, figcaption)')]"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).length"
    )
    assert browser.execute_script(wider) == 0
    assert browser.execute_script("return document.querySelectorAll('.panel svg circle').length") > 6
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert {u for u in urls if not u.startswith("data:")} == {path.as_uri()}


@chromium
def test_on_paper_the_panel_is_its_sentence_its_plane_and_its_rows(browser: Any, stored: tuple[View, Path]) -> None:
    show(browser, stored[1], 1440)
    emulate(browser, media="print")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 695, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    shown = (
        "return ['.controls', '.answer', '.plane svg', '.scroll'].map(s => document.querySelector('.panel ' +"
        " s).getBoundingClientRect()).map(r => [r.width > 0, r.right <= 695])"
    )
    assert browser.execute_script(shown) == [[False, True], [True, True], [True, True], [True, True]]


@chromium
def test_hostile_names_are_text_in_the_panel(browser: Any, tmp_path: Path) -> None:
    study = study_of(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]"))
    cells = expand(study)
    path = tmp_path / "page.html"
    path.write_text(page_of(make_view(fill(tmp_path / "s", study, (*cells, *renamed(cells, HOSTILE))))))
    show(browser, path, 390)
    assert browser.title == "small: lorabench report"
    assert browser.execute_script("return document.querySelectorAll('.panel :is(img, b)').length") == 0
    options = browser.execute_script(
        "return [...document.querySelectorAll('.panel [name=group] option')].map(o => o.textContent)"
    )
    assert any("<b>bold</b></script>" in o for o in options)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.get_log("browser") == []


@chromium
def test_without_a_script_the_sentence_stands_and_there_is_nothing_to_operate(
    browser: Any,
    stored: tuple[View, Path],
) -> None:
    view, path = stored
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, path, 390)
        shown = browser.find_element("css selector", "main").text
        assert all(sentence(r, LOSS) in shown for r in recommendation.compute(view))
        assert "switched off" in browser.find_element("css selector", ".panel").text
        assert browser.find_elements("css selector", "input, select, .panel svg") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
