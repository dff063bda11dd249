"""Python's own reference text, which every CPython brings: language modelling, and a cloze choice set

The text is pydoc_data.topics (79 topics, 466 kB in CPython 3.11; it differs between Python versions, and
so does its fingerprint). A quarter of it is repeated: topics such as "compound statements" contain
others whole. A repeated paragraph is kept in the shortest topic that has it, so that no test text
is trained on. Then whole topics are split, by the hash of their names, 80/8/12 % of the bytes.

The choice set "python-docs-cloze" asks for a word of the test topics (tasks._cloze).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from lorabench.config.settings import TaskSpec
from lorabench.engine.data import ChoiceSet, TaskData
from lorabench.tasks._cloze import cloze_items
from lorabench.tasks._counts import block_facts
from lorabench.tasks._encode import blocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PATH_FIELDS = ()
CHOICE_SETS = ("python-docs-cloze",)
TEST_SHARE, VALIDATION_SHARE = 0.12, 0.08
LARGEST = 0.05  # a topic above this share of the bytes is trained on: as test text it would be most of the test
REPEATED_FROM = 40  # characters; shorter paragraphs (headings, "Note:") may stand in several topics


class Options(TaskSpec):
    """The text is fixed, so there is nothing to choose."""

    name: Literal["python-docs"] = "python-docs"
    """python-docs"""


class Split(NamedTuple):
    """Topic name to text, of the three splits."""

    train: dict[str, str]
    validation: dict[str, str]
    test: dict[str, str]


def fingerprint(options: Options) -> str:
    """Hash of the topics' names and texts."""
    total = hashlib.sha256()
    for name, text in sorted(_topics().items()):
        total.update(f"{name}\0{text}\0".encode())
    return total.hexdigest()


def load(options: Options, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> TaskData:
    """Blocks of the three splits, and the cloze items of the test topics."""
    split = split_topics(_topics())
    train, validation, test = (list(part.values()) for part in split)
    parts = (
        blocks(tokenizer, train, sequence_length, keep_last=False),
        blocks(tokenizer, validation, sequence_length, keep_last=True),
        blocks(tokenizer, test, sequence_length, keep_last=True),
    )
    return TaskData(
        *parts, "packed", lambda: (ChoiceSet(CHOICE_SETS[0], cloze_items(train, test)),), facts=block_facts(*parts)
    )


def split_topics(topics: Mapping[str, str]) -> Split:
    """Topics in the order of their names' hashes, each to the first of test, validation and train that it fits in."""
    own = without_repeats(topics)
    size = {name: len(text.encode()) for name, text in own.items()}
    total = sum(size.values())
    headroom_bytes = {"test": TEST_SHARE * total, "validation": VALIDATION_SHARE * total}
    split = Split({}, {}, {})
    for name in sorted(own, key=lambda name: hashlib.sha256(name.encode()).digest()):
        part = next((p for p in headroom_bytes if size[name] <= min(headroom_bytes[p], LARGEST * total)), "train")
        if part in headroom_bytes:
            headroom_bytes[part] -= size[name]
        getattr(split, part)[name] = own[name]
    return split


def without_repeats(topics: Mapping[str, str]) -> dict[str, str]:
    """The topics with each longer paragraph in the shortest topic that has it alone; topics left empty fall away."""
    paragraphs: set[str] = set()
    own: dict[str, str] = {}
    for name, text in sorted(topics.items(), key=lambda item: (len(item[1]), item[0])):
        own_paragraphs = []
        for paragraph in re.split(r"\n[ \t]*\n", text.strip("\n")):
            plain = " ".join(paragraph.split())
            if len(plain) < REPEATED_FROM or plain not in paragraphs:
                own_paragraphs.append(paragraph)
            paragraphs.add(plain)
        if any(len(" ".join(p.split())) >= REPEATED_FROM for p in own_paragraphs):
            own[name] = "\n\n".join(own_paragraphs) + "\n"
    return own


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics

    return dict(topics)
