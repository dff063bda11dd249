"""Claims about what becomes of rows: each count by hand, or by a second way."""

import json
from pathlib import Path

import pytest

from lorabench.errors import DataError
from lorabench.tasks import classify, instruct, text
from lorabench.tasks._counts import whole_at


def put(folder, name, rows):
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def letters(n):
    """n different prompts of one token each way of counting: "a", "a a", ..."""
    return [{"q": " ".join("a" * (i + 1)), "a": "b"} for i in range(n)]


OPTIONS = {"prompt": "{q}", "response": " {a}"}


def test_rows_that_are_dropped_and_cut_are_counted_by_hand(tmp_path, words):
    train = put(tmp_path, "t.jsonl", letters(30))
    test = put(
        tmp_path, "e.jsonl", [{"q": "c " * i + "c", "a": "d d d"} for i in range(10)]
    )  # begin, i + 1, d d d, end: i + 6
    facts = instruct.load(instruct.Options(train=train, eval=test, **OPTIONS), words, 8).facts
    # of the test: i + 6 <= 8 is whole (i = 0, 1, 2), begin and prompt alone are 8 from i = 6 on
    assert (facts.test.read, facts.test.dropped, facts.test.cut, facts.test.rows) == (10, 4, 3, 6)
    assert facts.test.whole_at == 15, "of ten rows 95 % are all ten"
    assert facts.train.read + facts.validation.read == 30
    # begin, n, b, end: n + 3 <= 8 is whole, n = 6 loses the end alone, from n = 7 on nothing fits
    assert facts.train.dropped + facts.validation.dropped == 24
    assert facts.train.cut + facts.validation.cut == 1


def test_the_length_that_keeps_95_percent():
    assert whole_at(list(range(1, 101))) == 95
    assert whole_at([5] * 95 + [900] * 5) == 5
    assert whole_at([5] * 94 + [900] * 6) == 900
    assert whole_at([7]) == 7


def test_gsm8k_is_counted_as_its_own_tokens_say(shared_data, tiny):
    options = instruct.Options(
        train=shared_data("gsm8k/train.jsonl"), eval=shared_data("gsm8k/test.jsonl"), max_train=40, max_eval=300
    )
    facts, made = (d := instruct.load(options, tiny, 200)).facts, d.test
    rows = [json.loads(line) for line in Path(options.eval).read_text(encoding="utf-8").splitlines()]
    rows = [rows[i * len(rows) // 300] for i in range(300)]
    whole = [len(tiny.encode(f"Q: {r['question']}\nA: {r['answer']}", add_special_tokens=False)) + 2 for r in rows]
    prompts = [len(tiny.encode(f"Q: {r['question']}\nA:", add_special_tokens=False)) + 1 for r in rows]
    assert facts.test.dropped == sum(n >= 200 for n in prompts)
    assert (
        facts.test.cut
        == sum(n > 200 for n in whole) - facts.test.dropped
        == sum(e.ids[-1] != tiny.eos_token_id for e in made)
    )
    assert facts.test.rows == len(made)
    assert facts.test.in_training == facts.test.prompt_in_training == 0
    assert sum(n <= facts.test.whole_at for n in whole) >= 285 > sum(n < facts.test.whole_at for n in whole)


def test_test_rows_that_were_trained_on_are_counted_whatever_their_white_space(tmp_path, words):
    rows = [{"q": f"a {'b ' * i}c", "a": "d"} for i in range(40)]
    train = put(tmp_path, "t.jsonl", rows + rows[:5])
    held = [
        *({**r, "q": f"  {r['q'].replace(' ', '  ')}"} for r in rows[:8]),
        *({**r, "a": "e"} for r in rows[8:12]),
        *({"q": f"{r['q']} e", "a": "d"} for r in rows),
    ]
    facts = instruct.load(
        instruct.Options(train=train, eval=put(tmp_path, "e.jsonl", held), **OPTIONS), words, 64
    ).facts
    assert facts.train.read + facts.validation.read == 45
    assert facts.train.repeated + facts.validation.repeated == 5
    assert facts.test.in_training + facts.test.in_validation == 8
    assert 8 < facts.test.prompt_in_training + facts.validation.read <= 12 + facts.validation.read
    assert facts.validation.in_training == facts.validation.prompt_in_training == 0, (
        "rows of one prompt are held out together"
    )
    assert facts.test.read == 52


def test_a_copy_of_the_training_file_is_found_whole(tmp_path, words):
    rows = letters(30)
    facts = instruct.load(
        instruct.Options(train=put(tmp_path, "t.jsonl", rows), eval=put(tmp_path, "e.jsonl", rows), **OPTIONS),
        words,
        64,
    ).facts
    assert (facts.test.in_training, facts.test.in_validation) == (facts.train.read, facts.validation.read)


def test_labels_are_counted_among_the_rows_that_are_left(tmp_path, words):
    rows = [{"sentence": "a" + " b" * i, "label": int(i % 5 == 0)} for i in range(30)]
    options = classify.Options(
        train=put(tmp_path, "t.jsonl", rows),
        eval=put(tmp_path, "e.jsonl", rows[:12]),
        prompt="{sentence}",
        choices={"0": " c", "1": " d"},
    )
    facts = classify.load(options, words, 12).facts  # begin, 1 + i: from i = 10 on no room
    assert facts.test.labels == {"0": 8, "1": 2}
    assert (facts.test.majority, facts.test.dropped, facts.items) == (("0", 0.8), 2, None), (
        "loss and accuracy are over the same rows"
    )


def test_empty_prompts_are_counted(tmp_path, words):
    rows = [*letters(20), {"q": " ", "a": "c"}, {"q": "", "a": "d"}]
    facts = instruct.load(instruct.Options(train=put(tmp_path, "t.jsonl", rows), **OPTIONS), words, 64).facts
    assert sum(s.empty_prompts for s in facts.splits.values()) == 2


def test_faulty_rows_are_counted_with_the_first_of_them(tmp_path, words):
    rows = [{"q": f"a{i}", "a": "" if i in (3, 7, 8) else "b"} for i in range(20)]
    with pytest.raises(
        DataError, match=r"t\.jsonl:4: the response .* is empty.*\(the same or a similar fault in 3 of 20 rows\)"
    ):
        instruct.load(instruct.Options(train=put(tmp_path, "t.jsonl", rows), **OPTIONS), words, 64)
    del rows[5]["q"]
    with pytest.raises(DataError, match=r"t\.jsonl:4: .*in 4 of 20 rows"):
        instruct.load(instruct.Options(train=put(tmp_path, "t.jsonl", rows), **OPTIONS), words, 64)


def test_running_text_of_the_test_that_was_trained_on_is_found(tmp_path, tiny):
    lines = [
        f"In the year {1000 + 7 * i} the town of number {i * i} had {i} mills and {3 * i} wells by the river."
        for i in range(400)
    ]
    own = [
        f"Nobody of the {i} sailors knew how far the {5 * i} islands lay from port {i * i}, nor cared."
        for i in range(100)
    ]
    (tmp_path / "t.txt").write_text("\n".join(lines), encoding="utf-8")
    shares = []
    for name, held in {"none": own, "half": [*own[:40], *lines[100:140]], "all": lines[50:200]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(held), encoding="utf-8")
        facts = text.load(
            text.Options(train=str(tmp_path / "t.txt"), eval=str(tmp_path / f"{name}.txt")), tiny, 64
        ).facts
        shares.append(facts.test.in_training / facts.test.read)
        assert facts.unit == "blocks"
    assert shares[0] == 0 and 0.3 < shares[1] < 0.7 and shares[2] > 0.97
