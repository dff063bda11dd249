"""Claims about tokens, their bytes, and blocks."""

import logging

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lorabench.tasks._encode import blocks, completion, covered_bytes, encode

# special tokens written out in a text are the tokenizer's own matter, so no "<"
TEXT = st.text(alphabet=st.sampled_from("ab eé€🐍漢\n\t .,Zß\u0301"), min_size=1, max_size=60)
ONCE = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None, "max_examples": 60}


@settings(**ONCE)
@given(text=TEXT)
def test_the_bytes_of_all_tokens_are_the_bytes_of_the_text(tokenizer, text):
    assert encode(tokenizer, text).n_bytes.sum() == len(text.encode())


@settings(**ONCE)
@given(text=st.text(alphabet="abcé€🐍 ", min_size=1, max_size=40))
def test_byte_level_tokens_cover_as_many_bytes_as_they_spell(tiny, text):
    """Independent of offsets: in a byte-level vocabulary each character of a token stands for one byte.

    Exact where no token joins bytes of two characters of which one is cut, which holds for runs; so the
    cumulative sums are compared at character borders only.
    """
    tokens = encode(tiny, text)
    spelled = np.cumsum([len(t) for t in tiny.convert_ids_to_tokens(tokens.ids.tolist())])
    borders = set(np.cumsum([len(c.encode()) for c in text]).tolist())
    at_border = [i for i, n in enumerate(spelled) if n in borders]
    assert np.cumsum(tokens.n_bytes)[at_border].tolist() == spelled[at_border].tolist()


def test_bytes_by_hand():
    # "a" | gap " " + "é" as two byte tokens | "b" and a trimmed tail
    assert covered_bytes("a éb  ", [1, 3, 3, 4]).tolist() == [1, 1, 2, 3]
    assert covered_bytes("🐍", [1, 1, 1, 1]).tolist() == [1, 1, 1, 1]
    assert covered_bytes("", []).tolist() == []


@settings(**ONCE)
@given(documents=st.lists(TEXT, min_size=1, max_size=4), length=st.integers(2, 17))
def test_blocks_cover_every_document_once(tokenizer, documents, length):
    made = blocks(tokenizer, documents, length, keep_last=True)
    assert sum(block.n_bytes for block in made) == sum(len(d.encode()) for d in documents)
    assert all(len(block.ids) == length for block in made[:-1])
    assert len(made[-1].ids) <= length
    assert all(block.ids[0] == tokenizer.bos_token_id and not block.predicted[0] for block in made)
    assert all(block.predicted[1:].all() and block.ids.dtype == np.int32 for block in made)
    stream = [i for block in made for i in block.ids[1:].tolist()]
    expected = []
    for n, document in enumerate(documents):
        expected += [tokenizer.eos_token_id] * (n > 0) + tokenizer.encode(document, add_special_tokens=False)
    assert stream == expected


def test_blocks_by_hand(words):
    made = blocks(words, ["a b c", "dé d"], 4, keep_last=True)  # stream: a b c </s> <unk> d
    assert [b.ids.tolist() for b in made] == [[1, 3, 4, 5], [1, 2, 0, 6]]
    assert [b.n_bytes for b in made] == [5, 5]


def test_without_a_begin_token_the_first_token_of_a_block_is_not_counted(bare_words):
    made = blocks(bare_words, ["a b c d e"], 3, keep_last=True)
    assert [b.ids.tolist() for b in made] == [[3, 4, 5], [6, 7]]
    assert [b.n_bytes for b in made] == [4, 2]  # " b c" and " e"
    assert [b.predicted.tolist() for b in made] == [[False, True, True], [False, True]]


def test_a_short_last_block_is_dropped_unless_it_is_the_only_one(words):
    assert len(blocks(words, ["a b c d"], 4, keep_last=False)) == 1
    assert len(blocks(words, ["a b c d"], 4, keep_last=True)) == 2
    assert len(blocks(words, ["a b"], 4, keep_last=False)) == 1


def test_long_texts_give_no_length_warning(tiny, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        assert len(encode(tiny, "word " * 2000).ids) > tiny.model_max_length
    assert not caplog.records


def test_a_completion_by_hand(words):
    made = completion(words, "a b ", "c d", 8)
    assert made.ids.tolist() == [1, 3, 4, 5, 6, 2]
    assert made.predicted.tolist() == [False, False, False, True, True, True]
    assert made.n_bytes == 4  # " c d": the prompt's last space goes with the response
    cut = completion(words, "a b ", "c d", 4)
    assert (cut.ids.tolist(), cut.n_bytes) == ([1, 3, 4, 5], 2)
    assert completion(words, "a b ", "c d", 3) is None


def test_without_a_begin_token_or_a_prompt_the_first_token_is_not_predicted(bare_words):
    made = completion(bare_words, "", "a b", 8)
    assert (made.predicted.tolist(), made.n_bytes) == ([False, True], 2)


@settings(**ONCE)
@given(prompt=TEXT, response=TEXT)
@example(
    prompt="b", response="e"
)  # "be" is one token: the response is tokenised apart, and SentencePiece opens it with a space
def test_a_completion_decodes_to_prompt_and_response(tokenizer, prompt, response):
    """Word for word; where a token of the joined text spans the border, but for the space that SentencePiece opens
    every text with.
    """
    made = completion(tokenizer, prompt, response, 10_000)
    stem = prompt.rstrip()
    predicted, given_ids = made.ids[made.predicted].tolist(), made.ids[~made.predicted].tolist()
    assert given_ids == [tokenizer.bos_token_id, *tokenizer.encode(stem, add_special_tokens=False)]
    assert predicted[-1] == tokenizer.eos_token_id
    assert made.n_bytes == len((prompt[len(stem) :] + response).encode())
    decoded = tokenizer.decode(made.ids.tolist(), skip_special_tokens=True).split()
    assert "".join(decoded) == "".join((prompt + response).split()) or not stem
    joined = tokenizer.encode(prompt + response, add_special_tokens=False)
    if made.ids.tolist() == [tokenizer.bos_token_id, *joined, tokenizer.eos_token_id]:
        assert decoded == (prompt + response).split()


def test_a_choice_is_tokenised_as_lm_eval_scores_it(tokenizer):
    """lm-eval: encode(context + continuation) without as many ids as encode(context) has."""
    context, choice = "Review: a fine film\nSentiment:", " positive"
    whole = tokenizer.encode(context + choice, add_special_tokens=False)
    expected = whole[len(tokenizer.encode(context, add_special_tokens=False)) :]
    made = completion(tokenizer, context, choice, 100)
    assert made.ids[made.predicted].tolist() == [*expected, tokenizer.eos_token_id]
