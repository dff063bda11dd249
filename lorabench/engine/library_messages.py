"""What the libraries print and raise, in our words: loaders' failures as one sentence, and quiet where their advice is
not meant for us.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from lorabench.config.paths import model_directory, model_source
from lorabench.config.settings import ModelSpec
from lorabench.engine.measure import is_out_of_memory
from lorabench.engine.vocabulary import broken_json
from lorabench.errors import ModelError


@contextlib.contextmanager
def loadable(folder: Path) -> Iterator[None]:
    """Turns what transformers could not put together into a sentence; want of memory stays what it is."""
    try:
        yield
    except RuntimeError as e:
        if is_out_of_memory(e):
            raise
        raise ModelError(f"the weights in {folder} cannot be loaded: {one_line(e)}") from e


_LOADING = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
    UnpicklingError,
)
_DIRECTORY = "the model directory {} cannot be loaded: {}"
TOKENIZER = "the tokenizer in {} cannot be read ({}); copy the tokenizer files of the model it was made from"


@contextlib.contextmanager
def explained(
    model: ModelSpec, words: str = _DIRECTORY, kinds: tuple[type[Exception], ...] = _LOADING
) -> Iterator[None]:
    """Turns a loader's failure into one sentence that says what is missing and what to do."""
    try:
        yield
    except kinds as e:
        text = one_line(e)
        if "trust_remote_code" in str(e):
            raise ModelError(
                f"{model.name} brings its own code; set model.trust_remote_code: true if you trust it"
            ) from None
        if model_directory(model.name) is None:
            at = f" at revision {model.revision}" if model.revision else ""
            access = "gated" in str(e) or "401" in str(e) or "403" in str(e)
            reason = (
                "the hub asks for a login (huggingface-cli login)"
                if access
                else "it is not in the local cache, and the hub cannot be reached or has no such model"
            )
            raise ModelError(
                f"{model.name}{at} cannot be loaded: {reason}; give the path of a local copy as the model (in a "
                "study: --set model=/path/to/directory)"
            ) from None
        broken = broken_json(Path(model_source(model.name)))
        raise ModelError(broken or words.format(model.name, text)) from None


def one_line(error: BaseException) -> str:
    """What a library says, on one line; its advice beside that is left out."""
    text = " ".join((repr(error) if isinstance(error, KeyError) else str(error)).split())
    if unknown_type := re.search(r"has model type (\S+) but Transformers does not recognize", text):
        return f"transformers {version('transformers')} does not know the model type {unknown_type[1].strip('`')}"
    if "Should have a `model_type` key" in text:
        return "its config.json names no model_type, or one that transformers does not know"
    return text[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and advice, and bitsandbytes' about casts: the log of a cell tells what
    matters.
    """
    from transformers.utils import logging as hf

    bnb = logging.getLogger("bitsandbytes")
    before = bnb.level
    bnb.setLevel(logging.ERROR)
    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings(
                "ignore", message="PiSSA changes the base weights"
            )  # what is saved is converted to plain LoRA
            yield
    finally:
        bnb.setLevel(before)
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()


class _Int8Cast(logging.Filter):
    """Lets bitsandbytes' cast message pass once in words, then drops it: it comes with every layer of every step."""

    was_said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if "will be cast from" not in record.getMessage():
            return True
        if self.was_said:
            return False
        self.was_said = True
        record.msg, record.args = (
            "int8 layers take their inputs in float16 (LLM.int8() has no wider path); this is reported once",
            (),
        )
        return True


def silence_int8_cast() -> None:
    """Lets bitsandbytes' message about casts to float16 through once a process."""
    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.default.ops", "bitsandbytes"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _Int8Cast) for f in logger.filters):
            logger.addFilter(_Int8Cast())
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast", category=UserWarning)
