"""where each number comes from: study, environment, data, cells"""

from __future__ import annotations

from pathlib import Path

from lorabench.record.result import CellResult
from lorabench.report.blocks import Block, Code, Facts, Grid, Section, Text
from lorabench.report.view import View

ORDER = 90
TITLE = "Provenance"
_SOURCES = 3  # named in the text; the study names all


def section(view: View) -> Section | None:
    """Everything that is needed to run the study again and to walk a number back to its cell."""
    text = (
        (view.analysis.folder / "study.yaml").read_text(encoding="utf-8")
        if (view.analysis.folder / "study.yaml").is_file()
        else ""
    )
    blocks: list[Block] = [
        *opening(view),
        *environments(view),
        fingerprints(view),
        cells(view),
        Code(text, "study.yaml"),
    ]
    return Section(TITLE, tuple(blocks))


def opening(view: View) -> tuple[Block, ...]:
    """How to run the study again; of an imported one, where its numbers came from."""
    source = view.analysis.study.imported
    if source is None:
        words = (
            "To reproduce, save the study below as study.yaml and run it. A cell's id is a hash of everything that"
            " affects its outcome."
        )
        return Text(words), Code("lorabench run study.yaml")
    return (
        Text(
            f"Imported ({source.importer}) from {', '.join(source.sources[:_SOURCES])}"
            f"{' and others' if len(source.sources) > _SOURCES else ''}: nothing was run here, and the study below"
            " cannot run. What each cell was read from stands in the list of cells, and lies beside its result as"
            " source.json."
        ),
    )


def environments(view: View) -> tuple[Facts, ...]:
    """One block for each different machine or software that cells ran on."""
    by_environment: dict[str, tuple[CellResult, list[str]]] = {}
    for cell_id, result in view.analysis.results.items():
        if result.environment:
            by_environment.setdefault(result.environment.model_dump_json(), (result, []))[1].append(cell_id)
    blocks = []
    for first, ids in by_environment.values():
        e = first.environment
        if e:
            packages = ", ".join(f"{name} {version}" for name, version in sorted(e.packages.items()))
            rows = (
                ("device", e.device),
                ("driver", e.driver),
                ("threads", e.cores),
                ("instructions", e.instructions),
                ("platform", e.platform),
                ("Python", e.python),
                ("packages", packages),
                ("commit", e.git),
                ("cells", len(ids)),
            )
            blocks.append(Facts(tuple((k, str(v)) for k, v in rows if v)))
    return tuple(blocks)


def fingerprints(view: View) -> Grid:
    """Models and data, by hash."""
    rows = dict.fromkeys(
        (g.setting.model.name, g.setting.fingerprints.model, g.setting.task.name, g.setting.fingerprints.data)
        for g in view.analysis.groups
    )
    return Grid(("model", "model's fingerprint", "task", "data's fingerprint"), tuple(rows))


def cells(view: View) -> Grid:
    """Every cell with its outcome and the reason where it did not finish."""
    rows = []
    imported = view.analysis.study.imported is not None
    tuned, chosen = bool(view.analysis.tunings), {t.condition: t.chosen for t in view.analysis.tunings}
    for group, summary in zip(view.analysis.planned, view.analysis.summaries, strict=True):
        for cell, cell_id in zip(group.cells, group.ids, strict=True):
            result = view.analysis.results.get(cell_id)
            reason = f": {result.error.message}" if result and result.error else ""
            outcome = f"{result.outcome.replace('_', ' ')}{reason}" if result else "not run yet"
            learning_rate = cell.training.fixed_learning_rate
            mark = " (chosen)" if chosen.get(group.condition) == learning_rate else ""
            shown = (f"{learning_rate:g}{mark}",) if tuned else ()
            source = (Path(result.source).name if result and result.source else "–",) if imported else ()
            seed = str(cell.seed) if group.trains else "–"
            rows.append((summary.label.text, *shown, seed, outcome, *source, cell_id))
    head = ("condition", *(("learning rate",) if tuned else ()), "seed", "outcome", *(("source",) if imported else ()))
    return Grid((*head, "cell"), tuple(rows), code=True)
