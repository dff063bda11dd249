"""The report page: whole, repeatable, without torch, and deaf to hostile names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from lorabench import formatting, plugins
from lorabench.config import expand
from lorabench.record.result import CellResult, Fault
from lorabench.report import answer_text, predicted_memory_text
from lorabench.report.blocks import Figure, Grid, Points, Section, Text
from lorabench.report.page import sections, table_page, whole_numbers, write_report
from lorabench.report.table_model import Column, Table, TableRow, Value
from lorabench.report.view import View, make_view
from lorabench.sections import accuracy_memory, answer, predicted_memory, rank_curve, spectra, training_curves
from tests.report.stores import ONLY_FULL, STUDY, fill, filled, renamed, study_of

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><script>alert(1)</script><b>x"


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("view")))


def figures_in(page: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert match
    found = json.loads(match[1])
    assert isinstance(found, dict)
    return found


def test_the_light_arm_leaves_torch_alone() -> None:
    code = (
        "import sys, lorabench.report.page, lorabench.report.tables, tests.synthetic\n"
        "from lorabench import plugins\n"
        "for kind in ('sections', 'exporters'):\n"
        "    for name in plugins.names(kind): plugins.load(kind, name)\n"
        "bad = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("folder", ["analysis", "report", "sections", "exporters"])
def test_imports_run_one_way(folder: str) -> None:
    above = {"analysis": ("report", "sections", "exporters"), "report": ("sections", "exporters")}.get(folder, ())
    heavy = ("engine", "run", "memory", "spectra", "methods", "quantizations", "tasks", "executors", "cli")
    for file in (ROOT / "lorabench" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not any(module.startswith(f"lorabench.{bad}") for bad in (*above, *heavy)), (file.name, module)


def test_a_rebuilt_report_is_the_same_but_for_its_date(tmp_path: Path) -> None:
    store = filled(tmp_path)
    first, second, later = (
        write_report(store, tmp_path / f"{i}.html", today=date(2026, 1, i)).read_bytes() for i in (1, 1, 2)
    )
    assert first == second
    assert first != later
    assert first.replace(b"2026-01-01", b"") == later.replace(b"2026-01-02", b"")


def test_every_section_plugin_keeps_its_contract(view: View) -> None:
    for name in plugins.names("sections"):
        module = plugins.load("sections", name)
        made = module.section(view)
        assert isinstance(module.ORDER, int)
        assert isinstance(module.TITLE, str)
        assert made is None or isinstance(made, Section)
        for block in made.blocks if made else ():
            if isinstance(block, Figure):
                assert block.caption
                assert block.alternative
                axes = [block.plot.layout[name] for name in ("xaxis", "yaxis")]
                assert all(
                    axis.title.text or axis.type == "category" for axis in axes
                )  # names need no title, numbers do
    names = [b.name for s in sections(view) for b in s.blocks if isinstance(b, Figure)]
    assert len(names) == len(set(names)) > 0


def test_the_page_asks_for_nothing_and_holds_plotly_once(tmp_path: Path) -> None:
    text = write_report(filled(tmp_path), tmp_path / "r.html").read_text()
    assert text.count("* plotly.js v") == 1
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(https?:|//)", text)


def test_a_tables_raw_values_stand_beside_what_people_read() -> None:
    columns = (
        Column("condition", "condition", align="left"),
        Column("loss", "loss", "nats", importance=8),
        Column("other", "other"),
    )
    values = (Value('<b>"x"'), Value(0.1 + 0.2), None)
    text = table_page(Table("one", columns, (TableRow("c", ("id",), values),)))
    assert '<td class="right" data-value="0.30000000000000004">0.300</td>' in text
    assert f'<td class="right" data-value="">{formatting.DASH}</td>' in text
    assert 'data-importance="8"' in text
    assert "&lt;b&gt;&#34;x&#34;" in text
    assert "<script" not in text
    assert "script-src" not in text  # so that default-src 'none' forbids any


def test_hostile_names_stay_text_in_page_and_figures(tmp_path: Path) -> None:
    study = study_of(tmp_path).model_copy(update={"question": HOSTILE})
    cells = expand(study)
    text = write_report(
        fill(tmp_path / "s", study, (*cells, *renamed(cells, HOSTILE))), tmp_path / "r.html"
    ).read_text()
    assert "<script>alert" not in text
    assert "<b>x" not in text
    assert text.count("<script") - text.count('"<script') >= 3
    assert "&lt;script&gt;alert(1)" in text
    names = [t["name"] for f in figures_in(text).values() for t in f["data"]]  # type: ignore[index]
    assert any("&lt;/script&gt;" in n for n in names)
    assert not any("<" in n for n in names)


def test_an_answer_is_built_from_its_comparison(view: View) -> None:
    c = next(
        c
        for c in view.analysis.comparisons
        if c.metric == "eval_loss" and view.analysis.label(c.condition) == "LoRA r=16"
    )
    said = answer_text.sentence(view, c)
    assert said.startswith(
        f"LoRA r=16 ends {c.difference:.3f} nats above full in held-out loss (95 % interval {c.low:.3f} to"
        f" {c.high:.3f}, 2 seeds): "
    )
    assert c.verdict in said


def test_what_the_data_do_not_decide_is_called_not_decisive(tmp_path: Path) -> None:
    one = make_view(filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]")))
    made = answer.section(one)
    assert made is not None
    assert [b.text.split(":")[0] for b in made.blocks if isinstance(b, Text) and b.tone == "lead"] == ["Not decisive"]
    sentences = [s for b in made.blocks if isinstance(b, Points) and b.title for s in b.items]
    assert len(sentences) == 18  # six conditions in loss, accuracy and forgetting
    assert all("not decisive" in s for s in sentences)


def test_figures_show_the_means(view: View) -> None:
    info = rank_curve.compute(view, "eval_loss")
    assert info is not None
    assert [line.label for line in info.lines] == ["LoRA", "LoRA nf4"]
    assert info.lines[0].x == (1.0, 4.0, 16.0)
    assert [level.label for level in info.levels] == ["full", "base"]
    assert info.lines[1].y == tuple(view.analysis.summaries[i].mean("eval_loss") for i in (1, 3, 5))
    memory = accuracy_memory.compute(view)
    assert memory is not None
    assert len(memory) == 7
    curves = training_curves.compute(view)
    assert curves is not None
    assert all(line.x[0] == 1 and line.x[-1] == 40 for line in curves.lines)
    decay = spectra.compute(view)
    assert decay is not None
    assert all(line.y[0] == pytest.approx(1) for line in decay.lines)


def test_a_condition_has_one_colour_in_all_figures(view: View) -> None:
    colours: dict[str, set[str]] = {}
    for info in (
        accuracy_memory.drawing(view, accuracy_memory.compute(view)),
        training_curves.compute(view),
        spectra.compute(view),
    ):
        assert info is not None
        for line in info.lines:
            colours.setdefault(line.label, set()).add(line.style.colour)
    assert all(len(c) == 1 for c in colours.values())
    assert colours["LoRA r=1"] == colours["LoRA r=16"] != colours["LoRA r=1 nf4"]


def test_long_curves_are_thinned_to_means(tmp_path: Path) -> None:
    made = training_curves.compute(make_view(filled(tmp_path, ONLY_FULL.replace("steps: 4", "steps: 1001"))))
    assert made is not None
    assert len(made.lines[0].x) == training_curves.MOST_POINTS


def test_a_store_without_results_or_with_damaged_files_still_gives_a_page(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    empty = fill(tmp_path / "empty", study, expand(study), lambda r: None)
    assert "No cell has finished" in write_report(empty, tmp_path / "a.html").read_text()
    store = filled(tmp_path / "b")
    for path in store.cells_folder.glob("*/*"):
        if path.suffix in (".csv", ".safetensors"):
            path.write_bytes(b"\x00\xff")
    assert write_report(store, tmp_path / "b.html").is_file()


def test_a_diverged_curve_does_not_press_the_others_flat(tmp_path: Path) -> None:
    text = STUDY.replace("  quantization: [none, nf4]\n", "  training.learning_rate: [3e-3, 2.0]\n")
    info = training_curves.compute(make_view(filled(tmp_path, text)))
    assert info is not None
    assert info.y.span is not None
    assert info.y.span[1] < 4 < max(max(line.y) for line in info.lines)


def test_predicted_memory_stands_beside_the_measured_with_its_error(view: View) -> None:
    by_label = {p.label: p for p in predicted_memory.compute(view)}
    assert set(by_label) == {
        s.label.text for s in view.analysis.summaries if s.seeds
    }  # the untouched base trains nothing
    assert by_label["full"].error == pytest.approx(1, abs=0.01)
    quantized = [p for name, p in by_label.items() if "nf4" in name]
    assert len(quantized) == 3
    assert all(p.error == pytest.approx(-2, abs=0.01) for p in quantized)
    said = predicted_memory_text.sentence(tuple(by_label.values()))
    assert said.startswith("Over 7 conditions the prediction is off by 1.0 % in the median, by 2.0 % at most (")


def test_what_was_skipped_is_shown_with_its_prediction(tmp_path: Path) -> None:
    def skip_rank_16(result: CellResult) -> CellResult:
        if result.cell.method.rank != 16:
            return result
        fault = Fault(kind="Infeasible", message="not run: it is predicted not to fit into memory")
        kept = tuple(r for r in result.readings if r.metric == "predicted_train_peak_bytes")
        return result.model_copy(update={"outcome": "skipped", "error": fault, "readings": kept})

    view = make_view(filled(tmp_path, change=skip_rank_16))
    shown = next(s for s in sections(view) if s.title == predicted_memory.TITLE)
    grid = next(b for b in shown.blocks if isinstance(b, Grid))
    hit = [row for row in grid.rows if "r=16" in row[0]]
    assert [row[2:] for row in hit] == [("–", "skipped: would not fit (2 of 2)")] * 2
    assert any(f.kind == "skipped" for f in view.findings)
    assert next(s for s in view.analysis.summaries if "r=16" in s.label.text).outcomes.skipped == 2


def test_a_line_does_not_end_within_a_number() -> None:
    """Browsers break after a hyphen: 3e-05 is kept whole, and what is escaped stays so."""
    assert whole_numbers("<b> −2e-05 to 3e-05, one-sided") == (
        '&lt;b&gt; <span class="number">−2e-05</span> to <span class="number">3e-05</span>, one-sided'
    )
