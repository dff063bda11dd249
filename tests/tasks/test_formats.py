"""Claims about what files are by their content: every way in which the same rows are written gives the same rows, and
what is no data file is named.
"""

import bz2
import csv
import gzip
import json
import lzma
import pickle
import sqlite3
import zipfile

import pandas as pd
import pytest
from pydantic import ValidationError

from lorabench.engine.data_files import read_text
from lorabench.errors import DataError
from lorabench.tasks import instruct, text
from lorabench.tasks._formats import read_table
from lorabench.tasks._rows import file_format

ROWS = [{"question": f"What is {i}; and {i}|{i}?", "answer": f'It is "{2 * i}", né.'} for i in range(12)]
FRAME = pd.DataFrame(ROWS)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def table(file, **options):
    made = instruct.Options(train=file, **options)
    return read_table(file, file_format(made, file), made.separator, made.columns)


SAME = {
    "lines.jsonl": LINES,
    "crlf.jsonl": LINES.replace("\n", "\r\n"),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "list.json": json.dumps(ROWS),
    "list_in.jsonl": "[\n" + ",\n".join(json.dumps(r) for r in ROWS) + "\n]\n",
    "indented.json": json.dumps(ROWS, indent=2),
    "within.json": json.dumps({"version": "1.1", "data": ROWS}, indent=1),
    "within_line.json": json.dumps({"data": ROWS}),
    "hub.json": json.dumps(
        {
            "features": [{"name": "question"}],
            "rows": [{"row_idx": i, "row": r, "truncated_cells": []} for i, r in enumerate(ROWS)],
        }
    ),
    "one_after_other.json": "\n".join(json.dumps(r, indent=2) for r in ROWS),
    "glued.json": "".join(json.dumps(r) for r in ROWS),
    "columns.json": json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]}),
    "pandas.json": FRAME.to_json(),
    "pandas_index.json": FRAME.to_json(orient="index"),
    "pandas_split.json": FRAME.to_json(orient="split"),
    "comma.csv": FRAME.to_csv(index=False),
    "semicolon.csv": FRAME.to_csv(index=False, sep=";"),
    "tab.csv": FRAME.to_csv(index=False, sep="\t"),
    "bar.csv": FRAME.to_csv(index=False, sep="|"),
    "excel.csv": "sep=;\r\n" + FRAME.to_csv(index=False, sep=";"),
    "pandas_index.csv": FRAME.to_csv(),
    "trailing.csv": FRAME.assign(**{"": ""}).to_csv(index=False),
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "gzip_without_its_name.jsonl": gzip.compress(LINES.encode()),
    "lines.jsonl.bz2": bz2.compress(LINES.encode()),
    "lines.json.xz": lzma.compress(LINES.encode()),
    "comma.csv.gz": gzip.compress(FRAME.to_csv(index=False).encode()),
    **{
        f"{code}.csv": FRAME.to_csv(index=False).encode(code) for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
    },
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_rows_in_every_way_of_writing_them(tmp_path, name):
    assert [row.fields for row in table(put(tmp_path, name, SAME[name])).rows] == ROWS


@pytest.mark.parametrize("name", ["rows.parquet", "named_otherwise.jsonl", "without_a_name"])
def test_parquet_is_known_by_its_first_bytes(tmp_path, name):
    FRAME.iloc[::-1].to_parquet(tmp_path / name)  # whose index is stored, too
    assert [row.fields for row in table(str(tmp_path / name)).rows] == ROWS[::-1]


def test_arrow_files_and_what_datasets_saved(tmp_path):
    import datasets
    import pyarrow.feather

    pyarrow.feather.write_feather(FRAME, str(tmp_path / "rows.feather"))
    assert [row.fields for row in table(str(tmp_path / "rows.feather")).rows] == ROWS
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "saved", num_shards=2)
    assert [row.fields for row in table(str(tmp_path / "saved")).rows] == ROWS
    datasets.DatasetDict({"train": made, "dev": made}).save_to_disk(tmp_path / "splits")
    with pytest.raises(
        ValidationError, match=r"holds the splits dev, train; give the folder of one split: .*splits/dev"
    ):
        instruct.Options(train=str(tmp_path / "splits"))
    with pytest.raises(ValidationError, match=r"is a folder; give one \.jsonl"):
        instruct.Options(train=str(tmp_path))


def test_what_the_reader_did_of_its_own_accord_is_told(tmp_path):
    said = {
        name: table(put(tmp_path, name, SAME[name])).notes
        for name in ("comma.csv", "semicolon.csv", "pandas_index.csv", "utf-16.csv")
    }
    assert said["comma.csv"] == []
    assert said["semicolon.csv"] == ["semicolon.csv has a semicolon between its fields, and was read that way"]
    assert said["pandas_index.csv"] == [
        "pandas_index.csv has an index in its first column, which has no name: it was left out"
    ]
    assert said["utf-16.csv"] == ["utf-16.csv was read as UTF-16"]


