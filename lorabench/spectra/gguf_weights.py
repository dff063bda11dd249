"""The weights of a GGUF file as plain numbers, by transformers' own loader, under transformers' names."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from lorabench.config.gguf_file import GgufFile
from lorabench.errors import ModelError
from lorabench.formatting import error_line

_TABLE = threading.Lock()


class GgufTensors:
    """The tensors of a GGUF file, as `TensorFile` gives those of other files; all are dequantized when one is first
    asked for.
    """

    def __init__(self, gguf: GgufFile, folder: Path) -> None:
        self.path = Path(gguf.file)
        self._gguf, self._folder = gguf, folder

    def names(self) -> tuple[str, ...]:
        """transformers' names, sorted."""
        return tuple(sorted(self._tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """float32, as dequantized."""
        return self._tensors[name].dtype

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor by name, on the CPU."""
        return self._tensors[name]

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        return dequantized(self._gguf, self._folder)


@contextlib.contextmanager
def _one_table() -> Iterator[None]:
    """The gguf package makes its table of names once within, which transformers asks it for at every module of a model
    (397 times 15 ms for a Llama of 30 layers)."""
    import gguf

    with _TABLE:
        own = gguf.get_tensor_name_map
        gguf.get_tensor_name_map = lru_cache(own)
        try:
            yield
        finally:
            gguf.get_tensor_name_map = own


def dequantized(gguf: GgufFile, folder: Path) -> dict[str, torch.Tensor]:
    """Name to tensor in float32, the whole model: four bytes a weight.

    folder: which describes the file; without it transformers reads the header twice, a Python object for each token.

    ModelError where transformers does not make a whole model of it, or where a weight is not finite.
    """
    import transformers

    file = Path(gguf.file)
    whole = getattr(transformers, "GgufConfig", None)  # before it came, every GGUF was dequantized
    wanted = {"quantization_config": whole(dequantize=True)} if whole else {}
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that nothing switches off
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            with torch.device("meta"):
                loader: Any = type(transformers.AutoModelForCausalLM.from_config(config))
            with _one_table():
                model, info = loader.from_pretrained(
                    str(file.parent),
                    config=config,
                    gguf_file=file.name,
                    dtype=torch.float32,
                    output_loading_info=True,
                    local_files_only=True,
                    **wanted,
                )
        except MemoryError:
            raise
        except Exception as e:  # ValueError, KeyError, NotImplementedError, RuntimeError: no kind of its own
            raise ModelError(
                f"{file} cannot be loaded ({error_line(e, 160)}); the file is damaged, or transformers does not read"
                f" GGUF models of architecture {gguf.architecture} and type {gguf.type}"
            ) from None
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{file} lacks weights of its own configuration ({', '.join(missing[:4])}"
            f"{f' and {len(missing) - 4} more' if len(missing) > 4 else ''}); download it again"
        )
    tied = {id(p): n for n, p in model.named_parameters()}  # a tied matrix by one name alone
    tensors = {n: p.data for n, p in model.named_parameters() if tied[id(p)] == n}
    tensors |= {n: b for n, b in model.named_buffers() if n in model.state_dict()}
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise ModelError(f"{file} holds weights that are not finite ({', '.join(bad[:4])}); download it again")
    return tensors
