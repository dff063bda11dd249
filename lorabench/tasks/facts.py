"""made-up people and words that belong to them, to be learned by heart: the information is known in bits

    [begin] Bakilo: door night hand way        loss on the words after the colon, and on them alone

Each word is drawn uniformly and independently from 32, so a person holds 5 bits an attribute; the name is given, not
learned. No word begins another and each is tokenised apart, so that the probabilities of all 32 sum to one at most
whatever the tokenizer, and a model that knows nothing needs 5 bits or more for each. In bits, this is what a model has
learned:

    learned_bits = information - sum of -log2 p(words | name)

The question is capacity, not generalisation: what was never seen cannot be known. So the three splits are the same, all
facts, asked in the words in which they were trained. Allen-Zhu and Li (2024, arXiv:2404.05405) find some 2 bits a
parameter for models that are trained whole and see each fact 1,000 times, and 1 bit at 100 times.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import Field

from lorabench.config.frozen import Seed, Whole
from lorabench.config.settings import TaskSpec
from lorabench.engine.data import Example, TaskData
from lorabench.errors import DataError
from lorabench.tasks._encode import begin_ids, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PATH_FIELDS = ()
MADE_UP = True  # says nothing of other tasks
SYLLABLES = tuple(c + v for c in "bdfghjklmnprstvz" for v in "aeiou")
NAME_SYLLABLES = 3  # 512,000 names
# nouns, a token each in most vocabularies: alike enough for frozen output weights to keep all of them possible
WORDS = (
    "child", "day", "door", "eyes", "face", "father", "friend", "hand", "head", "heart",
    "house", "life", "light", "look", "love", "man", "men", "mind", "moment", "night", "part", "people", "place",
    "right", "room", "thing", "thought", "time", "turn", "way", "woman", "word",
)  # fmt: skip


class Options(TaskSpec):
    """How many people, and how much there is to know of each."""

    name: Literal["facts"] = "facts"
    """facts"""
    count: Whole = Field(1000, ge=2, le=100_000)
    """people; each is one training sequence"""
    attributes: Whole = Field(4, ge=1, le=32)
    """words to be learned of each, 5 bits a word"""
    seed: Seed = 0
    """draws names and words; the same in all cells, whatever their own seeds"""


class Person(NamedTuple):
    """A name that nobody else has, and the words that belong to it."""

    name: str
    words: tuple[str, ...]


def information_bits(options: Options) -> float:
    """What the words of all people hold."""
    return options.count * options.attributes * math.log2(len(WORDS))


def people(options: Options) -> tuple[Person, ...]:
    """Everybody, in the order in which they are drawn."""
    return _people(options.count, options.attributes, options.seed)


def fingerprint(options: Options) -> str:
    """Hash of all names and words as drawn."""
    total = hashlib.sha256()
    for person in people(options):
        total.update(f"{person.name} {' '.join(person.words)}\n".encode())
    return total.hexdigest()


def load(options: Options, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> TaskData:
    """A sequence for each person, in every split; DataError where one does not fit, since cutting it would lose bits
    unseen.
    """
    begin, words = begin_ids(tokenizer), {word: encode(tokenizer, f" {word}") for word in WORDS}
    examples = []
    for person in people(options):
        prompt_ids, learned = (
            [*begin, *encode(tokenizer, f"{person.name}:").ids],
            [words[word] for word in person.words],
        )
        ids = np.concatenate([prompt_ids, *(tokens.ids for tokens in learned)]).astype(np.int32)
        if len(ids) > sequence_length:
            raise DataError(
                f"the sequence of {person.name} takes {len(ids)} tokens, and training.sequence_length is"
                f" {sequence_length}; raise it, or lower task.attributes"
            )
        examples.append(
            Example(ids, np.arange(len(ids)) >= len(prompt_ids), sum(int(tokens.n_bytes.sum()) for tokens in learned))
        )
    facts = tuple(examples)
    return TaskData(facts, facts, facts, "padded", information_bits=information_bits(options))


@lru_cache(maxsize=4)
def _people(count: int, attributes: int, seed: int) -> tuple[Person, ...]:
    chance = np.random.default_rng(seed)
    names = chance.choice(len(SYLLABLES) ** NAME_SYLLABLES, count, replace=False)
    indices = chance.integers(len(WORDS), size=(count, attributes))
    return tuple(Person(_name(int(n)), tuple(WORDS[i] for i in row)) for n, row in zip(names, indices, strict=True))


def _name(number: int) -> str:
    base = len(SYLLABLES)
    return "".join(SYLLABLES[number // base**i % base] for i in range(NAME_SYLLABLES)).capitalize()
