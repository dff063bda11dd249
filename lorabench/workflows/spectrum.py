"""What was learned, decomposed; adapters cut to a lower rank; what quantization does to weights. Sees both arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeVar

from lorabench.config import hub
from lorabench.config.elsewhere import unknown_choice
from lorabench.errors import LorabenchError
from lorabench.formatting import plural
from lorabench.workflows.spectrum_results import QuantizationErrors, TruncatedAdapter

if TYPE_CHECKING:
    from lorabench.record.spectrum import Spectrum
    from lorabench.record.trained import Trained
    from lorabench.report.adapter_summary import Examined, SubspaceSimilarity
    from lorabench.spectra.files import Weights
    from lorabench.spectra.quantized import Quantize
    from lorabench.spectra.source import Learned

Item = TypeVar("Item")
Find = Callable[[str], Path]


class ItemProgress(Protocol):
    """Shows items as they come (`what` is their noun) and hands them on."""

    def __call__(self, items: Iterable[Item], what: str) -> Iterable[Item]: ...


def silent(items: Iterable[Item], what: str) -> Iterable[Item]:
    """Shows nothing."""
    return items


def cell_finder(directory: str | None, say: Callable[[str], None] = lambda sentence: None) -> Find:
    """Looks a cell up by its id or its condition's label, in one results directory or in all under reports/; gives its
    folder, and says which of several was taken."""

    def find(name: str) -> Path:
        from lorabench.workflows import cell_lookup

        store, result = cell_lookup.find_cell(name, directory, say)
        return store.cells_folder / result.cell.id

    return find


def spectrum(
    source: str,
    *,
    base: str | None = None,
    compare: str | None = None,
    alpha: float | None = None,
    all_intruders: bool = False,
    find: Find | None = None,
    progress: ItemProgress = silent,
) -> Examined:
    """Singular values of everything that was learned, summed up, beside the base and beside another where they are
    given.

    source          an adapter's folder or file, a cell's folder, a checkpoint (with `base`), a hub id, or what `find`
                    knows
    base            the weights before; a cell knows its own
    compare         a second source, whose singular subspaces are compared with the first's
    alpha           lora_alpha of a file that states none
    all_intruders   intruder dimensions of matrices of any size, not of sides up to 2,048 alone
    LorabenchError where there is nothing of the kind, or the files are damaged.
    """
    from lorabench.analysis.spectra_summary import summarise
    from lorabench.report.adapter_summary import Examined, sizes, trained_words
    from lorabench.spectra.analyse import analyse
    from lorabench.spectra.source import open_learned
    from lorabench.spectra.trained import trained

    learned = open_learned(source, base, alpha, find)
    second = open_learned(compare, base, alpha, find) if compare is not None else None
    spectra = tuple(progress(analyse(learned, all_intruders), "module"))
    if not spectra:
        raise LorabenchError(f"{learned.title} holds no change of any module")
    facts = [
        ("source", source),
        ("modules", f"{len(spectra)}, {sizes(spectra)}"),
        (
            "base",
            _base_words(learned.base, learned.after) if learned.base else "not given: no measure against its weights",
        ),
    ]
    if learned.result is not None:
        cell = learned.result.cell
        facts.append(
            (
                "cell",
                f"{cell.method.name} on {cell.model.name}, quantization {cell.quantization.name}, seed {cell.seed}",
            )
        )
    counts = trained(learned.adapter) if learned.adapter is not None else None
    if counts is not None:
        facts.append(("trained", trained_words(counts)))
    likeness = _similarity(learned, second, progress) if second is not None else None
    return Examined(
        learned.title,
        _notes(learned, spectra, all_intruders, counts),
        tuple(facts),
        spectra,
        summarise(spectra),
        likeness,
        counts,
    )


def _notes(
    learned: Learned, spectra: Sequence[Spectrum], all_intruders: bool, counts: Trained | None
) -> tuple[str, ...]:
    from lorabench.report.adapter_summary import trained_notes
    from lorabench.spectra.source import why_lacking

    notes = [*learned.notes, *(trained_notes(counts) if counts is not None else ())]
    if any(s.missed for s in spectra):
        notes.append(
            "for matrices with both sides above 8,192 only the first 512 values are listed; the rest counts in the"
            " norm and in k(q), but not in the entropy rank"
        )
    if learned.base is not None and learned.has_weights:
        without = [s for s in spectra if s.alignment is None]
        if without:
            notes.append(
                f"{plural(len(without), 'module')} without a weight of the base: {why_lacking(learned, without[0])}"
            )
        if not all_intruders and any(s.alignment and not s.intruders for s in spectra):
            notes.append(
                "intruder dimensions are left out for sides above 2,048, where they take seconds a module; --intruders"
                " computes them"
            )
    return tuple(notes)


def _similarity(one: Learned, other: Learned, progress: ItemProgress) -> SubspaceSimilarity:
    from lorabench.report.adapter_summary import SubspaceSimilarity
    from lorabench.spectra.analyse import compare as subspace_similarities
    from lorabench.spectra.subspace import mean

    similarities = tuple(progress(subspace_similarities(one, other), "module"))
    tables = [t for side in ("left", "right") for t in mean(similarities, side)]
    return SubspaceSimilarity(other.title, sum(bool(s.left.numel()) for s in similarities), len(similarities), *tables)


def _base_words(base: Weights, after: Weights | None) -> str:
    """Where the base lies, and how it and the checkpoint that is held against it are stored, where that is
    quantized."""
    words = str(base.place) + (f", stored in {base.form}: its dequantized weights are used" if base.form else "")
    if after is None or after.form == base.form:
        return words
    return (
        words
        + (f"; {after.place} is stored in {after.form}" if after.form else "")
        + "; what quantization lost is part of the difference"
    )


def truncate(
    source: str,
    output: str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    per_module: bool = False,
    alpha: float | None = None,
    find: Find | None = None,
) -> TruncatedAdapter:
    """Writes the nearest adapter of a lower rank to a folder, in PEFT's format.

    source      an adapter's folder or file, a cell's folder, a hub id, or what `find` knows
    output      a folder that does not exist yet, or is empty
    rank        of every module; with `per_module` as many parameters as that, spread by energy
    energy      share of all sigma^2 to keep, 0 to 1, instead of `rank`; with `per_module` with the fewest parameters
    alpha       lora_alpha of a file that states none
    LorabenchError where both or none of rank and energy are given, where the source is no adapter, or the folder holds
    something.
    """
    from lorabench.report.adapter_summary import trained_notes
    from lorabench.spectra.source import open_learned, resolve
    from lorabench.spectra.trained import trained
    from lorabench.spectra.truncate import truncate as write_truncated

    at = resolve(source, find)
    if at.kind == "checkpoint":
        raise LorabenchError(
            f"{source} is a whole checkpoint; only the factors of an adapter can be cut and written in PEFT's format"
        )
    learned = open_learned(at, alpha=alpha)
    if learned.adapter is None:
        raise LorabenchError(
            f"{learned.title} is not an adapter; only the factors of one can be cut and written in PEFT's format"
        )
    written = write_truncated(learned.adapter, output, rank, energy, per_module)
    fate = "are carried over as they are" + (" where PEFT has a place for them" if written.left_out else "")
    return TruncatedAdapter(
        folder=written.folder,
        ranks=dict(written.allotment.ranks),
        parameters=written.allotment.parameters,
        parameters_before=written.before,
        kept_energy=written.allotment.kept_energy,
        left_out=written.left_out,
        notes=(*learned.notes, *trained_notes(trained(learned.adapter), fate)),
    )


def quantization_error(
    model: str,
    quantizations: Sequence[str] = ("int8", "fp4", "nf4"),
    *,
    adapter: str | None = None,
    find: Find | None = None,
    progress: ItemProgress = silent,
) -> QuantizationErrors:
    """What quantization alone does to every linear layer of a model; 4-bit forms with and without double quantization.

    model           a shipped model, a folder of transformers, or a hub id
    quantizations   names of lorabench/quantizations, such as nf4, fp4, int8
    adapter         an adapter or cell, whose part in undoing the error is measured, too
    LorabenchError where a name is unknown or the model's weights are not to be had.
    """
    from lorabench import plugins
    from lorabench.engine.adapt import linear_modules
    from lorabench.engine.model import meta_model
    from lorabench.memory.validate import model_from
    from lorabench.spectra.quantization_error import quantization_errors
    from lorabench.spectra.source import open_base, open_learned

    allowed = [n for n in plugins.names("quantizations") if n != "none"]
    for name in quantizations:
        if name not in allowed:
            raise LorabenchError(unknown_choice("quantization", name, allowed))
    hub.require_named(model)
    weights = open_base(model)
    if not weights.place.is_dir() and weights.place.suffix != ".gguf":
        raise LorabenchError(
            f"{model} is a file of weights; give the folder that holds it with its config.json, which says which"
            " layers are linear"
        )
    modules = linear_modules(meta_model(model_from(str(weights.place))))
    learned = open_learned(adapter, str(weights.place), None, find) if adapter is not None else None
    if learned is not None and not learned.has_weights:
        raise LorabenchError(f"{learned.title} keeps no weights; give an adapter, or a cell that trained one")
    errors = quantization_errors(weights, modules, _forms(quantizations, weights.form), learned)
    return QuantizationErrors(model, tuple(progress(errors, "weight")), adapter, _stored_note(weights))


def _stored_note(weights: Weights) -> str | None:
    """What errors of quantization are of where the checkpoint is quantized already; None where it is not."""
    from lorabench import plugins

    if weights.form is None:
        return None
    shown = weights.form.partition(" ")[0] in plugins.names("quantizations")
    which = "quantizing to that form again loses nothing (error 0), and the other" if shown else "the"
    return (
        f"{weights.place} is stored in {weights.form} already: {which} errors are of its dequantized weights; "
        "only the unquantized checkpoint shows what the first quantization lost"
    )


def _forms(names: Iterable[str], stored: str | None = None) -> dict[str, Quantize]:
    """Each quantization by name, 4-bit ones a second time with double quantization; the form that the weights are
    stored in leaves them as they are."""
    from lorabench import plugins

    def quantize(plugin: ModuleType, double: bool) -> Quantize:
        return lambda weight: (weight.float(), plugin.roundtrip(weight.float(), double))

    forms = {}
    for name in dict.fromkeys(names):
        plugin = plugins.load("quantizations", name)
        forms[name] = quantize(plugin, False)
        if plugin.DOUBLE_QUANT:
            forms[f"{name} dq"] = quantize(plugin, True)
    own = (stored or "").replace(" with double quantization", " dq")
    if own in forms:
        forms[own] = lambda weight: (weight.float(), weight.float())
    return forms
