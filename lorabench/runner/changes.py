"""What has changed between two runs in one results directory: a data file, a model's file, a setting, or lorabench's
own reading.

Cells that are wanted now and were not before are held against those that were wanted before and are not now. Two that
differ in the fewest settings belong together; what they differ in is what has changed. A wanted cell without such a
partner is simply added (a new rank, a new seed), which is no news; cells that nobody asks for any more stay in cells/,
and that is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from lorabench.config.gpus import cpu_has_bfloat16
from lorabench.config.inputs import Input, Inputs, data_inputs, inputs_of, model_inputs, moved
from lorabench.config.paths import model_directory, model_label
from lorabench.config.precision import is_large, weights_dtype
from lorabench.config.study import Cell
from lorabench.errors import LorabenchError, StoreError
from lorabench.formatting import plural
from lorabench.record.plan_file import Earlier
from lorabench.record.result import CellResult
from lorabench.record.store import Store
from lorabench.runner.cell_pairs import pairs_of, settings_of

MODEL, DATA = "fingerprints.model", "fingerprints.data"
SHOWN = "the table and the report show what the study asks for now"


@dataclass(frozen=True)
class Changes:
    """What a study wants beside what was wanted when it was last run in the same folder."""

    words: tuple[str, ...] = ()
    """a sentence for each thing that changed"""
    left: tuple[str, ...] = ()
    """ids of the finished cells that are asked for no longer"""

    def earlier(self) -> tuple[Earlier, ...]:
        """What is kept of it in the plan."""
        if not self.left:
            return ()
        return (
            Earlier(
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                words="; ".join(w.removesuffix(f"; {SHOWN}") for w in self.words),
                cells=self.left,
            ),
        )


def changes(store: Store, cells: Sequence[Cell]) -> Changes:
    """What changed since the study was last run in a store; nothing where there is none, or its plan cannot be read."""
    if not store.exists():
        return Changes()
    try:
        before = store.plan()
    except StoreError:
        return Changes()
    old_ids, new_ids = {c.id for c in before}, {c.id for c in cells}
    dropped, added = [c for c in before if c.id not in new_ids], [c for c in cells if c.id not in old_ids]
    finished = {c.id for c in dropped if (store.cells_folder / c.id / "result.json").is_file()}
    if not dropped:
        return Changes()
    then = store.inputs()
    now = inputs_of(added) if then is not None else None
    groups: dict[tuple[str, ...], list[tuple[Cell, Cell]]] = defaultdict(list)
    matched = set()
    for old, new, keys in pairs_of(dropped, added):
        groups[keys].append((old, new))
        matched.add(old.id)
    day = then.day if then is not None and then.day else _day(store)
    words = [_sentence(keys, pairs, finished, then, now, day) for keys, pairs in groups.items()]
    rest = [c for c in dropped if c.id not in matched and c.id in finished]
    if rest:
        words.append(
            f"{plural(len(rest), 'finished cell')} {_is(rest)} no longer part of the study and {_stay(rest)} in"
            f" cells/; {SHOWN}"
        )
    return Changes(tuple(words), tuple(c.id for c in dropped if c.id in finished))


def other_dtypes(results: Iterable[CellResult]) -> str | None:
    """A sentence on the results of CPUs that took another dtype than this one for model.dtype: auto, or of an earlier
    version; None where there are none."""
    quick, others = cpu_has_bfloat16(), Counter[str]()
    for result in results:
        cell = result.cell
        on_cpu = result.environment is not None and result.environment.device == "cpu"
        if cell.model.dtype != "auto" or cell.imported or not on_cpu or result.resolved is None:
            continue
        if (parameters := result.value("total_parameters")) is None:
            continue
        frozen = int(parameters - (result.value("trainable_parameters") or 0.0))
        here = weights_dtype("auto", cell.method.name, "cpu", quick, partial(is_large, frozen))
        if result.resolved.dtype != here:
            others[result.resolved.dtype] += 1
    if not others:
        return None
    (dtype, count), *_ = others.most_common()
    return (
        f"{plural(count, 'cell')} of this folder had weights in {dtype}, which model.dtype: auto is not on this CPU:"
        f" what runs now is not quite comparable; model.dtype: {dtype} in another folder keeps to it"
    )


def standing_changes(store: Store) -> tuple[str, ...]:
    """What of the files that a study read is another now, for `status`: told before anything runs. Models of the hub
    are not asked for."""
    then = store.inputs()
    if then is None:
        return ()
    sentences = []
    cells = store.plan()
    for marks, part, read in ((then.models, MODEL, model_inputs), (then.data, DATA, data_inputs)):
        for mark, inputs in marks.items():
            own = [c for c in cells if getattr(c.fingerprints, part.rpartition(".")[2]) == mark]
            if not own or not inputs:
                continue
            try:
                current = read(own[0])
            except (LorabenchError, OSError):
                current = ()
            other = moved(inputs, current)
            if other:
                what = _model_words(own[0].model.name, other) if part == MODEL else _files(other)
                is_missing = not current if part == MODEL else all(not Path(i.path).exists() for i in other)
                fate = _fate(other, is_missing) if part == DATA else ("is gone" if is_missing else "has changed")
                sentences.append(
                    f"{what} {fate} since this study was run ({then.day}): the next run computes"
                    f" {plural(len(own), 'cell')} anew"
                )
    return tuple(sentences)


def _sentence(
    keys: tuple[str, ...],
    pairs: Sequence[tuple[Cell, Cell]],
    finished: set[str],
    then: Inputs | None,
    now: Inputs | None,
    day: str,
) -> str:
    """What changed for some cells, how many are new by it, and what becomes of the old ones."""
    causes, own = [], [k for k in keys if k not in (MODEL, DATA)]
    if MODEL in keys:
        causes.append(_model_change(pairs, then, now))
    if DATA in keys:
        causes.append(_data_change(pairs, then, now))
    causes += [_setting_change(k, pairs) for k in own]
    if not causes:
        causes = ["what defines a cell has changed with lorabench's version"]
    since = f" since this study was run ({day})" if DATA in keys or MODEL in keys else ""
    done = [o for o, _ in pairs if o.id in finished]
    new = f"{plural(len(pairs), 'cell')} {_is(pairs)} new"
    if not done:
        return f"{' and '.join(causes)}{since}: {new}"
    of = (
        "the old file"
        if keys in ((DATA,), (MODEL,)) and "has changed" in causes[0] and "reads" not in causes[0]
        else "what it was"
    )
    belong = "belongs" if len(done) == 1 else "belong"
    old = f"{plural(len(done), 'finished cell')} {belong} to {of} and {_stay(done)} in cells/"
    return f"{' and '.join(causes)}{since}: {old}, {new}; {SHOWN}"


def _data_change(pairs: Sequence[tuple[Cell, Cell]], then: Inputs | None, now: Inputs | None) -> str:
    old, new = pairs[0]
    before = then.data.get(old.fingerprints.data) if then else None
    after = now.data.get(new.fingerprints.data) if now else None
    if then is None or before is None or after is None:
        files = [i for i in _readable_inputs(new) if i.field.startswith("task.")]
        return f"what the task {new.task.name} reads{f' ({_files(files)})' if files else ''} has changed"
    parts = []
    here = {(i.field, i.path) for i in after}
    renamed = [
        (i, n)
        for i in moved(before, after)
        if (i.field, i.path) not in here
        for n in after
        if n.field == i.field and n not in before
    ][:1]
    parts += [f"{i.field} {_path(i.path)} -> {_path(n.path)} (other data)" for i, n in renamed]
    same_place = [i for i in moved(before, after) if (i.field, i.path) in here]
    parts += [f"{_files(same_place)} {_fate(same_place, False)}"] if same_place else []
    if parts:
        return " and ".join(parts)
    if added := moved(after, before):
        return f"{', '.join(f'{i.field} {_path(i.path)}' for i in added)} has been added"
    if left_out := moved(before, after):
        return f"{', '.join(f'{i.field} {_path(i.path)}' for i in left_out)} has been left out"
    from lorabench import __version__

    by = f" ({then.version} then, {__version__} now)" if then.version != __version__ else ""
    unmoved = " while its files are the same" if before else ""
    return f"how lorabench reads the task {new.task.name} has changed{by}{unmoved}"


def _model_change(pairs: Sequence[tuple[Cell, Cell]], then: Inputs | None, now: Inputs | None) -> str:
    old, new = pairs[0]
    if old.model.name != new.model.name:
        names = dict.fromkeys((model_label(o.model.name), model_label(n.model.name)) for o, n in pairs)
        return ", ".join(f"model {a} -> {b}" for a, b in names)
    if model_directory(new.model.name) is None:
        a, b = (c.fingerprints.model.rpartition("@")[2][:12] for c in (old, new))
        return f"the revision of {new.model.name} has moved ({a} -> {b}; pin one with model.revision)"
    before = then.models.get(old.fingerprints.model) if then else None
    after = now.models.get(new.fingerprints.model) if now else None
    other = (*moved(before, after), *moved(after, before)) if before and after else ()
    return f"{_model_words(new.model.name, other)} has changed"


def _model_words(name: str, other: Sequence[Input]) -> str:
    kinds: dict[str, list[str]] = defaultdict(list)
    for i in other:
        if i.path not in kinds[i.field]:
            kinds[i.field].append(i.path)
    files = "; ".join(
        f"{kind}: {', '.join(paths[:3])}{' ...' if len(paths) > 3 else ''}" for kind, paths in kinds.items()
    )
    return f"the model {_path(name) if Path(name).is_absolute() else name}{f' ({files})' if files else ''}"


def _setting_change(key: str, pairs: Sequence[tuple[Cell, Cell]]) -> str:
    """ "training.steps 200 -> 400" """
    if key == "training.learning_rate is tuned":
        return "training.learning_rate is " + (
            "chosen from a grid now" if pairs[0][1].tuned_over else "no longer chosen from a grid"
        )
    values = dict.fromkeys((_short(settings_of(o).get(key)), _short(settings_of(n).get(key))) for o, n in pairs)
    olds, news = (list(dict.fromkeys(side)) for side in zip(*values, strict=True))
    return f"{key} {', '.join(olds[:6])} -> {', '.join(news[:6])}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fate(inputs: Sequence[Input], is_missing: bool) -> str:
    several = len({i.path for i in inputs}) > 1
    return (
        ("are" if several else "is") + " no longer there" if is_missing else ("have" if several else "has") + " changed"
    )


def _files(inputs: Iterable[Input]) -> str:
    return ", ".join(dict.fromkeys(_path(i.path) for i in inputs))


def _path(path: str) -> str:
    """As the user would type it: relative where it lies below the working directory."""
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _readable_inputs(cell: Cell) -> tuple[Input, ...]:
    try:
        return data_inputs(cell)
    except (LorabenchError, OSError):
        return ()


def _day(store: Store) -> str:
    return datetime.fromtimestamp((store.folder / "plan.json").stat().st_mtime, UTC).date().isoformat()


def _is(items: Sequence[object]) -> str:
    return "is" if len(items) == 1 else "are"


def _stay(items: Sequence[object]) -> str:
    return "stays" if len(items) == 1 else "stay"
