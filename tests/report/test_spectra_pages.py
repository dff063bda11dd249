"""The sections on spectra as a whole page: what is read, left out and said in words; menus and heat maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from lorabench.analysis import condition_spectra as of_conditions
from lorabench.analysis.rank_use import compute_beside_base
from lorabench.record.result import CellResult
from lorabench.report.blocks import Figure, Grid, Points, Section, Text
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw_choice
from lorabench.report.heatmaps import FEW, HeatMap, Plane, draw_heat
from lorabench.report.page import sections, write_report
from lorabench.report.style import palette
from lorabench.report.view import View, make_view
from lorabench.sections import effective_rank, quantization_repair, seed_similarity, spectra
from tests.report.learned import FILES, NEW, condition, rewritten
from tests.report.stores import filled


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("learned")))


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
