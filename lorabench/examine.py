"""What the CLI shows of what was learned: spectrum, truncate, quantization-error; as text, JSON or a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorabench.errors import LorabenchError
from lorabench.report.human import count, one_line, plural
from lorabench.spec import hub
from lorabench.spec.elsewhere import unknown_choice

if TYPE_CHECKING:
    from lorabench.analysis.summarise import Group
    from lorabench.record.spectrum import Spectrum
    from lorabench.record.trained import Trained
    from lorabench.report.blocks import Section
    from lorabench.report.examined import Examined, Likeness
    from lorabench.report.quantization_page import ModuleError
    from lorabench.spectra.files import Weights
    from lorabench.spectra.quantised import Quantise
    from lorabench.spectra.quantization_error import QuantizationError
    from lorabench.spectra.source import Learned

Found = TypeVar("Found")
Find = Callable[[str], Path]


def cell_finder(directory: str | None, say: Callable[[str], None] = lambda sentence: None) -> Find:
    """Looks a cell up by its id or its condition's label, in one results directory or in all under reports/; gives its folder, and says which of several was taken."""

    def find(name: str) -> Path:
        from lorabench import named

        store, result = named.find_cell(name, directory, say)
        return store.cells_folder / result.cell.id

    return find


def spectrum(name: str, base: str | None, other: str | None, alpha: float | None, find: Find, all_intruders: bool = False) -> Examined:
    """Singular values of everything that was learned, summed up, beside the base and beside another where they are given."""
    from lorabench.analysis.summarise import summarise
    from lorabench.report.examined import Examined, sizes, trained_words
    from lorabench.spectra.analyse import analyse
    from lorabench.spectra.source import open_learned
    from lorabench.spectra.trained import trained

    learned = open_learned(name, base, alpha, find)
    second = open_learned(other, base, alpha, find) if other is not None else None
    spectra = tuple(_shown(analyse(learned, all_intruders), "module"))
    if not spectra:
        raise LorabenchError(f"{learned.title} holds no change of any module")
    facts = [("source", name), ("modules", f"{len(spectra)}, {sizes(spectra)}"), ("base", _base_words(learned.base, learned.after) if learned.base else "not given: no measure against its weights")]
    if learned.result is not None:
        cell = learned.result.cell
        facts.append(("cell", f"{cell.method.name} on {cell.model.name}, quantization {cell.quantization.name}, seed {cell.seed}"))
    counts = trained(learned.adapter) if learned.adapter is not None else None
    if counts is not None:
        facts.append(("trained", trained_words(counts)))
    likeness = _likeness(learned, second) if second is not None else None
    return Examined(learned.title, _notes(learned, spectra, all_intruders, counts), tuple(facts), spectra, summarise(spectra), likeness, counts)


def _notes(learned: Learned, spectra: Sequence[Spectrum], all_intruders: bool, counts: Trained | None) -> tuple[str, ...]:
    from lorabench.report.examined import trained_notes
    from lorabench.spectra.source import why_lacking

    told = [*learned.notes, *(trained_notes(counts) if counts is not None else ())]
    if any(s.missed for s in spectra):
        told.append("of matrices with both sides above 8,192 the first 512 values are listed; what the rest holds is in the norm and in k(q), not in the entropy rank")
    if learned.base is not None and learned.has_weights:
        without = [s for s in spectra if s.alignment is None]
        if without:
            told.append(f"{plural(len(without), 'module')} without a weight of the base: {why_lacking(learned, without[0])}")
        if not all_intruders and any(s.alignment and not s.intruders for s in spectra):
            told.append("intruder dimensions are left out for sides above 2,048, where they take seconds a module; --intruders computes them")
    return tuple(told)


def _likeness(one: Learned, other: Learned) -> Likeness:
    from lorabench.report.examined import Likeness
    from lorabench.spectra.analyse import compare
    from lorabench.spectra.subspace import mean

    found = tuple(_shown(compare(one, other), "module"))
    tables = [t for side in ("left", "right") for t in mean(found, side)]
    return Likeness(other.title, sum(bool(s.left.numel()) for s in found), len(found), *tables)


def _base_words(base: Weights, after: Weights | None) -> str:
    """Where the base lies, and how it and the checkpoint that is held against it are stored, where that is quantised."""
    told = str(base.place) + (f", stored in {base.form}: its dequantised weights are meant" if base.form else "")
    if after is None or after.form == base.form:
        return told
    return told + (f"; {after.place} is stored in {after.form}" if after.form else "") + "; what quantisation lost is part of the difference"