def test_a_field_of_any_length_is_read_and_the_limit_of_the_process_stays(tmp_path):
    before = csv.field_size_limit()
    long = "a" * 300_000
    assert table(put(tmp_path, "long.csv", f"question,answer\n{long},b\n")).rows[0].fields == {
        "question": long,
        "answer": "b",
    }
    assert csv.field_size_limit() == before


def test_what_is_missing_is_nothing_however_it_is_written(tmp_path):
    assert table(put(tmp_path, "n.jsonl", '{"a": NaN, "b": null, "c": Infinity, "d": 0}\n')).rows[0].fields == {
        "a": "",
        "b": "",
        "c": "",
        "d": "0",
    }
    pd.DataFrame({"a": ["x", None], "n": [1.5, float("nan")]}).to_parquet(tmp_path / "n.parquet")
    assert [r.fields for r in table(str(tmp_path / "n.parquet")).rows] == [{"a": "x", "n": "1.5"}, {"a": "", "n": ""}]


def sqlite(path):
    with sqlite3.connect(path) as base:
        base.execute("create table t(a)")
    base.close()
    return path.read_bytes()


def workbook(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "x")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", LFS, r"t\.jsonl is a Git LFS pointer in place of the data; fetch the file itself: git lfs pull"),
        ("t.jsonl", "<!DOCTYPE html>\n<html>", "is a web page or XML, not data"),
        ("t.jsonl", "\n<!-- saved -->\n<html lang='en'><body>", "is a web page or XML, not data"),
        ("t.jsonl", "", r"t\.jsonl is empty"),
        (
            "t.csv",
            ("question,answer\n" + "你好世界,今天天气很好\n" * 200).encode("utf-16-le")[32:],
            r"may be UTF-16 without its mark; convert .* iconv -f UTF-16LE -t UTF-8 t\.csv",
        ),
        (
            "t.csv",
            ("вопрос,ответ\n" + "привет,мир\n" * 200).encode("utf-16-be"),
            r"may be UTF-16 without its mark; convert .* iconv -f UTF-16BE -t UTF-8 t\.csv",
        ),
        ("t.jsonl", LINES + "null\n", r"t\.jsonl:13: null, not an object"),
        ("t.csv", "\n \n", "holds nothing but whitespace"),
        ("t.csv", sqlite, "is an SQLite database; export the table as CSV"),
        ("t.csv", workbook, "a zip archive, as Excel workbooks are"),
        ("t.jsonl", pickle.dumps(ROWS), "is a Python pickle, which could run code"),
        ("t.jsonl", b"\x28\xb5\x2f\xfdabc", "compressed by Zstandard"),
        ("t.jsonl.gz", gzip.compress(LINES.encode())[:-9], "cannot be unpacked .* truncated or damaged"),
        ("t.jsonl", LINES.encode() + b"\0\0", "holds a zero byte at character"),
        ("t.jsonl", LINES.encode() + b'{"question": "\xc3', r"ends within a character, at byte \d+; it is truncated"),
        (
            "t.csv",
            "question,answer\nna\xefve,b\n".encode("cp1252"),
            (
                r"not UTF-8 at byte 18 \(0xef, line 2\); convert .* iconv -f CP1252 -t UTF-8 t\.csv > new; CP1252 .*"
                r" fits its bytes"
            ),
        ),
        ("t.csv", "質問,答え\n日本語の質問,答え\n".encode("shift_jis"), "% of its bytes are not ASCII"),
        ("t.json", json.dumps({"train": ROWS, "test": ROWS}), r"several lists of rows \(train, test\)"),
        ("t.json", json.dumps(ROWS, indent=1)[:-40], "it ends before its brackets are closed"),
        ("t.json", json.dumps(ROWS)[:-1] + ",]", r"t\.json:1: not JSON .* is a comma before the closing bracket"),
        ("t.jsonl", ",\n".join(json.dumps(r) for r in ROWS), r"t\.jsonl:1: not JSON .* commas between objects"),
        ("t.jsonl", "\n".join(map(repr, ROWS)), r"t\.jsonl:1: not JSON .* a Python dict, not JSON"),
        ("t.jsonl", "[" * 100_000, "nested too deeply"),
        ("t.csv", "question,answer\n", r"has a header \(question, answer\) but no row below it"),
        ("t.csv", 'question,answer\na,b\n"c,d\ne,f\n', r"t\.csv:3: a quote that opens in this row is never closed"),
        (
            "t.csv",
            ",question,answer\nx,a,b\ny,c,d\n",
            r"t\.csv:1: the header has empty or repeated names .*give each column a name of its own there",
        ),
        (
            "t.tsv",
            "question,answer\na,b\n",
            r"the header has no tab \(question,answer\), so the file has one column; give task.format: csv",
        ),
    ],
)
def test_what_is_no_data_is_named_for_what_it_is(tmp_path, name, content, message):
    data = content(tmp_path / "made") if callable(content) else content
    with pytest.raises(DataError, match=message) as told:
        table(put(tmp_path, name, data))
    assert "latin1" not in str(told.value)


