"""Claims about language modelling on text files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lorabench.errors import DataError
from lorabench.tasks import text


@given(
    documents=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=300), min_size=1, max_size=5),
    shares=st.lists(st.floats(0.01, 0.45), max_size=2),
)
def test_split_parts_joined_are_the_text(documents, shares):
    parts = text.split(documents, shares)
    assert len(parts) == 1 + len(shares)
    assert "".join(d for part in parts for d in part) == "".join(documents)


def test_split_cuts_at_line_ends_near_the_shares():
    document = "0123456789\n" * 100
    train, validation, test = text.split([document], [0.05, 0.10])
    assert [len(p[0]) // 11 for p in (train, validation, test)] == [85, 5, 10]
    assert all(p[0].endswith("\n") for p in (train, validation, test))


def test_one_string_is_a_list_of_one_file(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert text.Options(train="a.txt").train == ("a.txt",)
    found = text.Options.model_validate({"name": "text", "train": "a.txt"}, context={"folders": (tmp_path,)})
    assert found.train == (str(tmp_path / "a.txt"),)
    with pytest.raises(ValidationError, match="there is no file"):
        text.Options.model_validate({"train": ["b.txt"]}, context={"folders": (tmp_path,)})


def test_every_byte_of_the_files_is_in_one_split(tmp_path, tiny):
    bodies = ["Ein Größenvergleich, Zeile für Zeile.\n" * 60, "Second document. 🐍\n" * 40]
    for i, body in enumerate(bodies):
        (tmp_path / f"{i}.txt").write_text(body, encoding="utf-8")
    (tmp_path / "image.png").write_bytes(b"\xff\xfe")
    data = text.load(text.Options(train=str(tmp_path)), tiny, 2**20)  # one block a split: nothing is dropped
    covered = [sum(e.n_bytes for e in part) for part in (data.train, data.validation, data.test)]
    total = sum(len(b.encode()) for b in bodies)
    assert sum(covered) == total
    assert covered[1] / total == pytest.approx(0.05, abs=0.02)
    assert covered[2] / total == pytest.approx(0.10, abs=0.02)
    assert data.packing == "packed"
    decoded = "".join(
        tiny.decode(e.ids, skip_special_tokens=True) for p in (data.train, data.validation, data.test) for e in p
    )
    assert decoded == "".join(bodies)


def test_an_eval_file_is_the_test_split_alone(tmp_path, tiny):
    (tmp_path / "train.txt").write_text("training text\n" * 100)
    (tmp_path / "eval.txt").write_text("held out\n" * 10)
    data = text.load(text.Options(train=str(tmp_path / "train.txt"), eval=str(tmp_path / "eval.txt")), tiny, 4096)
    assert tiny.decode(data.test[0].ids, skip_special_tokens=True) == "held out\n" * 10
    assert sum(e.n_bytes for e in data.train + data.validation) == 1400


def test_the_fingerprint_follows_bytes_and_roles_not_names(tmp_path):
    for name, body in (("a.txt", "one"), ("b.txt", "two"), ("c.txt", "one")):
        (tmp_path / name).write_text(body)
    a, b, c = (str(tmp_path / f"{n}.txt") for n in "abc")
    one = text.fingerprint(text.Options(train=a, eval=b))
    assert one == text.fingerprint(text.Options(train=(c,), eval=b))
    assert one != text.fingerprint(text.Options(train=(a, b)))
    assert one != text.fingerprint(text.Options(train=b, eval=a))


def test_faults_name_the_file(tmp_path, tiny):
    (tmp_path / "latin.txt").write_bytes(b"na\xefve " * 50)
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 at byte 2"):
        text.load(text.Options(train=str(tmp_path / "latin.txt")), tiny, 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no text file"):
        text.load(text.Options(train=str(tmp_path / "empty")), tiny, 16)
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(DataError, match="holds no tokens"):
        text.load(text.Options(train=str(tmp_path / "short.txt")), tiny, 16)
