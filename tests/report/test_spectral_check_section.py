"""What spectra and cuts say beside a recommendation: for the choice, for less, for more, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorabench.advice import spectral_check as second
from lorabench.advice.spectral_check import LearnedRank, SpectralCheck, least_cut
from lorabench.record.spectrum import Spectrum, save_spectra
from lorabench.report.recommendation_text import Recommended
from lorabench.report.view import View, make_view
from lorabench.sections import recommendation
from tests.report.stores import filled


def only(view: View) -> Recommended:
    (found,) = recommendation.compute(view)
    return found


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
