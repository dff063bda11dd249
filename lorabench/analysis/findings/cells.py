"""Findings about cells: what did not finish, and where they ran. Each function is named after its kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings import cells_text as text
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.study import StudyAnalysis
from lorabench.config.fingerprint import canonical_json
from lorabench.config.paths import model_label
from lorabench.config.validity import leaves_experts
from lorabench.record.metrics import metric
from lorabench.record.result import Environment, Resolved

_BROKEN = ("diverged", "out_of_memory", "failed", "skipped")


def failed(e: StudyAnalysis) -> Finding | None:
    """Cells that ended in an error."""
    groups, cells, total = _ended(e, "failed")
    if not cells:
        return None
    kinds = Counter(error.kind for i in cells if (error := e.results[i].error))
    sentence = text.failed(len(cells), total, kinds, imported=e.study.imported is not None)
    return Finding("failed", "grave", "Cells failed", sentence, e.labels(groups), cells)


def analysis_failed(e: StudyAnalysis) -> Finding | None:
    """Finished cells of which a later phase failed: spectra, cuts or memory are absent."""
    cells = tuple(i for g in e.groups for i in g.ids if i in e.results and e.results[i].faults)
    if not cells:
        return None
    phases: Counter[str] = Counter(f.phase or "measure" for i in cells for f in e.results[i].faults)
    groups = [g for g in e.groups if not set(g.ids).isdisjoint(cells)]
    sentence = text.analysis_failed(phases, e.results[cells[0]].faults[0].message)
    return Finding("analysis_failed", "caution", "Analyses failed", sentence, e.labels(groups), cells)


def diverged(e: StudyAnalysis) -> Finding | None:
    """Cells whose loss became infinite."""
    groups, cells, total = _ended(e, "diverged")
    if not cells:
        return None
    learning_rates = {e.results[i].cell.training.fixed_learning_rate for i in cells}
    at_first_step = sum(error.step == 1 for i in cells if (error := e.results[i].error) is not None)
    sentence = text.diverged(len(cells), total, learning_rates, at_first_step)
    return Finding("diverged", "grave", "Cells diverged", sentence, e.labels(groups), cells)


def out_of_memory(e: StudyAnalysis) -> Finding | None:
    """Cells that did not fit."""
    groups, cells, total = _ended(e, "out_of_memory")
    if not cells:
        return None
    sentence = text.out_of_memory(len(cells), total, {e.results[i].cell.training.batch_size for i in cells})
    return Finding("out_of_memory", "grave", "Cells ran out of memory", sentence, e.labels(groups), cells)


def skipped(e: StudyAnalysis) -> Finding | None:
    """Cells that were predicted not to fit."""
    groups, cells, total = _ended(e, "skipped")
    if not cells:
        return None
    sentence = text.skipped(len(cells), total)
    return Finding("skipped", "caution", "Cells were skipped", sentence, e.labels(groups), cells)


def missing(e: StudyAnalysis) -> Finding | None:
    """Cells that have not run, those at all rates of a grid among them: the choice waits for them."""
    groups, cells, total = _ended(e, "missing", e.planned)
    if not cells:
        return None
    at_chosen = {i for g in e.groups for i in g.ids}
    sentence = text.missing(len(cells), total, sum(i not in at_chosen for i in cells))
    return Finding("missing", "grave", "Cells are missing", sentence, e.labels(groups), cells)


def rates_broke(e: StudyAnalysis) -> Finding | None:
    """Cells that broke while a rate was sought, at rates that no number comes from."""
    at_chosen = {i for g in e.groups for i in g.ids}
    broken = {i: o for g in e.planned for i in g.ids if i not in at_chosen and (o := e.outcome(i)) in _BROKEN}
    if not broken:
        return None
    learning_rates = {e.results[i].cell.training.fixed_learning_rate for i in broken}
    sentence = text.rates_broke(Counter(broken.values()), sum(len(g.ids) for g in e.planned), learning_rates)
    groups = [g for g in e.planned if any(i in broken for i in g.ids)]
    return Finding("rates_broke", "note", "Some learning rates did not work", sentence, e.labels(groups), tuple(broken))


def mixed_environments(e: StudyAnalysis) -> Finding | None:
    """Cells that ran on different devices or with different libraries."""
    by_cell = {
        i: facts(env)
        for g in e.groups
        for i in g.ids
        if i in e.results and (env := e.results[i].environment) is not None
    }
    for late in ("instructions", "processor"):  # results of before it was recorded may be of the same processor
        if not all(late in f for f in by_cell.values()):
            by_cell = {i: {name: v for name, v in f.items() if name != late} for i, f in by_cell.items()}
    environments = Counter(tuple(f.items()) for f in by_cell.values())
    if len(environments) < 2:
        return None
    most_common = dict(environments.most_common(1)[0][0])
    values = {
        name: Counter(f.get(name, "none") for f in by_cell.values())
        for name in dict.fromkeys(name for f in by_cell.values() for name in f)
    }
    odd = tuple(i for i, f in by_cell.items() if f != most_common)
    differing = {name: counts for name, counts in values.items() if len(counts) > 1}
    joined = len(e.merged.sources) if e.merged is not None else 0
    sentence = text.mixed_environments(
        len(environments), differing, len(odd), e.timed_on, joined, imported=e.study.imported is not None
    )
    groups = [g for g in e.groups if not set(g.ids).isdisjoint(odd)]
    return Finding(
        "mixed_environments", "caution", "Cells ran in different environments", sentence, e.labels(groups), odd
    )


def merged_differ(e: StudyAnalysis) -> Finding | None:
    """Cells that finished in two of the directories that were joined, and measured something else there."""
    differing = [t for t in (e.merged.twice if e.merged is not None else ()) if t.difference > 0]
    if not differing:
        return None
    assert e.merged is not None
    most = max(t.difference for t in differing)
    cells = tuple(dict.fromkeys(t.cell for t in differing))
    margins = e.study.comparison
    margin = margins.accuracy_margin if metric(differing[0].metric).unit == "share" else margins.loss_margin
    sentence = text.merged_differ(len(cells), len(e.merged.twice), differing[0].metric, most, margin)
    groups = [g for g in e.groups if not set(g.ids).isdisjoint(cells)]
    return Finding("merged_differ", "caution", "A cell's two runs differ", sentence, e.labels(groups), cells)


def stored_quantised(e: StudyAnalysis) -> Finding | None:
    """Bases that were quantized before they came here."""
    groups = [g for g in e.groups if any(r.stored_quantised for r in _resolved(e, g))]
    if not groups:
        return None
    bases = dict.fromkeys(
        (model_label(g.setting.model.name), g.setting.quantization.name, bool(g.setting.quantization.double_quant))
        for g in groups
    )
    sentence = text.stored_quantised(list(bases))
    return Finding(
        "stored_quantised", "note", "A checkpoint was quantized already", sentence, e.labels(groups), e.finished(groups)
    )


def gguf(e: StudyAnalysis) -> Finding | None:
    """Bases that came as GGUF files, whose weights were dequantized on loading."""
    groups = [g for g in e.groups if any(r.stored_type for r in _resolved(e, g))]
    if not groups:
        return None
    files = e.gguf_types
    return Finding("gguf", "note", "The base is a GGUF file", text.gguf(files), e.labels(groups), e.finished(groups))


def unreached(e: StudyAnalysis) -> Finding | None:
    """Weights that were asked to be quantized or adapted, and are neither."""
    weights: dict[tuple[str, str], list[Replicates]] = {}
    for g in e.groups:
        cell = g.setting
        for left in [r.unreached for r in _resolved(e, g) if r.unreached is not None][:1]:
            words = left.words(quantized=cell.quantization.name != "none", adapted=leaves_experts(cell.method))
            if words:
                weights.setdefault((model_label(cell.model.name), words), []).append(g)
    if not weights:
        return None
    groups = [g for members in weights.values() for g in members]
    sentence = text.unreached(list(weights))
    return Finding("unreached", "note", "Weights are not reached", sentence, e.labels(groups), e.finished(groups))


def _resolved(e: StudyAnalysis, group: Replicates) -> list[Resolved]:
    return [resolved for i in group.ids if i in e.results and (resolved := e.results[i].resolved) is not None]


def mixed_precision(e: StudyAnalysis) -> Finding | None:
    """Conditions of one model and declared dtype that were evaluated in different precisions, as full fine-tuning and
    adapters were before it was one for all."""
    models: dict[str, dict[str, list[str]]] = {}
    stored: dict[str, set[str]] = {}
    before: dict[str, list[str]] = {}
    for g in e.groups:
        model = canonical_json(g.declared["model"])
        for i in e.finished([g]):
            if (resolved := e.results[i].resolved) is not None:
                models.setdefault(model, {}).setdefault(resolved.eval_dtype or resolved.dtype, []).append(i)
                stored.setdefault(model, set()).add(resolved.dtype)
                if resolved.eval_dtype is None and e.results[i].value("forgetting") is not None:
                    before.setdefault(model, []).append(i)
    mixed = [by_dtype for by_dtype in models.values() if len(by_dtype) > 1]
    shared = [i for model, cells in before.items() if len(stored[model]) > 1 for i in cells]
    if not mixed and not shared:
        return None
    number_by_dtype = Counter(dtype for by_dtype in mixed for dtype, cells in by_dtype.items() for _ in cells)
    cells = tuple(dict.fromkeys((*(i for m in mixed for c in m.values() for i in c), *shared)))
    sentence = text.mixed_precision(number_by_dtype, len(shared))
    groups = [g for g in e.groups if not set(g.ids).isdisjoint(cells)]
    return Finding("mixed_precision", "caution", "Evaluated in different precisions", sentence, e.labels(groups), cells)


def facts(env: Environment) -> dict[str, str]:
    """What times, memory and the last digits of losses hang on."""
    named = {
        "device": env.device,
        "driver": env.driver,
        "threads": env.cores,
        "processor": env.processor if env.driver is None else None,
        "instructions": env.instructions,
        **dict(sorted(env.packages.items())),
    }
    return {name: str(value) for name, value in named.items() if value is not None}


def _ended(
    e: StudyAnalysis, outcome: str, groups: Sequence[Replicates] | None = None
) -> tuple[list[Replicates], tuple[str, ...], int]:
    """The conditions and cells that ended so, at the chosen rates unless others are given, and of how many cells."""
    among = e.groups if groups is None else groups
    cells = tuple(i for g in among for i in g.ids if e.outcome(i) == outcome)
    return [g for g in among if not set(g.ids).isdisjoint(cells)], cells, sum(len(g.ids) for g in among)