def spectrum_text(found: Examined) -> str:
    """The groups as an aligned table, notes below."""
    from lorabench.report.column_legend import legend
    from lorabench.report.examined import grid, lead, likeness_words

    heads, rows = grid(found.summary)
    lines = [one_line(found.title), *(f"  {name:<8} {one_line(value)}" for name, value in found.facts), "", *aligned([heads, *rows]), "", lead(found.summary.model)]
    if found.likeness is not None:
        lines += ["", likeness_words(found.likeness)]
    lines += ["", "columns:", *(f"  {line}" for line in legend(heads)), ""]
    return "\n".join([*lines, *(f"note: {one_line(n)}" for n in found.notes)]).rstrip()


def spectrum_json(found: Examined) -> str:
    """Every module and every group; what is not known is left out."""
    plain: dict[str, Any] = {
        "source": dict(found.facts)["source"],
        "base": dict(found.facts)["base"],
        "notes": list(found.notes),
        "modules": [_module(s) for s in found.spectra],
        "summary": {
            "layers": [_group(g) for g in found.summary.layers],
            "types": [_group(g) for g in found.summary.types],
            "model": _group(found.summary.model),
        },
    }
    if (counts := found.trained) is not None:
        plain["trained"] = {"adapters": counts.adapters, "elsewhere": dict(counts.elsewhere), "saved_along": dict(counts.saved_along)}
    if (alike := found.likeness) is not None:
        plain["similarity"] = {
            "other": alike.other, "modules": alike.modules, "shared": alike.shared,
            **{side: [[None if v != v else v for v in row] for row in getattr(alike, side).tolist()] for side in ("right", "left", "random_right", "random_left")},
        }  # fmt: skip
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)


def _module(s: Spectrum) -> dict[str, Any]:
    from dataclasses import asdict

    from lorabench.record.spectrum import SHARES

    plain: dict[str, Any] = {
        "module": s.module, "in_features": s.in_features, "out_features": s.out_features, "rank": s.rank,
        "singular_values": s.singular_values.tolist(), "frobenius_norm": s.frobenius_norm, "relative_norm": s.relative_norm,
        "stable_rank": s.stable_rank, "entropy_rank": s.entropy_rank, "participation_ratio": s.participation_ratio,
        "numerical_rank": s.numerical_rank, "energy_rank": {f"{q:g}": s.energy_rank(q) for q in SHARES},
        "nuclear_rank": {f"{q:g}": s.nuclear_rank(q) for q in SHARES}, "rank_utilisation": s.rank_utilisation,
        "amplification": s.amplification, "missed_norm": s.missed or None,
    }  # fmt: skip
    plain |= {name: asdict(part) for name in ("alignment", "intruders", "repair") if (part := getattr(s, name)) is not None}
    return {k: v for k, v in plain.items() if v is not None}


def _group(group: Group) -> dict[str, Any]:
    from dataclasses import asdict

    return {k: v for k, v in asdict(group).items() if v is not None}


def write_page(found: Examined, path: str) -> Path:
    """Writes the page of spectrum; LorabenchError where it cannot."""
    from lorabench.report.examined_page import examined_sections

    return _write(path, found.title, f"{plural(len(found.spectra), 'module')}.", examined_sections(found))


def _write(path: str, title: str, told: str, sections: tuple[Section, ...]) -> Path:
    from lorabench.record.store import write_atomically
    from lorabench.report.page import sections_page

    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, sections_page(title, told, sections))
    except OSError as e:
        raise LorabenchError(f"{path} cannot be written ({e.strerror}); choose another file with --html FILE") from None
    return target


def truncate(name: str, folder: str, rank: int | None, energy: float | None, per_module: bool, alpha: float | None, find: Find) -> str:
    """Writes the adapter cut to a lower rank; says what is left of it."""
    from lorabench.report.examined import trained_notes
    from lorabench.spectra.adapter_files import is_adapter
    from lorabench.spectra.source import open_learned
    from lorabench.spectra.trained import trained
    from lorabench.spectra.truncate import truncate as cut

    place = Path(name).expanduser()
    if place.is_dir() and not is_adapter(place) and (place / "config.json").is_file():
        raise LorabenchError(f"{name} is a whole checkpoint; only the factors of an adapter can be cut and written in PEFT's format")
    learned = open_learned(name, None, alpha, find)
    if learned.adapter is None:
        raise LorabenchError(f"{learned.title} is no adapter; only the factors of one can be cut and written in PEFT's format")
    made = cut(learned.adapter, folder, rank, energy, per_module)
    ranks = sorted(r for r in made.allotment.ranks.values() if r)
    span = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
    left = made.modules - len(ranks)
    out = f", {plural(left, 'module')} of {made.modules} left out" if left else ""
    kept = f"{100 * made.allotment.kept_energy:.2f} % of the energy"
    fate = "are carried over as they are" + (" where PEFT has a place for them" if made.left_out else "")
    told = (*learned.notes, *trained_notes(trained(learned.adapter), fate))
    notes = [f"note: {one_line(n)}" for n in told]
    if made.allotment.parameters >= made.before:
        notes.append("note: nothing was cut, the adapter has no higher rank")
    if made.left_out:
        notes.append(f"note: left out, since without adapter_config.json nobody knows what they mean: {one_line(', '.join(made.left_out[:3]))}{' ...' if len(made.left_out) > 3 else ''}")
    return "\n".join([f"{made.folder}: {span}{out}, {count(made.allotment.parameters)} of {count(made.before)} parameters, {kept}", *notes])


