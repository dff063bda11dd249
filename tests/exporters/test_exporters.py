"""Each format shows the same table and takes no name for markup."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lorabench import plugins
from lorabench.exporters import csv as csv_export
from lorabench.exporters import latex, md
from lorabench.report.table_model import Column, Table, TableRow, Value
from lorabench.report.tables import study_table
from tests.report.stores import filled

NAMES = (
    "<script>alert(1)</script>",
    "a_b & c%",
    "x|y",
    "=cmd",
    "*star* [link](http://x) `code`",
    "[1] \\ {x} ~ ^ $y$ #",
    "two\nlines",
    "@SUM(A1)",
)


def table_of_names() -> Table:
    columns = (
        Column("condition", "condition", align="left"),
        Column("eval_loss", "held-out loss", "nats", "lower", spread=True),
    )
    rows = tuple(
        TableRow(
            f"c{i}",
            (f"id{i}",),
            (Value(name), Value(2.5 + i, std=0.05, low=2.4 + i, high=2.6 + i, ci_half_width=0.1, best=i == 0)),
        )
        for i, name in enumerate(NAMES)
    )
    return Table("odd & names", columns, rows, ("a note with <i> & 5 %",))


@pytest.mark.parametrize("name", plugins.names("exporters"))
def test_every_exporter_keeps_its_contract(name: str, tmp_path: Path) -> None:
    module = plugins.load("exporters", name)
    text = module.export(study_table(filled(tmp_path)))
    assert isinstance(module.EXTENSION, str)
    assert plugins.describe("exporters", name)
    assert text.endswith("\n")
    assert "LoRA r=16 nf4" in text
    assert text == module.export(study_table(filled(tmp_path / "again")))


def test_markdown_renders_names_as_text() -> None:
    html = MarkdownIt("gfm-like", {"linkify": False}).render(md.export(table_of_names()))
    cells = [re.sub(r"&lt;", "<", c) for c in re.findall(r'<td style="text-align:left">(.*?)</td>', html)]
    shown = [c.replace("&gt;", ">").replace("&amp;", "&").replace("&quot;", '"') for c in cells]
    assert shown == [n.replace("\n", " ") for n in NAMES]
    assert html.count("<strong>") == 1
    assert "<script" not in html


def test_latex_escapes_every_special_character() -> None:
    text = latex.export(table_of_names())
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(NAMES)
    assert all(len(re.findall(r"(?<!\\)&", line)) == 1 for line in body)
    assert r"a\_b \& c\%" in text
    assert r"x\textbar{}y" in text
    assert r"\textless{}script\textgreater{}" in text
    assert r"{[}1] \textbackslash{} \{x\} \textasciitilde{} \textasciicircum{} \$y\$ \#" in text
    assert r"\textbf{2.500 $\pm$ 0.100}" in text
    assert r"\toprule" in text


def test_csv_holds_raw_numbers_and_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_export.export(table_of_names()))))
    assert list(rows[0]) == [
        "condition",
        "eval_loss_nats",
        "eval_loss_nats_std",
        "eval_loss_nats_low",
        "eval_loss_nats_high",
        "condition_id",
        "cells",
    ]
    assert [r["condition"] for r in rows][:4] == ["<script>alert(1)</script>", "a_b & c%", "x|y", "'=cmd"]
    assert rows[-1]["condition"] == "'@SUM(A1)"
    assert [float(r["eval_loss_nats"]) for r in rows] == [2.5 + i for i in range(len(NAMES))]


def test_csv_names_units_spreads_and_intervals(tmp_path: Path) -> None:
    table = study_table(filled(tmp_path))
    rows = list(csv.DictReader(io.StringIO(csv_export.export(table))))
    for wanted in (
        "train_peak_bytes",
        "eval_loss_nats_std",
        "eval_loss_difference_nats_low",
        "eval_loss_difference_nats_high",
        "tokens_per_second",
    ):
        assert wanted in rows[0]
    assert rows[7]["train_peak_bytes"] == ""
    assert rows[0]["cells"].split() == list(table.rows[0].cells)
    exact = table.rows[0].values[[c.key for c in table.columns].index("eval_loss")]
    assert exact is not None
    assert float(rows[0]["eval_loss_nats"]) == exact.value


def test_html_page_has_no_script_and_shows_names_as_text() -> None:
    text = plugins.load("exporters", "html").export(table_of_names())
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<strong>2.500</strong>" in text
