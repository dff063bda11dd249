"""Claims about Python's reference text as data, and about its cloze items."""

from collections import Counter
from pydoc_data.topics import topics

import pytest

from lorabench.tasks import python_docs
from lorabench.tasks._cloze import FUNCTION_WORDS, cloze_items, word_class


@pytest.fixture(scope="module")
def split():
    return python_docs.split_topics(topics)


@pytest.fixture(scope="module")
def items(split):
    return cloze_items(list(split.train.values()), list(split.test.values()))


def paragraphs(texts):
    found = (" ".join(p.split()) for text in texts for p in text.replace("\n \n", "\n\n").split("\n\n"))
    return {p for p in found if len(p) >= 40}


def test_the_split_has_the_stated_shares(split):
    sizes = [sum(len(t.encode()) for t in part.values()) for part in split]
    for size, share in zip(sizes, (0.80, 0.08, 0.12), strict=True):
        assert size / sum(sizes) == pytest.approx(share, abs=0.02)
    assert min(len(part) for part in split) >= 5


def test_no_paragraph_is_on_two_sides(split):
    train, validation, test = (paragraphs(part.values()) for part in split)
    assert len(test) > 100
    assert not (train & test) | (train & validation) | (validation & test)


def test_nothing_but_repeats_is_lost(split):
    kept = set().union(*(paragraphs(part.values()) for part in split))
    assert kept == paragraphs(topics.values())


def test_a_repeated_paragraph_stays_in_the_shortest_topic():
    long = "This paragraph is in both of the two topics, word for word."
    own = python_docs.without_repeats(
        {"big": f"Title\n\n{long}\n\n{'More of the big topic. ' * 5}", "small": f"Title\n\n{long}"}
    )
    assert long in own["small"]
    assert long not in own["big"]
    assert own["big"].startswith("Title\n\nMore")


def test_there_are_enough_items_and_any_first_ones_are_balanced(items):
    assert len(items) >= 300
    for n in (40, 200, len(items) // 4 * 4):
        assert Counter(i.answer for i in items[:n]) == dict.fromkeys(range(4), n // 4)


def test_an_item_is_a_word_of_the_test_text_after_its_context_and_not_of_the_training_text(split, items):
    trained = " ".join("\n".join(split.train.values()).split())
    for item in items:
        word = item.choices[item.answer]
        assert any(item.context + word in text for text in split.test.values())
        assert " ".join((item.context + word).split())[-50:] not in trained
        assert 60 <= len(item.context) <= 300
        assert not item.context[-1].isspace()


def test_all_choices_are_distinct_known_words_of_one_class(split, items):
    text = "\n".join(split.train.values())
    for item in items:
        words = [choice[1:] for choice in item.choices]
        assert all(choice[0] == " " for choice in item.choices)
        assert len(set(words)) == 4
        assert len({word_class(w) for w in words}) == 1
        assert all(w in text and len(w.strip('"')) >= 4 and w.lower() not in FUNCTION_WORDS for w in words)


def test_frequency_does_not_give_the_answer_away(split, items):
    """Guessing the choice that is most frequent in the training text stays near chance, 0.25."""
    count = Counter("\n".join(split.train.values()).replace(",", " ").replace(".", " ").split())
    hits = sum(max(range(4), key=lambda c: count[item.choices[c][1:]]) == item.answer for item in items)
    assert hits / len(items) < 0.40


def test_length_does_not_give_the_answer_away(items):
    for pick in (min, max):
        hits = sum(pick(range(4), key=lambda c: len(item.choices[c])) == item.answer for item in items)
        assert 0.10 < hits / len(items) < 0.40


def test_items_are_the_same_whenever_they_are_made(split, items):
    assert cloze_items(list(split.train.values()), list(split.test.values())) == items


def test_load_gives_packed_blocks_that_cover_the_test_topics(split, tiny):
    data = python_docs.load(python_docs.Options(), tiny, 128)
    assert data.packing == "packed"
    assert data.choice_sets[0].name == "python-docs-cloze"
    assert {len(e.ids) for e in data.train} == {128}
    assert sum(e.n_bytes for e in data.test) == sum(len(t.encode()) for t in split.test.values())


def test_the_fingerprint_follows_the_text(monkeypatch):
    before = python_docs.fingerprint(python_docs.Options())
    monkeypatch.setattr(python_docs, "_topics", lambda: {**topics, "if": "changed"})
    assert python_docs.fingerprint(python_docs.Options()) != before
