"""What belongs to a base weight W alone, whatever is learned on it: computed once a model and kept beside the results.

    <folder>/<key>.safetensors    <module>.values.<k>  (k,)        the first singular values of W, where k of them were
                                                                   asked for
                                  <module>.left.<k>    (out, 16)   its first left singular vectors
                                  <module>.error.<k>   (k,)        the first singular values of W_q - W, in the file of
                                                                   that quantization

All in float64: a value that is read is the one that was computed. A file holds MOST_BYTES at most (a model of 135M
parameters: 40 MB); what is beyond is computed each time. Several workers may write: each replaces the file by one that
holds what it read and what it made, so the worst is that something is computed twice. A file that cannot be read counts
as absent.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lorabench.spectra.alignment import EXACT, VECTORS, leading_values
from lorabench.spectra.decompose import leading

VERSION = "1"  # of how the numbers are made: another one makes another key
FEWEST = 64  # values of a weight: as many as the ranks of most adapters
MOST_BYTES = 256 * 2**20


class TensorCache:
    """Tensors by name, of one key; without a folder none outlives this object."""

    def __init__(self, folder: Path | None = None, *key: object) -> None:
        name = hashlib.sha256(repr((VERSION, torch.__version__, *key)).encode()).hexdigest()[:16]
        self.path = folder / f"{name}.safetensors" if folder is not None else None
        self._computed: dict[str, torch.Tensor] = {}
        self._stored = _open(self.path)
        self._stored_names = frozenset(self._stored.keys()) if self._stored is not None else frozenset()

    @property
    def is_stored(self) -> bool:
        """Whether anything was kept before."""
        return bool(self._stored_names)

    def get(self, name: str, where: torch.device) -> torch.Tensor | None:
        """The tensor of a name; None where it has to be computed."""
        if self._stored is not None and name in self._stored_names:
            return self._stored.get_tensor(name).to(where)
        return self._computed[name].to(where) if name in self._computed else None

    def put(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Takes what was computed."""
        self._computed[name] = tensor.double().cpu().contiguous()
        return tensor

    def save(self) -> None:
        """Writes what was computed beside what is there; a folder that cannot be written loses nothing but time."""
        if self.path is None or not self._computed:
            return
        stored = _open(self.path)  # as it is now: another worker may have written meanwhile
        tensors = {n: stored.get_tensor(n) for n in stored.keys()} if stored is not None else {}  # noqa: SIM118  (no mapping)
        size = sum(t.nbytes for t in tensors.values())
        for name, tensor in self._computed.items():
            if name not in tensors and size + tensor.nbytes <= MOST_BYTES:
                tensors[name] = tensor
                size += tensor.nbytes
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary)
            temporary.chmod(0o644)
            os.replace(temporary, self.path)
            print(
                f"measures of the base's weights alone are saved in {self.path} ({size / 1e6:.1f} MB), so that the"
                " next cell does not compute them again"
            )
        except (OSError, SafetensorError) as e:
            temporary.unlink(missing_ok=True)
            print(f"{self.path} cannot be written ({e}); the next cell computes it again")


class Own:
    """A base's weights decomposed as far as measures of a change need it, and the errors of its quantization; kept
    nowhere unless told where."""

    def __init__(self, weights: TensorCache | None = None, errors: TensorCache | None = None) -> None:
        self._weights, self._errors = weights or TensorCache(), errors or TensorCache()

    def of_weight(
        self, module: str, weight: torch.Tensor, most: int, with_left: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of a module's weight (out, in) at least the first `most` singular values, descending (all where it has
        fewer), and where asked for its first left singular vectors (out, 16)."""
        k = _value_count(weight, most)
        values, left = (self._weights.get(f"{module}.{what}.{k}", weight.device) for what in ("values", "left"))
        if values is None or (with_left and left is None):
            if with_left or min(weight.shape) <= EXACT:
                values, left = leading(weight, k, VECTORS if with_left else 0)
            else:
                values = leading_values(weight, k)
            self._weights.put(f"{module}.values.{k}", values)
            if with_left and left is not None:
                self._weights.put(f"{module}.left.{k}", left)
        return values, left if with_left else None

    def error_values(self, module: str, error: torch.Tensor, most: int) -> torch.Tensor:
        """At least the first `most` singular values of W_q - W."""
        name = f"{module}.error.{(k := _value_count(error, most))}"
        values = self._errors.get(name, error.device)
        return values if values is not None else self._errors.put(name, leading_values(error, k))

    @property
    def is_known(self) -> bool:
        """Whether an earlier cell has decomposed this base."""
        return self._weights.is_stored

    def save(self) -> None:
        """Keeps what was computed."""
        self._weights.save()
        self._errors.save()


def _value_count(matrix: torch.Tensor, most: int) -> int:
    """FEWEST, or the next power of two, so that a grid of ranks shares them; at most the smaller side."""
    return min(max(FEWEST, 1 << max(most - 1, 0).bit_length()), *matrix.shape)


def _open(path: Path | None) -> safe_open | None:
    if path is None or not path.is_file():
        return None
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError):
        return None
