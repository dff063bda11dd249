"""Claims about made-up facts: how many bits they hold, and how many of them a model is found to know."""

import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from lorabench.engine.evaluate import Losses, held_out_readings, learned_readings, per_parameter
from lorabench.errors import DataError
from lorabench.record.result import Reading
from lorabench.tasks import facts

Options = facts.Options


def readings(nats, data):
    """The readings of a model with these losses on the first sequences of the test split."""
    rows = data.test[: len(nats)]
    seen = Losses(
        np.asarray(nats, dtype=float),
        np.array([int(e.predicted.sum()) for e in rows]),
        np.array([e.n_bytes for e in rows]),
    )
    return {r.metric: r for r in held_out_readings(seen, data)}


def test_the_information_by_hand(tiny):
    assert len(facts.WORDS) == 32, "5 bits a word"
    assert facts.information_bits(Options(count=150, attributes=8)) == 150 * 8 * 5 == 6000
    assert facts.load(Options(count=10, attributes=3), tiny, 32).information_bits == 150.0


def test_words_are_drawn_uniformly_and_independently():
    drawn = [p.words for p in facts.people(Options(count=20_000, attributes=2, seed=3))]
    for place in (0, 1):
        seen = Counter(words[place] for words in drawn)
        assert stats.chisquare([seen[w] for w in facts.WORDS]).pvalue > 1e-4
    pairs = Counter(drawn)
    assert stats.chisquare([pairs[a, b] for a in facts.WORDS for b in facts.WORDS]).pvalue > 1e-4, (
        "one word tells nothing of the other"
    )


def test_no_word_begins_another_so_that_their_probabilities_sum_to_one():
    assert len(set(facts.WORDS)) == len(facts.WORDS)
    assert not any(b.startswith(a) for a, b in pairwise(sorted(facts.WORDS)))


def test_names_are_nobody_elses_up_to_the_highest_count():
    everybody = facts.people(Options(count=100_000, attributes=1))
    assert len({p.name for p in everybody}) == 100_000


def test_the_same_people_every_time_and_others_for_another_seed():
    facts._people.cache_clear()
    first = facts.people(Options(count=50))
    facts._people.cache_clear()
    assert facts.people(Options(count=50)) == first != facts.people(Options(count=50, seed=1))


def test_the_fingerprint_follows_every_option():
    marks = {facts.fingerprint(Options(**o)) for o in ({}, {"count": 999}, {"seed": 1}, {"attributes": 5})}
    assert len(marks) == 4
    assert facts.fingerprint(Options(count=1000)) in marks, "the default, written or not, is the same data"


def test_only_words_are_predicted(tokenizer):
    options = Options(count=20, attributes=3)
    data = facts.load(options, tokenizer, 64)
    assert data.train == data.validation == data.test, "what is learned by heart is asked in the same words"
    for example, person in zip(data.test, facts.people(options), strict=True):
        assert tokenizer.decode(example.ids[example.predicted]).split() == list(person.words)
        assert tokenizer.decode(example.ids[~example.predicted], skip_special_tokens=True).strip() == f"{person.name}:"
        assert example.n_bytes == sum(len(f" {word}") for word in person.words)
        assert not example.predicted[0]


def test_a_word_has_the_same_tokens_wherever_it_stands(tiny):
    options = Options(count=200, attributes=2)
    tokens = {}
    for example, person in zip(facts.load(options, tiny, 32).test, facts.people(options), strict=True):
        assert example.predicted.sum() == 2, "a token each in the shipped models' vocabulary"
        for word, token in zip(person.words, example.ids[example.predicted], strict=True):
            assert tokens.setdefault(word, token) == token


def test_who_knows_everything_has_all_bits_and_who_guesses_has_none(tiny):
    data = facts.load(Options(count=40, attributes=4), tiny, 32)
    everything = readings(np.zeros(40), data)
    assert everything["learned_bits"].value == everything["information_bits"].value == data.information_bits == 800
    assert everything["learned_bits"].stderr == 0
    guessing = readings(np.full(40, 4 * math.log(32)), data)
    assert guessing["learned_bits"].value == pytest.approx(0, abs=1e-9)
    misled = readings(np.full(40, 100.0), data)["learned_bits"]
    assert (misled.value, misled.stderr) == (0.0, None)


def test_a_part_of_the_facts_stands_for_all_with_its_standard_error(tiny):
    data = facts.load(Options(count=100, attributes=2), tiny, 32)
    half = readings([0.0, 10 * math.log(2)] * 10, data)["learned_bits"]  # of 20 facts, half are known
    assert half.value == pytest.approx(500)
    assert half.stderr == pytest.approx(100 * 10 * math.sqrt(20 / 19) / 2 / math.sqrt(20))
    assert half.count == 20


def test_bits_per_parameter_need_something_that_was_trained():
    learned = learned_readings(Losses(np.zeros(4), np.ones(4), np.ones(4)), 20.0, 4)

    def trained(n):
        return per_parameter([Reading(metric="trainable_parameters", value=n), *learned])

    assert [(r.metric, r.value) for r in trained(40)] == [("learned_bits_per_parameter", 0.5)]
    assert trained(0) == [] == per_parameter([])


def test_data_of_unknown_information_have_no_such_reading(tiny):
    data = facts.load(Options(count=4), tiny, 32)
    seen = Losses(np.ones(4), np.ones(4), np.ones(4))
    assert {r.metric for r in held_out_readings(seen)} == {"eval_loss", "perplexity", "bits_per_byte"}
    assert {r.metric for r in held_out_readings(seen, data)} - {r.metric for r in held_out_readings(seen)} == {
        "information_bits",
        "learned_bits",
    }


def test_a_fact_that_does_not_fit_is_an_error_and_not_a_loss_of_bits(tiny):
    options = Options(count=100, attributes=8)
    longest = max(len(e.ids) for e in facts.load(options, tiny, 64).test)
    assert len(facts.load(options, tiny, longest).test) == 100
    with pytest.raises(
        DataError,
        match=(
            rf"takes {longest} tokens, and training.sequence_length is {longest - 1}; raise it, or lower"
            r" task.attributes"
        ),
    ):
        facts.load(options, tiny, longest - 1)


@pytest.mark.parametrize(
    "options",
    [
        {"count": 1},
        {"count": 100_001},
        {"attributes": 0},
        {"attributes": 33},
        {"seed": -1},
        {"count": True},
        {"people": 3},
    ],
)
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValidationError):
        Options.model_validate(options)


@pytest.mark.slow
def test_learned_bits_rise_with_rank(tmp_path):
    from lorabench.engine.cell import run_cell
    from tests.engine.conftest import cell_of

    known = []
    for rank, rate in ((1, 5e-3), (8, 1e-2)):
        cell = cell_of(
            "task={name: facts, count: 40, attributes: 8}",
            f"method.rank={rank}",
            f"training.learning_rate={rate}",
            "training.steps=240",
            "training.batch_size=20",
            "evaluation.max_sequences=40",
        )
        folder = tmp_path / "cells" / str(rank)
        folder.mkdir(parents=True)
        result = run_cell(cell, folder)
        assert result.outcome == "finished", json.dumps(result.model_dump(mode="json"))[:500]
        learned = result.value("learned_bits")
        assert result.value("learned_bits_per_parameter") == pytest.approx(
            learned / result.value("trainable_parameters")
        )
        assert learned == pytest.approx(max(0, 1600 - result.value("eval_loss") * 40 * 8 / math.log(2)), rel=1e-6)
        known.append(learned)
    assert known[0] + 200 < known[1] <= 1600
