"""What was learned, decomposed; adapters cut to a lower rank; what quantisation does to weights. Sees both arms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorabench.config import hub
from lorabench.config.elsewhere import unknown_choice
from lorabench.errors import LorabenchError
from lorabench.formatting import count, one_line, plural

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.record.spectrum import Spectrum
    from lorabench.record.trained import Trained
    from lorabench.report.adapter_summary import Examined, SubspaceSimilarity
    from lorabench.spectra.files import Weights
    from lorabench.spectra.quantised import Quantise
    from lorabench.spectra.quantization_error import QuantizationError
    from lorabench.spectra.source import Learned
    from lorabench.spectra.truncate import Cut

Found = TypeVar("Found")
Find = Callable[[str], Path]


@dataclass(frozen=True)
class TruncatedAdapter:
    """An adapter that was written at a lower rank; `frame()`, `to_dict()`; str() is what `lorabench truncate` prints."""

    cut: Cut
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it lies, in PEFT's format."""
        return self.cut.folder

    def frame(self) -> pd.DataFrame:
        """The rank of each module; 0 where the module is left out."""
        import pandas as pd

        return pd.DataFrame({"rank": self.cut.allotment.ranks}).rename_axis("module")

    def to_dict(self) -> dict[str, Any]:
        """Plain values: folder, ranks by module, parameters before and after, share of the energy that is kept, notes."""
        allotment = self.cut.allotment
        return {
            "folder": str(self.folder),
            "ranks": dict(allotment.ranks),
            "parameters": allotment.parameters,
            "parameters_before": self.cut.before,
            "kept_energy": allotment.kept_energy,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        allotment = self.cut.allotment
        ranks = sorted(r for r in allotment.ranks.values() if r)
        span = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
        left = self.cut.modules - len(ranks)
        out = f", {plural(left, 'module')} of {self.cut.modules} left out" if left else ""
        kept = f"{100 * allotment.kept_energy:.2f} % of the energy"
        return "\n".join(
            [
                f"{self.folder}: {span}{out}, {count(allotment.parameters)} of {count(self.cut.before)} parameters, {kept}",
                *(f"note: {note}" for note in self.notes),
            ]
        )


@dataclass(frozen=True)
class QuantizationErrors:
    """What quantisation does to each linear weight of a model; `frame()`, `to_dict()`."""

    model: str
    errors: tuple[QuantizationError, ...]
    note: str | None
    """of a checkpoint that is quantised already"""

    def frame(self) -> pd.DataFrame:
        """A row per module and form: relative and greatest error, signal to noise in dB, ranks of the error."""
        import pandas as pd

        rows = [
            {k: v for k, v in m.items() if k not in ("singular_values", "repair")} for m in self.to_dict()["modules"]
        ]
        return pd.DataFrame(rows).set_index(["module", "quantization", "double_quant"])

    def to_dict(self) -> dict[str, Any]:
        """What `lorabench quantization-error --json` prints."""
        rows = []
        for e in self.errors:
            row: dict[str, Any] = {
                "module": e.module,
                "quantization": e.form.removesuffix(" dq"),
                "double_quant": e.form.endswith(" dq"),
                "relative_error": e.relative_error,
                "maximum_error": e.maximum_error,
                "signal_to_noise_db": e.signal_to_noise,
                "stable_rank": e.spectrum.stable_rank,
                "entropy_rank": None if e.spectrum.missed else e.spectrum.entropy_rank,
                "singular_values": e.spectrum.singular_values.tolist(),
                "repair": asdict(e.repair) if e.repair else None,
            }
            rows.append({k: v for k, v in row.items() if v is not None})
        return {"model": self.model, **({"note": self.note} if self.note else {}), "modules": rows}

    def __repr__(self) -> str:
        forms: dict[str, list[float]] = {}
        for e in self.errors:
            forms.setdefault(e.form, []).append(e.relative_error)
        means = ", ".join(f"{form} {sum(v) / len(v):.3g}" for form, v in forms.items())
        return f"QuantizationErrors of {self.model}\n  mean relative error: {means}"


def cell_finder(directory: str | None, say: Callable[[str], None] = lambda sentence: None) -> Find:
    """Looks a cell up by its id or its condition's label, in one results directory or in all under reports/; gives its folder, and says which of several was taken."""

    def find(name: str) -> Path:
        from lorabench.workflows import cell_lookup

        store, result = cell_lookup.find_cell(name, directory, say)
        return store.cells_folder / result.cell.id

    return find


def spectrum(
    name: str, base: str | None, other: str | None, alpha: float | None, find: Find, all_intruders: bool = False
) -> Examined:
    """Singular values of everything that was learned, summed up, beside the base and beside another where they are given."""
    from lorabench.analysis.spectra_summary import summarise
    from lorabench.report.adapter_summary import Examined, sizes, trained_words
    from lorabench.spectra.analyse import analyse
    from lorabench.spectra.source import open_learned
    from lorabench.spectra.trained import trained

    learned = open_learned(name, base, alpha, find)
    second = open_learned(other, base, alpha, find) if other is not None else None
    spectra = tuple(_shown(analyse(learned, all_intruders), "module"))
    if not spectra:
        raise LorabenchError(f"{learned.title} holds no change of any module")
    facts = [
        ("source", name),
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
    likeness = _likeness(learned, second) if second is not None else None
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

    told = [*learned.notes, *(trained_notes(counts) if counts is not None else ())]
    if any(s.missed for s in spectra):
        told.append(
            "of matrices with both sides above 8,192 the first 512 values are listed; what the rest holds is in the norm and in k(q), not in the entropy rank"
        )
    if learned.base is not None and learned.has_weights:
        without = [s for s in spectra if s.alignment is None]
        if without:
            told.append(
                f"{plural(len(without), 'module')} without a weight of the base: {why_lacking(learned, without[0])}"
            )
        if not all_intruders and any(s.alignment and not s.intruders for s in spectra):
            told.append(
                "intruder dimensions are left out for sides above 2,048, where they take seconds a module; --intruders computes them"
            )
    return tuple(told)


def _likeness(one: Learned, other: Learned) -> SubspaceSimilarity:
    from lorabench.report.adapter_summary import SubspaceSimilarity
    from lorabench.spectra.analyse import compare
    from lorabench.spectra.subspace import mean

    found = tuple(_shown(compare(one, other), "module"))
    tables = [t for side in ("left", "right") for t in mean(found, side)]
    return SubspaceSimilarity(other.title, sum(bool(s.left.numel()) for s in found), len(found), *tables)


def _base_words(base: Weights, after: Weights | None) -> str:
    """Where the base lies, and how it and the checkpoint that is held against it are stored, where that is quantised."""
    told = str(base.place) + (f", stored in {base.form}: its dequantised weights are meant" if base.form else "")
    if after is None or after.form == base.form:
        return told
    return (
        told
        + (f"; {after.place} is stored in {after.form}" if after.form else "")
        + "; what quantisation lost is part of the difference"
    )


def truncate(
    name: str, folder: str, rank: int | None, energy: float | None, per_module: bool, alpha: float | None, find: Find
) -> TruncatedAdapter:
    """Writes the adapter cut to a lower rank; says what is left of it."""
    from lorabench.report.adapter_summary import trained_notes
    from lorabench.spectra.adapter_files import is_adapter
    from lorabench.spectra.source import open_learned
    from lorabench.spectra.trained import trained
    from lorabench.spectra.truncate import truncate as cut

    place = Path(name).expanduser()
    if place.is_dir() and not is_adapter(place) and (place / "config.json").is_file():
        raise LorabenchError(
            f"{name} is a whole checkpoint; only the factors of an adapter can be cut and written in PEFT's format"
        )
    learned = open_learned(name, None, alpha, find)
    if learned.adapter is None:
        raise LorabenchError(
            f"{learned.title} is no adapter; only the factors of one can be cut and written in PEFT's format"
        )
    made = cut(learned.adapter, folder, rank, energy, per_module)
    fate = "are carried over as they are" + (" where PEFT has a place for them" if made.left_out else "")
    notes = [one_line(n) for n in (*learned.notes, *trained_notes(trained(learned.adapter), fate))]
    if made.allotment.parameters >= made.before:
        notes.append("nothing was cut, the adapter has no higher rank")
    if made.left_out:
        shown = one_line(", ".join(made.left_out[:3])) + (" ..." if len(made.left_out) > 3 else "")
        notes.append(f"left out, since without adapter_config.json nobody knows what they mean: {shown}")
    return TruncatedAdapter(made, tuple(notes))


def quantization_errors(model: str, names: Sequence[str], adapter: str | None, find: Find) -> QuantizationErrors:
    """Of every linear layer of a model, in every form asked for; 4-bit ones with and without double quantisation."""
    from lorabench import plugins
    from lorabench.engine.adapt import linear_modules
    from lorabench.engine.model import meta_model
    from lorabench.memory.validate import model_from
    from lorabench.spectra.quantization_error import quantization_errors as errors
    from lorabench.spectra.source import open_base, open_learned

    allowed = [n for n in plugins.names("quantizations") if n != "none"]
    for name in names:
        if name not in allowed:
            raise LorabenchError(unknown_choice("quantization", name, allowed))
    hub.require_named(model)
    weights = open_base(model)
    if not weights.place.is_dir():
        raise LorabenchError(
            f"{model} is a file of weights; give the folder that holds it with its config.json, which tells the linear layers"
        )
    spec = model_from(str(weights.place))
    modules = linear_modules(meta_model(spec))
    learned = open_learned(adapter, str(weights.place), None, find) if adapter is not None else None
    if learned is not None and not learned.has_weights:
        raise LorabenchError(f"{learned.title} keeps no weights; give an adapter, or a cell that trained one")
    found = tuple(_shown(errors(weights, modules, _forms(names, weights.form), learned), "weight"))
    return QuantizationErrors(model, found, stored_note(model))


def stored_note(model: str) -> str | None:
    """What errors of quantisation are of where the checkpoint is quantised already; None where it is not."""
    from lorabench import plugins
    from lorabench.spectra.source import open_base

    weights = open_base(model)
    if weights.form is None:
        return None
    shown = weights.form.partition(" ")[0] in plugins.names("quantizations")
    return (
        f"{weights.place} is stored in {weights.form} already: {'in that form nothing is lost any more (error 0), and other' if shown else 'the'} errors are of its dequantised weights; "
        "what the first quantisation lost can be told from the unquantised checkpoint alone"
    )


def _forms(names: Iterable[str], stored: str | None = None) -> dict[str, Quantise]:
    """Each quantisation by name, 4-bit ones a second time with double quantisation; the form that the weights are stored in leaves them as they are."""
    from lorabench import plugins

    def quantise(plugin: Any, double: bool) -> Quantise:
        return lambda weight: (weight.float(), plugin.roundtrip(weight.float(), double))

    found = {}
    for name in dict.fromkeys(names):
        plugin = plugins.load("quantizations", name)
        found[name] = quantise(plugin, False)
        if plugin.DOUBLE_QUANT:
            found[f"{name} dq"] = quantise(plugin, True)
    own = (stored or "").replace(" with double quantisation", " dq")
    if own in found:
        found[own] = lambda weight: (weight.float(), weight.float())
    return found


def _shown(items: Iterable[Found], what: str) -> Iterator[Found]:
    """Items as they come, counted on the terminal where there is one."""
    live = sys.stderr.isatty()
    for n, item in enumerate(items, 1):
        if live:
            print(f"\r{what} {n}", end="", file=sys.stderr, flush=True)
        yield item
    if live:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