def test_a_file_whose_name_says_nothing_is_named_for_what_it_is(tmp_path):
    file = workbook(tmp_path / "made")
    with pytest.raises(
        ValidationError, match="a zip archive, as Excel workbooks are; unpack it, or save the sheet as CSV"
    ):
        instruct.Options(train=put(tmp_path, "t.xlsx", file))


@pytest.mark.parametrize("content", [FRAME.to_csv(index=False), FRAME.to_csv()])
def test_columns_over_a_header_never_make_it_a_row(tmp_path, content):
    file = put(tmp_path, "t.csv", content)
    with pytest.raises(DataError, match=r"remove task\.columns"):
        table(file, columns=("question", "answer"))


def test_an_index_above_no_header_is_to_be_named_and_that_advice_works(tmp_path):
    file = put(tmp_path, "t.csv", FRAME.to_csv(header=False))
    with pytest.raises(DataError, match=r"give columns: \[index, question, answer\]"):
        table(file, columns=("question", "answer"))
    rows = table(file, columns=("index", "question", "answer")).rows
    assert [{k: row.fields[k] for k in ROWS[0]} for row in rows] == ROWS


def test_the_index_of_joined_frames_repeats_and_is_left_out(tmp_path):
    found = table(put(tmp_path, "t.csv", pd.concat([FRAME, FRAME]).to_csv()))
    assert [row.fields for row in found.rows] == [*ROWS, *ROWS]
    assert found.notes == ["t.csv has an index in its first column, which has no name: it was left out"]


def test_text_files_are_known_by_their_content_too(tmp_path, tiny):
    body = "Größe, Zeile für Zeile.\r\n" * 200
    for name, data in {
        "a.txt": body.encode("utf-16"),
        "b.txt": gzip.compress(body.encode()),
        "c.txt": body.encode("utf-8-sig"),
    }.items():
        assert read_text(put(tmp_path, name, data)) == body
    seen = [
        text.load(text.Options(train=str(tmp_path / n)), tiny, 64).train[0].ids.tolist()
        for n in ("a.txt", "b.txt", "c.txt")
    ]
    assert seen[0] == seen[1] == seen[2]
    with pytest.raises(DataError, match="git lfs pull"):
        text.load(text.Options(train=put(tmp_path, "l.txt", LFS)), tiny, 64)
    FRAME.to_parquet(tmp_path / "p.txt")
    with pytest.raises(DataError, match=r"is a table \(parquet\), not text"):
        text.load(text.Options(train=str(tmp_path / "p.txt")), tiny, 64)


def test_blanks_after_commas_and_excels_unicode_text(tmp_path):
    spaced = '"question", "answer"\n"a, b", "c ""d"""\n'
    assert [r.fields for r in table(put(tmp_path, "s.csv", spaced)).rows] == [{"question": "a, b", "answer": 'c "d"'}]
    assert [
        r.fields for r in table(put(tmp_path, "u.csv", FRAME.to_csv(index=False, sep="\t").encode("utf-16"))).rows
    ] == ROWS
    with pytest.raises(DataError, match=r"q\.tsv:1: the fields are in double quotes.* give task\.format: csv"):
        table(put(tmp_path, "q.tsv", FRAME.to_csv(index=False, sep="\t", quoting=csv.QUOTE_ALL)))
    assert [r.fields for r in table(str(tmp_path / "q.tsv"), format="csv").rows] == ROWS


def test_an_archive_within_a_compressed_file_is_named(tmp_path):
    import io
    import tarfile

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        archive.add(put(tmp_path, "a.jsonl", LINES), "a.jsonl")
    with pytest.raises(ValidationError, match="is a tar archive; unpack it and give the data file"):
        instruct.Options(train=put(tmp_path, "a.tar.gz", held.getvalue()))


def test_rows_as_plain_text_are_told_and_a_test_file_among_the_training_files_is_refused(tmp_path, tiny):
    (tmp_path / "all").mkdir()
    for name in ("a.txt", "b.txt"):
        put(tmp_path / "all", name, f"All of {name} is text.\n" * 200)
    data = text.load(text.Options(train=put(tmp_path, "rows.jsonl", LINES * 20)), tiny, 32)
    assert data.facts.notes == (
        "rows.jsonl is read as plain text, markup and field names included; the task instruct would read its rows",
    )
    page = text.load(text.Options(train=put(tmp_path, "page.txt", "<!DOCTYPE html>\n<p>" + "word " * 900)), tiny, 32)
    assert page.facts.notes == ("page.txt is a web page or XML, and is read with its tags",)
    with pytest.raises(DataError, match=r"b\.txt is among the training files and in task\.eval"):
        text.load(text.Options(train=str(tmp_path / "all"), eval=str(tmp_path / "all" / "b.txt")), tiny, 32)
