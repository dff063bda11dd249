"""The sections that show what was learned, over stores whose surface is known, against sums by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy.linalg import subspace_angles

from lorabench.analysis import condition_spectra as of_conditions
from lorabench.analysis import spectra as analysed
from lorabench.analysis.rank_use import compute_beside_base
from lorabench.record.result import CellResult
from lorabench.record.spectrum import load_spectra, save_spectra
from lorabench.record.store import Store
from lorabench.report import quantization_repair_text, rank_use_text, truncation_text
from lorabench.report.blocks import Figure, Grid, Points, Section, Text
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw_choice
from lorabench.report.heatmaps import FEW, HeatMap, Plane, draw_heat
from lorabench.report.page import sections, write_report
from lorabench.report.style import palette
from lorabench.report.view import View, make_view
from lorabench.sections import (
    effective_rank,
    quantization_repair,
    rank_curve,
    rank_similarity,
    seed_similarity,
    spectra,
    truncation,
)
from tests import synthetic
from tests.report.stores import ONLY_FULL, STUDY, filled

NEW = (effective_rank, truncation, seed_similarity, quantization_repair)
FILES = ("spectra.safetensors", "directions.safetensors", "truncation.csv")


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("learned")))


def condition(view: View, label: str) -> str:
    return next(s.condition for s in view.analysis.summaries if s.label.text == label)


def cells(view: View, label: str) -> tuple[CellResult, ...]:
    return view.analysis.of_condition(condition(view, label))


def rewritten(store: Store, change: Callable[[Path], None]) -> View:
    for folder in sorted(store.cells_folder.iterdir()):
        change(folder)
    return make_view(store)


def raw(view: View, cell: CellResult) -> dict[str, np.ndarray]:
    """The singular values as they lie on disk."""
    return {k: v.astype(np.float64) for k, v in load_file(view.analysis.file(cell.cell.id, FILES[0])).items()}


def k_of(values: np.ndarray, share: float) -> int:
    kept = 0.0
    for k, sigma in enumerate(values, start=1):
        kept += sigma**2
        if kept >= share * float(np.sum(values**2)) - 1e-9:
            return k
    raise AssertionError


# spectra and learned rank


def test_a_field_of_the_heat_map_is_the_mean_energy_rank_of_its_module(view: View) -> None:
    info = effective_rank.compute_map(view)
    assert info is not None
    plane = info.planes[info.shown]
    assert plane.label == "LoRA r=16"
    assert plane.columns == ("0", "1", "2", "3")
    assert set(plane.rows) == {"self_attn.q_proj", "mlp.down_proj"}
    for kind, row in zip(plane.rows, plane.values, strict=True):
        for layer, shown in zip(plane.columns, row, strict=True):
            by_hand = [k_of(raw(view, c)[f"model.layers.{layer}.{kind}"], 0.9) for c in cells(view, "LoRA r=16")]
            assert shown == np.mean(by_hand)
    assert [p.label for p in info.planes] == [s.label.text for s in view.analysis.summaries if s.seeds]


def test_utilisation_is_the_entropy_rank_over_the_rank(view: View) -> None:
    used = effective_rank.compute(view)
    by_label = {u.label: u for u in used}
    ranks = []
    for cell in cells(view, "LoRA r=16"):
        shares = [v / v.sum() for v in raw(view, cell).values()]
        ranks.append(np.mean([np.exp(-np.sum(p * np.log(p))) for p in shares]))
    found = by_label["LoRA r=16"]
    assert found.entropy_rank.mean == pytest.approx(np.mean(ranks))
    assert found.energy_rank.mean == np.mean(
        [k_of(v, 0.9) for c in cells(view, "LoRA r=16") for v in raw(view, c).values()]
    )
    assert found.utilisation is not None
    assert found.utilisation.mean == pytest.approx(np.mean(ranks) / 16)
    assert found.utilisation.std == pytest.approx(abs(ranks[0] - ranks[1]) / 16 / np.sqrt(2))
    assert rank_use_text.sentence(found).startswith(
        f"LoRA r=16: at rank 16 the changes use {np.mean(ranks):.3g} of 16 (entropy rank); 90 % of their energy"
        " lies in "
    )
    assert "at rank" not in rank_use_text.sentence(by_label["full"])
    info = effective_rank.compute_curve(view, used)
    assert info is not None
    assert [line.label for line in info.lines] == ["LoRA", "LoRA nf4"]
    assert info.lines[0].x == (1.0, 4.0, 16.0)
    assert info.lines[0].y[0] == pytest.approx(100)  # rank 1 is always used whole
    assert info.lines[0].y[2] == pytest.approx(100 * np.mean(ranks) / 16)
    assert [level.label for level in info.levels] == ["full"]


def test_decay_by_type_is_the_known_surface_and_opens_with_the_highest_rank(view: View) -> None:
    info = spectra.compute_types(view)
    assert info is not None
    assert info.labels[info.shown] == "LoRA r=16"
    for line in info.drawings[info.shown].lines:
        at_two = [
            v[1] / v[0]
            for c in cells(view, "LoRA r=16")
            for name, v in raw(view, c).items()
            if name.endswith(line.label)
        ]
        assert len(at_two) == 8
        assert line.y[1] == pytest.approx(np.mean(at_two), rel=1e-3)
    q, down = (
        {line.label: line.y[-1] for line in info.drawings[info.shown].lines}[kind]
        for kind in ("self_attn.q_proj", "mlp.down_proj")
    )
    assert q < down  # the surface falls faster there
    styles = [{line.label: line.style for line in d.lines} for d in info.drawings]
    assert all(s == styles[0] for s in styles)


def test_long_decays_keep_their_first_and_last_point() -> None:
    line = spectra._thinned(
        Line("x", palette(1)[0], tuple(map(float, range(1, 513))), tuple(1 / i for i in range(1, 513)))
    )
    assert len(line.x) <= spectra.MOST_POINTS
    assert line.x[:8] == tuple(map(float, range(1, 9)))
    assert line.x[-1] == 512
    assert all(y == pytest.approx(1 / x, rel=1e-3) for x, y in zip(line.x, line.y, strict=True))


def test_the_table_beside_the_base_holds_means_of_the_norms(view: View) -> None:
    rows = {b.label: b for b in compute_beside_base(view.analysis)}
    found = [s for c in cells(view, "LoRA r=4") for s in load_spectra(view.analysis.file(c.cell.id, FILES[0]))]
    norms = [np.linalg.norm(v) for c in cells(view, "LoRA r=4") for v in raw(view, c).values()]
    row = rows["LoRA r=4"]
    assert row.relative_norm == pytest.approx(np.mean(norms) / synthetic.BASE_NORM)
    ratios = [np.linalg.norm(s.singular_values) / s.alignment.projected_norm for s in found if s.alignment]
    assert row.amplification == pytest.approx((np.median(ratios[:8]) + np.median(ratios[8:])) / 2)
    assert row.random == pytest.approx(np.mean([20 * 4 / 64, 20 * 4 / np.sqrt(64 * 256)]))
    assert row.intruders == pytest.approx((3 + 2 + 1 + 0) / 4)
    assert row.looked_at == 10
    made = effective_rank.section(view)
    assert made is not None
    grid = next(b for b in made.blocks if isinstance(b, Grid))
    assert grid.rows[2][0] == "LoRA r=4"
    assert grid.rows[2][6:] == ("1.5 of 10", "3.0 %")


# ± is one thing everywhere


def test_plus_minus_is_the_95_percent_half_width_of_the_mean_in_every_section(tmp_path: Path) -> None:
    """By scipy's t interval of the two seeds' values: 12.7 / sqrt(2) = 9 standard deviations."""
    from scipy import stats

    from lorabench.sections import learning_rates

    view = make_view(filled(tmp_path, STUDY.replace("learning_rate: 3e-3", "learning_rate: {tune: [1e-3, 3e-3]}")))

    def half(values: list[float]) -> float:
        return float(stats.t.ppf(0.975, 1) * stats.sem(values))

    used = {u.label: u.utilisation for u in effective_rank.compute(view)}["LoRA r=16"]
    assert used is not None and used.ci_half_width == pytest.approx(
        stats.t.ppf(0.975, 1) * (used.std or 0) / np.sqrt(2)
    )
    curve = effective_rank.compute_curve(view, effective_rank.compute(view))
    assert curve is not None
    assert curve.lines[0].error[-1] == pytest.approx(100 * used.ci_half_width)
    assert f"± {100 * used.ci_half_width:.1f} %" in "".join(
        effective_rank._curve(view, effective_rank.compute(view)).alternative
    )  # type: ignore[union-attr]

    cut = next(c for c in truncation.compute(view, "eval_loss") if c.label == "LoRA r=16" and c.allocation == "uniform")
    values = [
        float(r["value"])
        for c in cells(view, "LoRA r=16")
        for r in rows_of(view, c)
        if (r["allocation"], r["rank"], r["metric"]) == ("uniform", "4", "eval_loss")
    ]
    four = next(p for p in cut.points if p.rank == 4)
    assert four.value.ci_half_width == pytest.approx(half(values))
    assert f"{np.mean(values):.3f} ± {half(values):.3f}" in truncation_text.sentence(cut, "eval_loss")
    drawn = truncation.drawing(view, "eval_loss", (cut,))
    assert next(x for x in drawn.lines if x.label == "LoRA r=16, cut").error[2] == pytest.approx(half(values))

    tuned = view.analysis.tunings[0].results[0]
    assert tuned.ci_half_width == pytest.approx(half(list(tuned.losses)))
    assert learning_rates.drawing(view).lines[0].error[0] == tuned.ci_half_width
    assert f"± {tuned.ci_half_width:.3f}" in learning_rates.table(view).rows[0][1]
    captions = "".join(
        b.caption
        for m in (effective_rank, truncation, learning_rates)
        for b in m.section(view).blocks
        if isinstance(b, Figure)
    )  # type: ignore[union-attr]
    assert "standard deviation" not in captions
    assert captions.count("95 % interval") >= 4


def test_one_seed_has_no_bars(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]")))
    for cut in truncation.compute(view, "eval_loss"):
        assert "±" not in truncation_text.sentence(cut, "eval_loss")
    assert all(
        e is None
        for line in truncation.drawing(view, "eval_loss", truncation.compute(view, "eval_loss")).lines
        for e in line.error
    )


def test_no_section_says_standard_deviation() -> None:
    """Each would be a second meaning of ± and of bars."""
    package = Path(truncation.__file__).parents[1]
    for folder in ("sections", "report", "exporters"):
        for file in (package / folder).glob("*.py"):
            assert "standard deviation" not in file.read_text(encoding="utf-8"), file.name


# truncation


def rows_of(view: View, cell: CellResult) -> list[dict[str, str]]:
    with view.analysis.file(cell.cell.id, FILES[2]).open() as stream:
        return list(csv.DictReader(stream))


def test_a_cut_curve_holds_the_means_of_its_rows_and_ends_at_the_whole_change(view: View) -> None:
    cuts = {(c.label, c.allocation): c for c in truncation.compute(view, "eval_loss")}
    cut = cuts["LoRA r=16", "uniform"]
    assert [p.rank for p in cut.points] == [1, 2, 4, 8]
    for p in cut.points:
        values = [
            float(r["value"])
            for c in cells(view, "LoRA r=16")
            for r in rows_of(view, c)
            if r["allocation"] == "uniform" and int(r["rank"]) == p.rank and r["metric"] == "eval_loss"
        ]
        assert len(values) == 2
        assert p.value.mean == pytest.approx(np.mean(values))
        assert p.value.std == pytest.approx(np.std(values, ddof=1))
    assert ("LoRA r=1", "uniform") not in cuts  # there is nothing below rank 1
    assert ("base", "uniform") not in cuts
    assert [p.rank for p in cuts["full", "energy"].points] == [1, 2, 4, 8, 16, 32]
    assert cuts["full", "uniform"].whole is None
    info = truncation.drawing(view, "eval_loss", tuple(cuts.values()))
    line = next(x for x in info.lines if x.label == "LoRA r=16, cut")
    assert line.x[-1] == 16
    assert line.y[-1] == view.analysis.summary(condition(view, "LoRA r=16")).mean("eval_loss")


def test_a_cut_stands_beside_what_was_trained_at_its_rank(view: View) -> None:
    cut = next(c for c in truncation.compute(view, "eval_loss") if c.label == "LoRA r=16" and c.allocation == "uniform")
    four = next(p for p in cut.points if p.rank == 4)
    trained = {c.cell.seed: c.value("eval_loss") for c in cells(view, "LoRA r=4")}
    ours = {
        c.cell.seed: float(r["value"])
        for c in cells(view, "LoRA r=16")
        for r in rows_of(view, c)
        if (r["allocation"], r["rank"], r["metric"]) == ("uniform", "4", "eval_loss")
    }
    assert four.trained is not None
    assert four.trained.mean == pytest.approx(np.mean([v for v in trained.values() if v is not None]))
    assert (four.ahead, four.pairs) == (sum(ours[s] < (trained[s] or 0) for s in ours), 2)
    assert next(p for p in cut.points if p.rank == 2).trained is None  # nobody trained that rank
    accuracy = next(
        c
        for c in truncation.compute(view, "python-docs-cloze/acc")
        if c.label == "LoRA r=16" and c.allocation == "uniform"
    )
    assert next(p for p in accuracy.points if p.rank == 4).ahead == four.ahead  # higher is better there
    said = truncation_text.sentence(cut, "eval_loss")
    assert f"trained at 4 {four.trained.mean:.3f}" in said
    assert f"(the cut one is better in {four.ahead} of 2 seeds)" in said


def test_a_cut_to_the_own_rank_is_not_compared_with_itself(tmp_path: Path) -> None:
    def add_whole(folder: Path) -> None:
        path = folder / FILES[2]
        if path.is_file():
            lines = path.read_text().splitlines()
            path.write_text("\n".join([*lines, "uniform,16,1,1.0,eval_loss,2.5,,"]) + "\n")

    view = rewritten(filled(tmp_path), add_whole)
    cut = next(c for c in truncation.compute(view, "eval_loss") if c.label == "LoRA r=16" and c.allocation == "uniform")
    assert cut.points[-1].rank == 16
    assert cut.points[-1].trained is None
    line = next(x for x in truncation.drawing(view, "eval_loss", (cut,)).lines if "cut" in x.label)
    assert line.x.count(16.0) == 1


def test_the_trained_ranks_are_those_of_the_rank_curve_and_far_levels_are_told_not_drawn(view: View) -> None:
    cuts = truncation.compute(view, "eval_loss")
    info, curve = truncation.drawing(view, "eval_loss", cuts), rank_curve.compute(view, "eval_loss")
    assert curve is not None
    assert [(x.label.partition(",")[0], x.x, x.y) for x in info.lines[:2]] == [(x.label, x.x, x.y) for x in curve.lines]
    assert [level.label for level in info.levels] == ["full"]
    made = truncation.section(view)
    assert made is not None
    captions = [b.caption for b in made.blocks if isinstance(b, Figure)]
    assert len(captions) == 2
    assert captions[0].endswith("Too far away to be drawn: base at 3.200.")
    assert "runs below the trained one" in captions[0]
    assert "runs above the trained one" in captions[1]


def test_the_first_truncation_figure_is_of_the_studys_own_metric(tmp_path: Path) -> None:
    for chosen, first in (("python-docs-cloze/acc", "python-docs-cloze accuracy"), ("eval_loss", "held-out loss")):
        made = truncation.section(
            make_view(filled(tmp_path / chosen.partition("/")[0], STUDY + f"comparison: {{metric: {chosen}}}\n"))
        )
        assert made is not None
        assert next(b.title for b in made.blocks if isinstance(b, Figure)) == f"{first} against truncated rank"
        assert len(made.blocks) == 2


def test_many_cut_curves_become_the_highest_rank_of_each_family(view: View) -> None:
    cuts = truncation.compute(view, "eval_loss")
    assert len(cuts) > truncation.MOST_LINES
    assert {c.label for c in truncation.shown(view, cuts)} == {"LoRA r=16", "LoRA r=16 nf4", "full"}
    assert truncation.shown(view, cuts[:3]) == cuts[:3]
    many = tuple(replace(c, label=str(i)) for c in truncation.shown(view, cuts) for i in range(2))
    assert {c.allocation for c in truncation.shown(view, many)} == {"uniform"}


# similarity between seeds


def test_similarity_between_seeds_is_that_of_the_stored_subspaces(view: View) -> None:
    found = {s.label: s for s in seed_similarity.compute(view)}
    one, two = (load_file(view.analysis.file(c.cell.id, FILES[1])) for c in cells(view, "LoRA r=16"))
    for side, similarity, sides in (
        ("right", found["LoRA r=16"].right, (64, 256)),
        ("left", found["LoRA r=16"].left, (64, 64)),
    ):
        names = [n for n in one if n.endswith(side)]
        assert len(names) == 8
        for k in (1, 4, 8):
            angles = [
                np.cos(subspace_angles(one[n][:, :k].astype(float), two[n][:, :k].astype(float))) ** 2 for n in names
            ]
            assert similarity.diagonal[k - 1] == pytest.approx(np.mean([a.sum() / k for a in angles]), abs=1e-3)
        assert similarity.random == pytest.approx(np.mean([1 / n for n in sides]))
    expected = synthetic.SHARED**2 + (1 - synthetic.SHARED) ** 2 * 8 * np.mean([1 / 56, 1 / 248])
    assert found["LoRA r=16"].right.diagonal[7] == pytest.approx(expected, abs=0.02)


def test_a_rank_stops_where_it_ends_and_one_seed_shows_nothing(view: View, tmp_path: Path) -> None:
    found = seed_similarity.compute(view)
    assert {s.label: len(s.right.phi) for s in found} == {
        f"LoRA r={r}{q}": min(r, 8) for r in (1, 4, 16) for q in ("", " nf4")
    } | {"full": 8}
    info = seed_similarity.drawing(view, found)
    assert info.lines[-1].label == "random subspaces"
    assert info.lines[-1].y[3] == pytest.approx(4 * (1 / 64 + 1 / 256) / 2)
    alone = make_view(filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]")))
    assert seed_similarity.section(alone) is None
    assert truncation.section(alone) is not None


def test_the_map_shows_both_sides_of_the_highest_rank_symmetric(view: View) -> None:
    one = seed_similarity.chosen(view, seed_similarity.compute(view))
    info = seed_similarity.compute_map(one)
    assert one.label == "LoRA r=16"
    assert [p.label for p in info.planes] == ["right side", "left side"]
    values = np.array(info.planes[0].values, dtype=float)
    assert values == pytest.approx(values.T)
    assert values.diagonal() == pytest.approx(one.right.diagonal)


# repair of the quantization


def test_repair_is_the_mean_over_modules_and_seeds(view: View) -> None:
    found = {r.label: r for r in quantization_repair.compute(view)}
    assert set(found) == {"LoRA r=1 nf4", "LoRA r=4 nf4", "LoRA r=16 nf4"}
    shares = []
    for cell in cells(view, "LoRA r=4 nf4"):
        with safe_open(view.analysis.file(cell.cell.id, FILES[0]), framework="numpy") as file:
            shares += [m["repair"]["repaired_share"] for m in json.loads(file.metadata()["modules"]).values()]
    assert len(shares) == 16
    assert found["LoRA r=4 nf4"].repaired.mean == pytest.approx(np.mean(shares))
    assert found["LoRA r=4 nf4"].cosine.mean == pytest.approx(synthetic.REPAIR_COSINE)
    error = found["LoRA r=4 nf4"].error
    assert error is not None
    assert error.mean == pytest.approx(synthetic.ERROR["nf4"])


def test_the_answer_follows_the_numbers(view: View, tmp_path: Path) -> None:
    found = quantization_repair.compute(view)
    said = quantization_repair_text.answer(found)
    top = max(found, key=lambda r: r.repaired.mean)
    assert said.startswith(
        "Does the adapter repair the quantization? No. In 3 of 3 conditions the trained weights lie no nearer"
    )
    assert f"with {top.label}, the nearest, the squared error grew by {-100 * top.repaired.mean:.0f} %" in said

    def repairs(folder: Path) -> None:
        path = folder / FILES[0]
        if path.is_file():
            kept = load_spectra(path)
            save_spectra(
                path,
                [
                    (
                        replace(s, repair=replace(s.repair, cosine=0.9, repaired_share=0.3 if s.rank == 4 else -0.1))
                        if s.repair
                        else s
                    )
                    for s in kept
                ],
            )

    other = quantization_repair.compute(rewritten(filled(tmp_path), repairs))
    said = quantization_repair_text.answer(other)
    assert "No." not in said
    assert "In 1 of 3 conditions" in said
    assert (
        "most with LoRA r=4 nf4, which takes away 30 % of the squared error, of 9.4 % that a change of its rank could"
        " (cosine with −E 0.900)" in said
    )


# the whole page


def test_no_section_without_its_files_and_damaged_files_are_left_out(tmp_path: Path) -> None:
    def drop(folder: Path) -> None:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)

    bare = rewritten(filled(tmp_path / "bare"), drop)
    assert [m.section(bare) for m in (*NEW, spectra)] == [None] * 5

    def damage(folder: Path) -> None:
        for name in FILES:
            if (folder / name).is_file():
                (folder / name).write_bytes(b"\x00\xff")

    assert [m.section(rewritten(filled(tmp_path / "bad"), damage)) for m in (*NEW, spectra)] == [None] * 5


def test_spectra_of_an_older_version_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    def strip(folder: Path) -> None:
        if (folder / FILES[0]).is_file():
            save_file(load_file(folder / FILES[0]), folder / FILES[0])

    view = rewritten(filled(tmp_path), strip)
    assert spectra.compute(view) is not None
    assert effective_rank.compute_map(view) is not None
    assert all(u.utilisation is None for u in effective_rank.compute(view))
    assert effective_rank.compute_curve(view, effective_rank.compute(view)) is None
    assert compute_beside_base(view.analysis) == ()
    assert quantization_repair.section(view) is None


def test_each_file_is_read_once_for_a_whole_report_and_directions_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorabench.analysis import spectra as files

    reads: list[Path] = []

    def counted(true: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda path: reads.append(path) or true(path)

    for name in ("load_spectra", "load_directions", "load_truncations"):
        monkeypatch.setattr(files, name, counted(getattr(files, name)))
    store = filled(tmp_path)
    write_report(store, tmp_path / "r.html")
    kept = [p for p in reads if p.name != "directions.safetensors"]
    assert len(kept) == len(set(kept))
    assert len(set(reads)) == sum(p.name in FILES for p in store.cells_folder.rglob("*"))
    assert max(reads.count(p) for p in reads) == 2, "once between seeds, once between ranks"


def test_what_did_not_finish_is_not_averaged_in(tmp_path: Path) -> None:
    def fail_seed_1(result: CellResult) -> CellResult:
        return result.model_copy(update={"outcome": "failed"}) if result.cell.seed == 1 else result

    view = make_view(filled(tmp_path, change=fail_seed_1))
    assert all(u.entropy_rank.n == 1 for u in effective_rank.compute(view))
    assert seed_similarity.compute(view) == ()


def test_every_new_figure_says_its_numbers_in_words(view: View) -> None:
    titles = {m.TITLE for m in NEW}
    made = [s for s in sections(view) if s.title in titles]
    assert [s.title for s in made] == [m.TITLE for m in NEW]
    for s in made:
        assert isinstance(s, Section)
        assert all(isinstance(b, Figure | Grid | Points | Text) for b in s.blocks)
        assert all(b.caption and b.alternative and all(b.alternative) for b in s.blocks if isinstance(b, Figure))
    assert of_conditions.highest(view.analysis, [s.condition for s in view.analysis.summaries]) == condition(
        view, "LoRA r=16"
    )
    assert {
        view.analysis.label(c)
        for c in of_conditions.tops(view.analysis, [s.condition for s in view.analysis.summaries])
    } == {
        "LoRA r=16",
        "LoRA r=16 nf4",
        "full",
        "base",
    }


# menus and heat maps


def test_a_menu_entry_holds_a_value_for_every_trace_and_names_stay_text() -> None:
    a, b, c = palette(3)
    axis = Axis("x")
    first = Drawing(axis, axis, (Line("q", a, (1.0,), (2.0,)), Line("k", b, (1.0,), (3.0,))))
    second = Drawing(axis, axis, (Line("k", b, (1.0, 2.0), (4.0, 5.0)), Line("v", c, (1.0,), (6.0,))), mode="markers")
    plot = json.loads(draw_choice(("<b>one", "x" * 90), (first, second), 0).to_json())
    assert [t["name"] for t in plot["data"]] == ["q", "k", "v"]
    assert [t.get("showlegend", True) for t in plot["data"]] == [True, True, False]
    menu = plot["layout"]["updatemenus"][0]
    assert menu["active"] == 0
    assert menu["buttons"][0]["label"] == "&lt;b&gt;one"
    assert len(menu["buttons"][1]["label"]) == 40
    chosen = menu["buttons"][1]["args"][0]
    assert chosen == {
        "x": [[], [1.0, 2.0], [1.0]],
        "y": [[], [4.0, 5.0], [6.0]],
        "mode": ["markers"] * 3,
        "showlegend": [False, True, True],
    }


def test_a_heat_map_shows_its_numbers_only_while_they_have_room() -> None:
    small = Plane("a", ("0", "1"), ("<i>q", "k"), ((1.0, None), (2.5, 10.4)))
    plot = json.loads(draw_heat(HeatMap("layer", "type", "k", (small,))).to_json())
    trace = plot["data"][0]
    assert trace["z"] == [[1.0, None], [2.5, 10.4]]
    assert trace["text"] == [["1", ""], ["2.5", "10"]]
    assert trace["y"] == ["&lt;i&gt;q", "k"]
    assert "updatemenus" not in plot["layout"]
    wide = Plane("b", tuple(map(str, range(FEW + 1))), ("q",), ((1.0,) * (FEW + 1),))
    assert json.loads(draw_heat(HeatMap("layer", "type", "k", (wide,))).to_json())["data"][0]["text"] == [
        [""] * (FEW + 1)
    ]
    both = json.loads(draw_heat(HeatMap("layer", "type", "k", (small, wide), shown=1)).to_json())
    assert both["data"][0]["name"] == "b"
    assert [b["args"][0]["name"] for b in both["layout"]["updatemenus"][0]["buttons"]] == [["a"], ["b"]]


def test_a_rank_that_learned_the_same_directions_lies_within_the_higher_one(tmp_path: Path) -> None:
    """The synthetic executor's seeds share a part of every direction, whatever the rank: phi is SHARED^2 and what
    chance adds."""
    view = make_view(filled(tmp_path))
    found = rank_similarity.compute(view)
    assert [(r.family, r.low, r.high) for r in found] == [
        ("LoRA", 1, 4),
        ("LoRA", 4, 16),
        ("LoRA nf4", 1, 4),
        ("LoRA nf4", 4, 16),
    ]
    wide = found[1]
    assert (len(wide.right.phi), len(wide.right.phi[0])) == (4, 8)
    assert wide.right.pairs == 2
    one, other = (
        of_conditions.directions_by_seed(view.analysis, view.analysis.summaries[i].condition)[0] for i in (2, 4)
    )
    name = next(iter(one))
    by_hand = (
        np.linalg.norm(
            np.linalg.qr(one[name].right.astype(float)).Q.T @ np.linalg.qr(other[name].right.astype(float)).Q
        )
        ** 2
        / 4
    )
    alone = analysed.rank_similarity([({name: one[name]}, {name: other[name]})], "right", 8)
    assert alone is not None
    assert alone.phi[3][7] == pytest.approx(by_hand, abs=1e-6)
    same = analysed.rank_similarity([(one, one)], "left", 8)
    assert same is not None
    assert same.phi[0][3] == pytest.approx(1, abs=1e-3)
    heat = rank_similarity.compute_map(wide)
    assert (len(heat.planes[0].rows), len(heat.planes[0].columns)) == (4, 8)
    assert rank_similarity.section(view) is not None
    assert rank_similarity.section(make_view(filled(tmp_path / "one", ONLY_FULL))) is None


@pytest.mark.parametrize(
    ("wanted", "words"), [("none", "was not decomposed"), ("values", "Singular values alone were kept")]
)
def test_a_study_that_asked_for_less_is_told_what_is_missing(tmp_path: Path, wanted: str, words: str) -> None:
    view = make_view(store := filled(tmp_path, STUDY + f"analysis: {{spectra: {wanted}}}\n"))
    made = spectra.section(view)
    assert made is not None and words in next(b.text for b in made.blocks if isinstance(b, Text))
    assert (
        seed_similarity.section(view) is None
        and rank_similarity.section(view) is None
        and quantization_repair.section(view) is None
    )
    assert (effective_rank.section(view) is None) == (wanted == "none")
    assert view.findings is not None and sections(view)
    assert write_report(store, tmp_path / "report.html").stat().st_size > 1000
