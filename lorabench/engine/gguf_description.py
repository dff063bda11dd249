"""`python -m lorabench.engine.gguf_description FILE FOLDER`: writes what transformers reads from a GGUF file's header,
config.json and tokenizer, into a folder.

A process of its own, so that the light half of lorabench can ask for it without importing torch. What transformers
refuses is one line on stdout and exit code 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(file: Path, folder: Path) -> int:
    """Writes the folder; 1 where transformers cannot read the file."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "local_files_only": True,
    }
    try:
        config = AutoConfig.from_pretrained(**source)
        config._name_or_path = ""
        config.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
        _drop_invented(folder / "tokenizer.json", config.get_text_config().vocab_size)
    except Exception as e:  # no kind of its own: ValueError, KeyError, NotImplementedError, Exception of tokenizers
        words = f"{e.args[0]} is missing" if isinstance(e, KeyError) and e.args else str(e)
        print(" ".join(words.split()).rstrip(".") or type(e).__name__)
        return 1
    return 0


def _drop_invented(file: Path, tokens: int) -> None:
    """Takes off the tokens that transformers' conversion adds to those of the file (GPT-2's <|endoftext|>), for which
    the model has no embedding.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < tokens]
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
