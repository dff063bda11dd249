"""What weights have learned, and what quantization does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.errors import LorabenchError

if TYPE_CHECKING:
    from lorabench.report.adapter_summary import Examined
    from lorabench.workflows.spectrum_results import QuantizationErrors, TruncatedAdapter


def spectrum(
    source: str | Path,
    *,
    base: str | Path | None = None,
    compare: str | Path | None = None,
    alpha: float | None = None,
    directory: str | Path | None = None,
) -> Examined:
    """What an adapter, a cell or a checkpoint learned: the singular values of its change, module by module.

    Args:
        source: a PEFT folder, a file of factors, a cell's folder or id, a condition's label, or (with base) a
            checkpoint.
        base: the weights before; a cell knows its own.
        compare: a second one, whose subspaces are held beside it by phi(i, j) of Hu et al. 2021 (arXiv:2106.09685),
            section 7.2.
        alpha: lora_alpha of a file without configuration.
        directory: results directory in which ids and labels are looked up; paths alone are taken where it is absent.
    Returns:
        Examined: modules in `.spectra` and `.frame()`, groups in `.summary`.
    Raises:
        LorabenchError: there is nothing of the kind, or its files are damaged.
    Example:
        >>> import tempfile, numpy as np, lorabench as lb
        >>> from safetensors.numpy import save_file
        >>> file = tempfile.mkdtemp() + "/lora.safetensors"
        >>> factors = {"q.lora_A": np.eye(4, 16, dtype="f4"), "q.lora_B": np.eye(16, 4, dtype="f4")}
        >>> save_file(factors, file)
        >>> round(float(lb.spectrum(file).frame().stable_rank[0]), 2)
        4.0
    """
    from lorabench.workflows import spectrum

    return spectrum.spectrum(
        str(source),
        base=None if base is None else str(base),
        compare=None if compare is None else str(compare),
        alpha=alpha,
        find=_finder(directory),
    )


def truncate(
    source: str | Path,
    output: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    per_module: bool = False,
    alpha: float | None = None,
    directory: str | Path | None = None,
) -> TruncatedAdapter:
    """Writes the nearest adapter of a lower rank (by Eckart and Young, the leading singular directions) in PEFT's
    format.

    Args:
        source: as for spectrum, an adapter.
        output: folder to write; absent or empty.
        rank: of every module; with per_module as many parameters, spread by energy.
        energy: share of the squared singular values to keep, above 0 and at most 1; this or rank.
        per_module: a rank of its own for each module.
        alpha: lora_alpha, over what the files say.
        directory: as for spectrum.
    Returns:
        TruncatedAdapter: folder, ranks by module, parameters, energy kept.
    Raises:
        LorabenchError: it is no adapter, or rank and energy are not what is allowed.
    Example:
        >>> import tempfile, numpy as np, lorabench as lb
        >>> from safetensors.numpy import save_file
        >>> folder = tempfile.mkdtemp()
        >>> factors = {"q.lora_A": np.eye(4, 16, dtype="f4"), "q.lora_B": np.eye(16, 4, dtype="f4")}
        >>> save_file(factors, folder + "/lora.safetensors")
        >>> cut = lb.truncate(folder + "/lora.safetensors", folder + "/cut", rank=2)
        >>> cut.frame()["rank"].tolist()
        [2]
    """
    from lorabench.workflows import spectrum

    return spectrum.truncate(
        str(source),
        str(output),
        rank=rank,
        energy=energy,
        per_module=per_module,
        alpha=alpha,
        find=_finder(directory),
    )


def quantization_error(
    model: str | Path,
    *,
    quantization: Sequence[str] = ("int8", "fp4", "nf4"),
    adapter: str | Path | None = None,
    directory: str | Path | None = None,
) -> QuantizationErrors:
    """What quantization alone does to each linear weight of a model, without training.

    Args:
        model: directory, shipped model or hub id.
        quantization: names of int8, fp4, nf4; 4-bit ones are shown with and without double quantization.
        adapter: does what this one learned undo the error? A source as for spectrum.
        directory: as for spectrum.
    Returns:
        QuantizationErrors: a row per module and form; errors relative to the weight's norm, signal to noise in dB.
    Raises:
        LorabenchError: the model or a quantization is none that is known.
    Example:
        >>> import lorabench as lb
        >>> errors = lb.quantization_error("lorabench/tiny-300k", quantization=["int8", "nf4"])
        >>> means = errors.frame().groupby("quantization").relative_error.mean()
        >>> bool(means["int8"] < means["nf4"])
        True
    """
    from lorabench.workflows import spectrum

    return spectrum.quantization_error(
        str(model), quantization, adapter=None if adapter is None else str(adapter), find=_finder(directory)
    )


def _finder(directory: str | Path | None) -> Callable[[str], Path]:
    if directory is None:
        return _refuse_name
    from lorabench.workflows.spectrum import cell_finder

    return cell_finder(str(directory))


def _refuse_name(name: str) -> Path:
    raise LorabenchError(
        f"there is no file or folder {name}; a cell's id or a condition's label is looked up in a results directory:"
        " name it with directory="
    )
