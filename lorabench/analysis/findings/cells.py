"""Findings about cells: what did not finish, and where they ran. Each function is named after its kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings.base import Finding, cells_of, listed
from lorabench.analysis.study import StudyAnalysis
from lorabench.config.fingerprint import canonical_json
from lorabench.config.paths import model_label
from lorabench.record.result import Environment, Resolved

_BROKEN = ("diverged", "out_of_memory", "failed", "skipped")


def failed(e: StudyAnalysis) -> Finding | None:
    """Cells that ended in an error."""
    groups, cells, share = _ended(e, "failed")
    if not cells:
        return None
    kinds = Counter(error.kind for i in cells if (error := e.results[i].error))
    why = f" ({listed([f'{kind} {n} times' if n > 1 else kind for kind, n in kinds.most_common()])})" if kinds else ""
    sentence = f"{share} failed{why}. Run the study again to retry them; their log.txt tells more."
    return Finding("failed", "grave", "Cells failed", sentence, e.labels(groups), cells)


def analysis_failed(e: StudyAnalysis) -> Finding | None:
    """Finished cells of which a later phase failed: spectra, cuts or memory are absent."""
    cells = tuple(i for g in e.groups for i in g.ids if i in e.results and e.results[i].faults)
    if not cells:
        return None
    kinds = Counter(f.phase or "measure" for i in cells for f in e.results[i].faults)
    why = listed([f"{phase} in {n} cell{'s' * (n > 1)}" for phase, n in kinds.items()])
    groups = [g for g in e.groups if not set(g.ids).isdisjoint(cells)]
    sentence = (
        f"A phase after training failed ({why}; {e.results[cells[0]].faults[0].message}), and its numbers are absent."
        " Repeat it alone with: lorabench evaluate DIR."
    )
    return Finding("analysis_failed", "caution", "Analyses failed", sentence, e.labels(groups), cells)


def diverged(e: StudyAnalysis) -> Finding | None:
    """Cells whose loss became infinite."""
    groups, cells, share = _ended(e, "diverged")
    if not cells:
        return None
    rates = ", ".join(f"{r:g}" for r in sorted({e.results[i].cell.training.fixed_learning_rate for i in cells}))
    early = sum(error.step == 1 for i in cells if (error := e.results[i].error) is not None)
    why = f"Their learning rate ({rates}) is too high for the setting: lower it."
    if early:  # nothing was updated yet
        why = (
            f"{early} of them at the first step, which no learning rate has a part in: look at the base, its dtype and"
            " the data." + (f" {why}" if early < len(cells) else "")
        )
    sentence = f"{share} lost a finite loss and have no results. {why}"
    return Finding("diverged", "grave", "Cells diverged", sentence, e.labels(groups), cells)


def out_of_memory(e: StudyAnalysis) -> Finding | None:
    """Cells that did not fit."""
    groups, cells, share = _ended(e, "out_of_memory")
    if not cells:
        return None
    batches = ", ".join(str(b) for b in sorted({e.results[i].cell.training.batch_size for i in cells}))
    sentence = (
        f"{share} did not fit into memory. A batch smaller than theirs ({batches}) or gradient checkpointing may let"
        " them run."
    )
    return Finding("out_of_memory", "grave", "Cells ran out of memory", sentence, e.labels(groups), cells)


def skipped(e: StudyAnalysis) -> Finding | None:
    """Cells that were predicted not to fit."""
    groups, cells, share = _ended(e, "skipped")
    if not cells:
        return None
    sentence = (
        f"{share} {_was(cells)} not run, since predicted not to fit into memory. Run the study without"
        " --skip-infeasible to try."
    )
    return Finding("skipped", "caution", "Cells were skipped", sentence, e.labels(groups), cells)


def missing(e: StudyAnalysis) -> Finding | None:
    """Cells that have not run, those at all rates of a grid among them: the choice waits for them."""
    groups, cells, share = _ended(e, "missing", e.planned)
    if not cells:
        return None
    kept = {i for g in e.groups for i in g.ids}
    aside = sum(i not in kept for i in cells)
    told = (
        f", {aside} of them at rates that are not the chosen ones so far, so that the choice may change"
        if aside
        else ""
    )
    sentence = (
        f"{share} {'has' if len(cells) == 1 else 'have'} not been run yet{told}. Run the study again to complete it."
    )
    return Finding("missing", "grave", "Cells are missing", sentence, e.labels(groups), cells)


def rates_broke(e: StudyAnalysis) -> Finding | None:
    """Cells that broke while a rate was sought, at rates that no number comes from."""
    kept = {i for g in e.groups for i in g.ids}
    broken = {i: o for g in e.planned for i in g.ids if i not in kept and (o := e.outcome(i)) in _BROKEN}
    if not broken:
        return None
    total = sum(len(g.ids) for g in e.planned)
    how = ", ".join(f"{n} {o.replace('_', ' ')}" for o, n in Counter(broken.values()).most_common())
    rates = listed([f"{r:g}" for r in sorted({e.results[i].cell.training.fixed_learning_rate for i in broken})])
    again = (
        " Run the study again to retry those that failed: their rates may be better."
        if "failed" in broken.values()
        else ""
    )
    sentence = (
        f"{cells_of(len(broken), total)} broke at rates that were not chosen ({how}; rates {rates}). No number comes"
        f" from them.{again}"
    )
    groups = [g for g in e.planned if any(i in broken for i in g.ids)]
    return Finding("rates_broke", "note", "Some rates of the grid broke", sentence, e.labels(groups), tuple(broken))


def mixed_environments(e: StudyAnalysis) -> Finding | None:
    """Cells that ran on different devices or with different libraries."""
    seen = {
        i: facts(env)
        for g in e.groups
        for i in g.ids
        if i in e.results and (env := e.results[i].environment) is not None
    }
    if not all(
        "instructions" in f for f in seen.values()
    ):  # results of before it was recorded may be of the same processor
        seen = {i: {name: value for name, value in f.items() if name != "instructions"} for i, f in seen.items()}
    often = Counter(tuple(f.items()) for f in seen.values())
    if len(often) < 2:
        return None
    most = dict(often.most_common(1)[0][0])
    names = dict.fromkeys(name for f in seen.values() for name in f)
    parts = []
    for name in names:
        values = Counter(f.get(name, "none") for f in seen.values())
        if len(values) > 1:
            parts.append(f"{name} ({', '.join(f'{value}: {n}' for value, n in values.most_common())})")
    odd = tuple(i for i, f in seen.items() if f != most)
    sentence = (
        f"Cells ran in {len(often)} environments, told apart by {listed(parts)}; the numbers count cells. Times and"
        f" memory are not comparable between them. Run the {len(odd)} that differ from the most common one again, or"
        " compare quality alone."
    )
    groups = [g for g in e.groups if not set(g.ids).isdisjoint(odd)]
    return Finding(
        "mixed_environments", "caution", "Cells ran in different environments", sentence, e.labels(groups), odd
    )


def stored_quantised(e: StudyAnalysis) -> Finding | None:
    """Bases that were quantised before they came here."""
    groups = [g for g in e.groups if any(r.stored_quantised for r in _resolved(e, g))]
    if not groups:
        return None
    bases = dict.fromkeys(
        f"{model_label(g.setting.model.name)}"
        f" ({g.setting.quantization.name}{' with double quantisation' if g.setting.quantization.double_quant else ''})"
        for g in groups
    )
    sentence = (
        f"{listed(list(bases))} {'is' if len(bases) == 1 else 'are'} stored quantised and"
        f" {'was' if len(bases) == 1 else 'were'} read so: nothing was quantised here, and what that quantisation lost"
        " is in no number. Compare with the unquantised checkpoint to see it."
    )
    return Finding(
        "stored_quantised", "note", "A checkpoint was quantised already", sentence, e.labels(groups), e.finished(groups)
    )


def unreached(e: StudyAnalysis) -> Finding | None:
    """Weights that were asked to be quantised or adapted, and are neither."""
    told: dict[str, list[Replicates]] = {}
    for g in e.groups:
        cell = g.setting
        for left in [r.unreached for r in _resolved(e, g) if r.unreached is not None][:1]:
            words = left.words(
                quantised=cell.quantization.name != "none", adapted=cell.method.target_modules is not None
            )
            if words:
                told.setdefault(f"{model_label(cell.model.name)}: {words}.", []).append(g)
    if not told:
        return None
    groups = [g for some in told.values() for g in some]
    sentence = f"{listed(list(told), ' ')} Weight bytes and trained parameters count as they are."
    return Finding("unreached", "note", "Weights are not reached", sentence, e.labels(groups), e.finished(groups))


def _resolved(e: StudyAnalysis, group: Replicates) -> list[Resolved]:
    return [found for i in group.ids if i in e.results and (found := e.results[i].resolved) is not None]


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
    said = []
    if mixed:
        numbers = Counter(dtype for by_dtype in mixed for dtype, cells in by_dtype.items() for _ in cells)
        each = ", ".join(f"{dtype}: {n}" for dtype, n in sorted(numbers.items()))
        said.append(
            f"Cells of one model were evaluated in different precisions ({each}; the numbers count cells), so that"
            " differences hold what precision alone makes."
        )
    if shared:
        said.append(f"Forgetting of {len(shared)} cells may be counted from a base in another precision than theirs.")
    cells = tuple(dict.fromkeys((*(i for m in mixed for c in m.values() for i in c), *shared)))
    sentence = f"{' '.join(said)} Earlier versions did so; remove the folders of these cells and run the study again."
    groups = [g for g in e.groups if not set(g.ids).isdisjoint(cells)]
    return Finding("mixed_precision", "caution", "Evaluated in different precisions", sentence, e.labels(groups), cells)


def facts(env: Environment) -> dict[str, str]:
    """What times, memory and the last digits of losses hang on."""
    named = {
        "device": env.device,
        "driver": env.driver,
        "threads": env.cores,
        "instructions": env.instructions,
        **dict(sorted(env.packages.items())),
    }
    return {name: str(value) for name, value in named.items() if value is not None}


def _ended(
    e: StudyAnalysis, outcome: str, groups: Sequence[Replicates] | None = None
) -> tuple[list[Replicates], tuple[str, ...], str]:
    """The conditions and cells that ended so, at the chosen rates unless said otherwise, and their share in words."""
    among = e.groups if groups is None else groups
    cells = tuple(i for g in among for i in g.ids if e.outcome(i) == outcome)
    return (
        [g for g in among if not set(g.ids).isdisjoint(cells)],
        cells,
        cells_of(len(cells), sum(len(g.ids) for g in among)),
    )


def _was(cells: Sequence[str]) -> str:
    return "was" if len(cells) == 1 else "were"
