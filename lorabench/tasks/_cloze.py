"""Cloze items: which word comes next in a held-out text? One true word and three distractors.

    context   up to 300 characters of the text, from the start of a sentence or paragraph to the space before the word
    target    a content word or a quoted name of at least four letters that the training text has too,
              but not after the same 50 characters
    choices   the target and three words of the same class from the training text, of about its frequency and
              length and with other first letters, so that neither frequency nor form gives it away

Everything is drawn by hash, so the items depend on the two texts alone. The order is shuffled, and the
answer's position goes round 0, 1, 2, 3: any first n items are a balanced sample.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence

from lorabench.engine.data import MultipleChoice

CONTEXT_MOST, CONTEXT_LEAST = 300, 60  # characters
APART = 70  # characters between two targets of one paragraph at least
SEEN_LEAST = 3  # occurrences in the training text, of targets and distractors
CANDIDATES = 16  # nearest words by frequency and length that the three distractors are drawn from
REPEATED = 50  # characters up to the target's end that, found in the training text too, make an item a repeat
STEM = 3  # first letters that a distractor may not share with the target

WORD = re.compile(r'(?<=\S) ("[A-Za-z_][\w.]{3,}(?:\(\))?"|[A-Za-z][a-z]{3,})(?=[ \n.,;:)]|$)')
SENTENCE = re.compile(r"(?:^|(?<=[.:]\s)|(?<=[.:]\s\s)|(?<=\n\n))(?=\S)")
PROSE_LETTERS = 0.7  # share of letters and spaces in a paragraph of prose; tables, code and grammar are below
FUNCTION_WORDS = frozenset(
    [
        "about",
        "after",
        "also",
        "because",
        "been",
        "before",
        "being",
        "between",
        "both",
        "does",
        "each",
        "either",
        "else",
        "even",
        "from",
        "have",
        "here",
        "into",
        "itself",
        "just",
        "like",
        "made",
        "make",
        "many",
        "more",
        "most",
        "must",
        "only",
        "other",
        "over",
        "same",
        "should",
        "since",
        "some",
        "such",
        "than",
        "that",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "thus",
        "under",
        "upon",
        "used",
        "uses",
        "using",
        "very",
        "well",
        "were",
        "what",
        "when",
        "where",
        "whether",
        "which",
        "while",
        "will",
        "with",
        "within",
        "without",
        "would",
        "your",
    ]
)


def cloze_items(train: Sequence[str], test: Sequence[str]) -> tuple[MultipleChoice, ...]:
    """All items that the test documents yield."""
    counts = Counter(word for text in train for word in WORD.findall(text) if is_target(word))
    counts = Counter({word: n for word, n in counts.items() if n >= SEEN_LEAST})
    trained = _plain("\n".join(train))
    pairs = [(c, w) for text in test for c, w in targets(text, counts) if _plain(f"{c} {w}")[-REPEATED:] not in trained]
    pairs.sort(key=lambda item: _hash("order", *item))
    near = {word: _near(word, counts) for word in {word for _, word in pairs}}
    items = []
    for i, (context, word) in enumerate((c, w) for c, w in pairs if len(near[w]) >= 3):
        wrong = sorted(near[word], key=lambda other: _hash("distractor", context, word, other))[:3]
        texts = [" " + other for other in wrong]
        texts.insert(i % 4, " " + word)
        items.append(MultipleChoice(context, tuple(texts), i % 4))
    return tuple(items)


def targets(text: str, counts: Counter[str]) -> list[tuple[str, str]]:
    """(context, word) pairs of a document's prose."""
    starts = [m.start() for m in SENTENCE.finditer(text)]
    pairs = []
    last = -APART
    for at, paragraph in _paragraphs(text):
        if not _is_prose(paragraph):
            continue
        for match in WORD.finditer(paragraph):
            here, word = at + match.start(), match[1]
            start = next((s for s in starts if here - s <= CONTEXT_MOST), here)
            if word in counts and here - last >= APART and here - start >= CONTEXT_LEAST:
                pairs.append((text[start:here], word))
                last = here
    return pairs


def word_class(word: str) -> str:
    """call, name, capitalised or lowercase: what a distractor must share with its target."""
    if word.startswith('"'):
        return "call" if word.endswith('()"') else "name"
    return "capitalised" if word[0].isupper() else "lowercase"


def is_target(word: str) -> bool:
    """Not a function word: those are guessed from grammar alone."""
    return word.lower() not in FUNCTION_WORDS


def _near(word: str, counts: Counter[str]) -> list[str]:
    """The words nearest to a target by frequency and length, of its class and with other first letters."""

    def distance(other: str) -> tuple[float, str]:
        return abs(math.log2(counts[other] / counts[word])) + abs(len(other) - len(word)) / 2, other

    def stem(w: str) -> str:
        return w.strip('"_').lower()[:STEM]

    alike = [w for w in counts if word_class(w) == word_class(word) and stem(w) != stem(word)]
    return sorted(alike, key=distance)[:CANDIDATES]


def _paragraphs(text: str) -> list[tuple[int, str]]:
    return [(m.start(), m[0]) for m in re.finditer(r"(?:[^\n]*\S[^\n]*\n?)+", text)]


def _is_prose(paragraph: str) -> bool:
    if ">>>" in paragraph or "::=" in paragraph or "+--" in paragraph:
        return False
    plain = [c for c in paragraph if c != "\n"]
    return len(plain) >= CONTEXT_LEAST and sum(c.isalpha() or c == " " for c in plain) / len(plain) >= PROSE_LETTERS


def _plain(text: str) -> str:
    return " ".join(text.split())


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
