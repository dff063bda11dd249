"""Tokenizers for the task tests: the shipped one, a byte-fallback one, and a hand-countable one."""

from pathlib import Path

import pytest

from tests.tasks.conversations import CHATML

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"
TINY = REPOSITORY / "lorabench" / "models" / "tiny-300k"
STORIES = SHARED / "models" / "stories260K"


@pytest.fixture(scope="session")
def tiny():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="session", params=["tiny-300k", "stories260K"])
def tokenizer(request):
    """A byte-level BPE that ships, and a BPE with byte fallback and a leading-space mark, trained elsewhere."""
    from transformers import AutoTokenizer

    path = TINY if request.param == "tiny-300k" else STORIES
    if not path.is_dir():
        pytest.skip(f"{path} is absent: it is not part of the project")
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture
def words():
    """One token a word: a=3, b=4, ...; <s>=1, </s>=2."""
    return _words(bos_token="<s>", eos_token="</s>")


@pytest.fixture
def bare_words():
    """The same without begin or end tokens."""
    return _words()


def _words(**special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {letter: 3 + i for i, letter in enumerate("abcdefghij")}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **special)


@pytest.fixture
def shared_data():
    """The real data beside the project."""

    def find(name):
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"{path} is absent: real data is not part of the project")
        return str(path)

    return find


@pytest.fixture
def chat():
    """A tokenizer with ChatML's tokens, apart from its begin-of-text."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(TINY)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHATML
    return made