def quantization_errors(model: str, names: Sequence[str], adapter: str | None, find: Find) -> list[QuantizationError]:
    """Of every linear layer of a model, in every form asked for; 4-bit ones with and without double quantisation."""
    from lorabench import plugins
    from lorabench.engine.adapt import linear_modules
    from lorabench.engine.model import skeleton
    from lorabench.memory.request import model_from
    from lorabench.spectra.quantization_error import quantization_errors as errors
    from lorabench.spectra.source import open_base, open_learned

    allowed = [n for n in plugins.names("quantizations") if n != "none"]
    for name in names:
        if name not in allowed:
            raise LorabenchError(unknown_choice("quantization", name, allowed))
    hub.require_named(model)
    weights = open_base(model)
    if not weights.place.is_dir():
        raise LorabenchError(f"{model} is a file of weights; give the folder that holds it with its config.json, which tells the linear layers")
    spec = model_from(str(weights.place))
    modules = linear_modules(skeleton(spec))
    learned = open_learned(adapter, str(weights.place), None, find) if adapter is not None else None
    if learned is not None and not learned.has_weights:
        raise LorabenchError(f"{learned.title} keeps no weights; give an adapter, or a cell that trained one")
    return list(_shown(errors(weights, modules, _forms(names, weights.form), learned), "weight"))


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


def errors_text(errors: Sequence[QuantizationError], note: str | None = None) -> str:
    """Means by form and module type, the worst module of each form, and what the columns mean."""
    from lorabench.report.column_legend import legend
    from lorabench.report.quantization_page import group_rows

    heads, rows = group_rows(_module_errors(errors))
    meanings = [f"  {line}" for line in legend(heads)]
    return "\n".join([*aligned([heads, *rows]), "", "columns (nothing was trained):", *meanings, *([f"note: {one_line(note)}"] if note else [])])


def write_errors_page(model: str, errors: Sequence[QuantizationError], path: str, adapter: str | None = None, note: str | None = None) -> Path:
    """Writes the page of quantization-error; LorabenchError where it cannot."""
    from lorabench.report.quantization_page import quantization_sections

    told = f"{plural(len({e.module for e in errors}), 'linear module')} of {model}."
    return _write(path, f"{model}: error of quantisation", told, quantization_sections(_module_errors(errors), adapter, note))


def _module_errors(errors: Sequence[QuantizationError]) -> tuple[ModuleError, ...]:
    """The same without tensors, as the report shows it."""
    from lorabench.report.quantization_page import ModuleError

    return tuple(ModuleError(e.module, e.form, e.relative_error, e.maximum_error, e.signal_to_noise, e.spectrum.stable_rank, e.repair) for e in errors)


def errors_json(model: str, errors: Sequence[QuantizationError], note: str | None = None) -> str:
    """A row per module and form."""
    from dataclasses import asdict

    rows = []
    for e in errors:
        row: dict[str, Any] = {
            "module": e.module, "quantization": e.form.removesuffix(" dq"), "double_quant": e.form.endswith(" dq"), "relative_error": e.relative_error,
            "maximum_error": e.maximum_error, "signal_to_noise_db": e.signal_to_noise, "stable_rank": e.spectrum.stable_rank,
            "entropy_rank": None if e.spectrum.missed else e.spectrum.entropy_rank, "singular_values": e.spectrum.singular_values.tolist(),
            "repair": asdict(e.repair) if e.repair else None,
        }  # fmt: skip
        rows.append({k: v for k, v in row.items() if v is not None})
    return json.dumps({"model": model, **({"note": note} if note else {}), "modules": rows}, indent=1, allow_nan=False)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns: texts to the left, numbers to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, c)) for c in columns]
    text = [not any(f[:1].isdigit() or f[:1] == "−" for f in c[1:]) for c in columns]
    rows = [[one_line(f) for f in row] for row in rows]
    return ["  ".join(f.ljust(w) if t else f.rjust(w) for f, w, t in zip(row, widths, text, strict=True)).rstrip() for row in rows]


def _shown(items: Iterable[Found], what: str) -> Iterator[Found]:
    """Items as they come, counted on the terminal where there is one."""
    live = sys.stderr.isatty()
    for n, item in enumerate(items, 1):
        if live:
            print(f"\r{what} {n}", end="", file=sys.stderr, flush=True)
        yield item
    if live:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
